"""A picture imported beside its row is shown to a hosted teacher in a real run, and one without eyes says so."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from kdstudio.errors import KnownError
from kdstudio.models.spec import TeacherKind, TeacherSpec
from kdstudio.project import Project
from kdstudio.project.exchange import import_file
from tests.anthropic_loopback import AnthropicLoopback
from tests.loopback import Loopback
from tests.tiny import tiny_model
from tests.unit.elicitation.runs import attempt, new_run, rows

PNG = b"\x89PNG\r\n\x1a\n and more"


def project_with_picture(folder: Path) -> Project:
    (folder / "cat.png").write_bytes(PNG)
    said = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]
    (folder / "rows.jsonl").write_text(json.dumps({"conversations": said, "images": ["cat.png"]}))
    project = Project.create(folder / "p")
    import_file(project, folder / "rows.jsonl", kind="prompt")
    (folder / "cat.png").unlink()  # the project has its own
    return project


@pytest.mark.parametrize(("kind", "server"), [("openai", Loopback()), ("anthropic", AnthropicLoopback())])
def test_an_imported_picture_reaches_the_teacher(kind: TeacherKind, server: Loopback, tmp_path: Path) -> None:
    with server, project_with_picture(tmp_path) as project:
        server.answer = lambda prompt: "a cat"
        run = new_run(project, teacher=TeacherSpec("api", kind, url=server.url, model="tiny"))
        attempt(run)
    assert [row["text"] for row in rows(run)] == ["a cat"]
    assert base64.b64encode(PNG).decode() in json.dumps(server.asked[0].body)
    assert base64.b64encode(PNG).decode() not in (run / "events.jsonl").read_text("utf-8")


def test_a_local_teacher_says_that_it_reads_text_only(tmp_path: Path) -> None:
    with project_with_picture(tmp_path) as project:
        run = new_run(project, teacher=TeacherSpec("tiny", "gguf", path=str(tiny_model())))
        with pytest.raises(KnownError, match="answered nothing") as caught:
            attempt(run)
    assert rows(run) == []
    assert "This model reads text only" in caught.value.detail
