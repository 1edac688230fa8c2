"""`kdstudio train` on rows with restricted terms: refused without a reason, which is then kept; free ones as ever."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdstudio.cli.terms_words import asked_reason
from kdstudio.errors import BadInput
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import NewPrompt, NewResponse, Project
from kdstudio.recipe import TrainingRecipe, validate_recipe

TABLES: dict[str, Any] = {
    "recipe": {"id": "tiny", "title": "Tiny"},
    "student": {"source": "fresh"},
    "objective": [{"name": "supervised"}],
}
TEXT = """
version = 1
[recipe]
id = "tiny"
title = "Tiny"
[student]
source = "fresh"
[[objective]]
name = "supervised"
"""


def project_with(folder: Path, terms: str) -> Path:
    with Project.create(folder) as project:
        project.teachers.add(TeacherSpec("gpt", "openai", url="https://api.openai.com/v1", model="gpt"))
        project.rows.add_prompts([NewPrompt([{"role": "user", "content": "hello"}])])
        project.rows.add_responses([NewResponse(1, "hi", teacher="gpt", status="accepted", terms=terms)])
        return project.folder


def test_free_terms_add_nothing_to_the_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Project.open(project_with(tmp_path / "free", "apache-2.0")) as project:
        assert asked_reason(project, validate_recipe(TABLES, TrainingRecipe), {"teacher": {}}, "") == {}
    assert capsys.readouterr().err == ""


def test_restricted_terms_are_said_and_the_reason_goes_into_the_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Project.open(project_with(tmp_path / "bound", "")) as project:
        recipe = validate_recipe(TABLES, TrainingRecipe)
        with pytest.raises(BadInput) as caught:
            asked_reason(project, recipe, {"teacher": {}}, "")
        assert "--reason TEXT" in caught.value.hint
        kept = asked_reason(project, recipe, {"teacher": {}}, "research only")
    assert kept == {"terms_reason": "research only", "restricted_terms": ["openai"]}
    assert "OpenAI’s terms: 1 row by gpt" in capsys.readouterr().err


def test_the_command_line_refuses_without_a_reason(tmp_path: Path) -> None:
    folder = project_with(tmp_path / "bound", "openai")
    (tmp_path / "r.toml").write_text(TEXT)
    command = [sys.executable, "-m", "kdstudio", "train", str(folder), str(tmp_path / "r.toml"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    error = json.loads(done.stdout.splitlines()[-1])["error"]
    assert error["title"] == "These rows have terms of use"
    assert "--reason" in error["hint"]
    with Project.open(folder, read_only=True) as project:
        assert project.runs.list() == []
