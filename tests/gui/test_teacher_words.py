"""What a teacher's card says of it, and which addresses are taken for one."""

from __future__ import annotations

import pytest

from kdstudio.models.spec import TeacherSpec
from kdstudio.project.teachers import StoredTeacher
from kdstudio.ui.widgets.teacher_endpoint import url_fault
from kdstudio.ui.widgets.teacher_words import abilities_of, facts_of


def stored(kind: str, **capabilities: object) -> StoredTeacher:
    spec = TeacherSpec("N", kind, path="/x", url="http://h/v1", model="m")  # type: ignore[arg-type]
    return StoredTeacher(spec, dict(capabilities), "")


def test_abilities_in_words() -> None:
    assert [one.mark for one in abilities_of(stored("openai"))][:3] == ["good", "idle", "idle"]
    assert abilities_of(stored("gguf", chat_template=False))[0].words.endswith("no chat template")
    obstacle = abilities_of(stored("gguf", student_obstacle="It is a mixture of experts."))[-2]
    assert (obstacle.mark, obstacle.more) == ("idle", "It is a mixture of experts.")
    folder = [one.words for one in abilities_of(stored("huggingface"))]
    assert "Features: hidden states, attention" in folder
    for kind in ("openai", "anthropic", "gguf", "huggingface", "scripted"):
        found = abilities_of(stored(kind))
        assert all(one.more or one.mark == "good" for one in found)  # each no says why
        assert "erms" in found[-1].words
    tested = [
        one.words for one in abilities_of(stored("openai", answer_log_probs=True, images=False, json_schema=True))
    ]
    assert "No images: it reads text" in tested
    assert "Log-probs of its answers, if it sends them" in tested
    known = facts_of(stored("gguf", parameters=134_515_008, quantization="Q4_1", bytes=98_362_432, context_tokens=8192))
    assert known == "134.5M parameters · Q4_1 · 98 MB · context 8\u202f192"


@pytest.mark.parametrize(
    ("url", "fine"),
    [("http://a/v1", True), ("ftp://a", False), ("a:80", False), ("https://", False), ("http://[", False)],
)
def test_addresses(url: str, fine: bool) -> None:
    assert (url_fault(url) == "") == fine
