"""What can be known of a teacher's presence before anything is asked of it."""

from __future__ import annotations

from pathlib import Path

from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.presence import absence
from tests.loopback import Loopback, closed_port


def test_a_file_or_folder_is_there_or_not(tmp_path: Path) -> None:
    assert absence(TeacherSpec("t", "huggingface", path=str(tmp_path)), {}) == ""
    gone = tmp_path / "gone.gguf"
    assert absence(TeacherSpec("t", "gguf", path=str(gone)), {}) == f"there is no {gone}"
    assert absence(TeacherSpec("t", "scripted"), {}) == ""


def test_a_server_on_this_machine_runs_or_not_and_is_asked_nothing() -> None:
    with Loopback() as server:
        assert absence(TeacherSpec("t", "openai", url=server.url, key_name="k"), {}) == ""
        assert server.asked == []
    url = f"http://127.0.0.1:{closed_port()}/v1"
    assert absence(TeacherSpec("t", "openai", url=url), {}) == f"no server runs at {url}"


def test_one_elsewhere_needs_its_key() -> None:
    spec = TeacherSpec("t", "anthropic", url="https://teacher.invalid/v1", key_name="k")
    assert absence(spec, {"k": "sk-1"}) == ""
    assert absence(spec, {}) == "its key 'k' is not known"
