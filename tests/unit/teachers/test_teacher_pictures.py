"""A run's pictures on their way to teachers that see: out of the project, in each API's own form."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from kdstudio.models.pictures import keep
from kdstudio.models.spec import TeacherKind, TeacherSpec
from kdstudio.teachers.base import Completion, Request
from kdstudio.teachers.ledger import NoLedger
from kdstudio.teachers.opening import open_teacher
from tests.anthropic_loopback import AnthropicLoopback
from tests.loopback import Loopback

PNG = b"\x89PNG\r\n\x1a\n and more"
TEXT = base64.b64encode(PNG).decode()
SERVERS: dict[TeacherKind, type[Loopback]] = {"openai": Loopback, "anthropic": AnthropicLoopback}
SENT: dict[TeacherKind, dict[str, Any]] = {
    "openai": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{TEXT}"}},
    "anthropic": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": TEXT}},
}


def ask(kind: TeacherKind, url: str, folder: Path | None, address: str, **options: Any) -> Completion:
    ledger = NoLedger()
    ledger.project_folder = folder
    teacher = open_teacher(TeacherSpec("api", kind, url=url, model="tiny", options=options), {}, ledger=ledger)
    parts = [{"type": "text", "text": "what is it?"}, {"type": "image", "image": address}]
    return next(iter(teacher.generate([Request("0", ({"role": "user", "content": parts},))])))


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_kept_picture_is_sent_as_the_api_wants_it(kind: TeacherKind, tmp_path: Path) -> None:
    with SERVERS[kind](answer=lambda prompt: "a cat") as server:
        assert ask(kind, server.url, tmp_path, keep(tmp_path, PNG)).text == "a cat"
        assert server.asked[0].body["messages"][0]["content"] == [{"type": "text", "text": "what is it?"}, SENT[kind]]


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_what_cannot_be_shown_fails_in_words_and_is_not_sent(kind: TeacherKind, tmp_path: Path) -> None:
    with SERVERS[kind]() as server:
        kept = keep(tmp_path, PNG)
        gone = ask(kind, server.url, None, kept)
        blind = ask(kind, server.url, tmp_path, kept, images=False)
        path = ask(kind, server.url, tmp_path, "cat.png")
        assert [item.finish_reason for item in (gone, blind, path)] == ["error"] * 3
        assert "not in the project" in gone.error
        assert "does not see" in blind.error
        assert "cannot be read" in path.error
        assert server.asked == []
