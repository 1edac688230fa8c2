"""Adding an Anthropic teacher in a terminal, and testing its connection."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kdstudio.cli.project_verbs import teacher_add
from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.child import Job
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.teachers import probe
from tests.anthropic_loopback import AnthropicLoopback


def probed(folder: Path, spec: TeacherSpec) -> dict[str, Any]:
    run_files.write_job(folder, run_files.JobFile("probe", {"teacher": asdict(spec)}))
    job = Job(folder, {})
    try:
        return probe.run(job)
    finally:
        job._journal.close()


def test_a_connection_is_tested_as_any_endpoints(tmp_path: Path) -> None:
    with AnthropicLoopback(models=("tiny", "large")) as server:
        result = probed(tmp_path / "a", TeacherSpec("api", "anthropic", url=server.url, model="tiny"))
        assert result["text"].startswith("This is the answer to Say hello")
        assert (result["models"], result["price"], result["cost"]) == (["tiny", "large"], [0, 0], 0.0)
        assert (result["capabilities"]["images"], result["capabilities"]["answer_log_probs"]) == (True, False)
        with pytest.raises(KnownError, match="no such model") as caught:
            probed(tmp_path / "b", TeacherSpec("api", "anthropic", url=server.url, model="huge"))
    assert "huge" in caught.value.detail


@pytest.mark.parametrize(
    ("url", "kind", "found"),
    [
        ("https://api.anthropic.com", "", "anthropic"),
        ("http://localhost:4000", "anthropic", "anthropic"),
        ("https://api.anthropic.com/v1", "openai", "openai"),  # its OpenAI-compatible layer
        ("http://localhost:11434/v1", "", "openai"),
    ],
)
def test_whose_api_it_is_is_told_by_the_flag_or_the_url(tmp_path: Path, url: str, kind: str, found: str) -> None:
    Project.create(tmp_path / "p.kdstudio").close()
    teacher_add(tmp_path / "p.kdstudio", "api", url=url, model="m", kind=kind)
    with Project.open(tmp_path / "p.kdstudio") as project:
        assert project.teachers.get("api").spec.kind == found


def test_a_kind_that_is_none_and_a_url_that_is_none_are_refused(tmp_path: Path) -> None:
    Project.create(tmp_path / "p.kdstudio").close()
    for url, kind, words in (("https://x.org", "gemini", "Unknown kind"), ("x.org", "anthropic", "not a URL")):
        with pytest.raises(BadInput, match=words):
            teacher_add(tmp_path / "p.kdstudio", "api", url=url, model="m", kind=kind)
