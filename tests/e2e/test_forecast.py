"""`kdstudio elicit --forecast N` and `--ceiling`: a few rows are asked, all are foretold, and the answers are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdstudio.models.spec import TeacherSpec
from tests.e2e.test_command_line import kdstudio
from tests.support.paid_runs import paid_teacher
from tests.support.paid_server import PaidServer
from tests.unit.elicitation.runs import new_project


def with_teacher(folder: Path, teacher: TeacherSpec, prompts: int) -> Path:
    with new_project(folder, [f"p{number} " + "word " * (number % 7) for number in range(prompts)]) as project:
        project.teachers.add(teacher)
        return project.folder


@pytest.mark.slow
def test_a_forecast_holds_what_the_run_then_costs(tmp_path: Path) -> None:
    with PaidServer(tmp_path / "server.jsonl") as server:
        place = with_teacher(tmp_path, paid_teacher(server.url, requests_at_once=16), 60)
        found = kdstudio("elicit", place, "--forecast", 12)[-1]
        assert (found["event"], found["rows"], found["sample"]) == ("forecast", 60, 12)
        result = kdstudio("elicit", place, "--ceiling", 1)[-1]
        billed = sum(entry["cost"] for entry in server.entries())
        assert len(server.entries()) == 60
        assert (result["rows"], result["left"]) == (48, 0)
        assert found["low"] <= billed <= found["high"]
        assert "60 rows: $0." in found["text"]


def test_a_teacher_without_a_price_has_no_forecast_but_its_answers(tmp_path: Path) -> None:
    with PaidServer(tmp_path / "server.jsonl") as server:
        place = with_teacher(tmp_path, TeacherSpec("api", "openai", url=server.url, model="tiny"), 4)
        error = kdstudio("elicit", place, "--forecast", 2, code=2)[-1]["error"]
        assert "costs is not known" in error["title"]
        assert len(server.entries()) == 2
