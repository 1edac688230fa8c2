"""Rows keep the terms they were made under; a run on restricted ones asks for a reason and keeps it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kdstudio.errors import BadInput
from kdstudio.jobs.events import Line, Row
from kdstudio.models.spec import TeacherSpec
from kdstudio.models.terms_summary import REASON, RESTRICTED_NAMES
from kdstudio.project import NewPreference, NewPrompt, NewResponse, Project
from kdstudio.project.database import DATABASE_NAME, connect
from kdstudio.project.row_terms import recorded_terms, terms_of_rows, terms_of_training
from kdstudio.recipe import TrainingRecipe, recipe_hash, validate_recipe
from tests.unit.project.test_migrations import first_schema

SMOL = TeacherSpec("smol", "gguf", path="smol.gguf")
GPT = TeacherSpec("gpt", "openai", url="https://api.openai.com/v1", model="gpt")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project.create(tmp_path / "p") as made:
        made.teachers.add(SMOL, {"license": "apache-2.0"})
        made.teachers.add(GPT)
        made.rows.add_prompts([NewPrompt([{"role": "user", "content": f"row {n}"}]) for n in range(1, 9)])
        yield made


def answers(teacher: str, prompts: range, terms: str = "", **more: Any) -> list[NewResponse]:
    return [
        NewResponse(number, f"{teacher} {number}", teacher=teacher, status="accepted", terms=terms, **more)
        for number in prompts
    ]


def recipe(objective: str = "supervised") -> TrainingRecipe:
    tables: dict[str, Any] = {
        "recipe": {"id": "tiny", "title": "Tiny"},
        "student": {"source": "fresh"} if objective == "supervised" else {},
        "objective": [{"name": objective}],
    }
    return validate_recipe(tables, TrainingRecipe)


def test_a_row_that_a_journal_brings_keeps_its_terms(project: Project) -> None:
    run = project.runs.add("elicit", "ask", {})
    rows = [
        Row("response", {"prompt_id": 1, "text": "hello", "teacher": "gpt", "terms": "openai"}),
        Row("prompt", {"messages": [{"role": "user", "content": "new"}], "terms": "gemma"}),
        Row("preference", {"prompt_id": 1, "candidates": ["a", "b"], "scores": [1, 0], "terms": "gemma + openai"}),
        Row("response", {"prompt_id": 2, "text": "without"}),
    ]
    project.runs.ingest(run, [Line(seq, "", row) for seq, row in enumerate(rows, 1)])
    assert project.rows.response(1).terms == "openai"
    assert project.rows.prompt(9).terms == "gemma"
    assert project.rows.preference(1).terms == "gemma + openai"
    assert project.rows.response(2).terms == ""
    project.rows.edit_text("response", 1, "hello there")
    assert project.rows.response(1).terms == "openai"


def test_what_a_run_learns_from_is_counted_by_terms(project: Project) -> None:
    project.rows.add_responses(answers("smol", range(1, 5), "apache-2.0"))
    project.rows.add_responses(answers("gpt", range(5, 7), "openai"))
    project.rows.add_responses(answers("", range(7, 8), source="answers.jsonl"))
    project.rows.add_responses([NewResponse(8, "waiting", teacher="gpt", terms="openai")])
    summary = terms_of_rows(project)
    assert [(use.stamp, use.rows) for use in summary.uses] == [("apache-2.0", 4), ("openai", 2), ("", 1)]
    assert [use.teachers for use in summary.restricted] == [("gpt",)]
    assert [use.rows for use in terms_of_rows(project, status="any").restricted] == [3]
    project.rows.set_status("response", [5, 6], "rejected", "no")
    assert not terms_of_rows(project).restricted
    assert [use.rows for use in terms_of_rows(project, ids=[5]).restricted] == [1]


def test_rows_from_before_stamps_count_under_what_their_teacher_states(project: Project) -> None:
    project.rows.add_responses(answers("gpt", range(1, 3)) + answers("gone", range(3, 4)))
    assert [(use.stamp, use.rows) for use in terms_of_rows(project).uses] == [("openai", 2), ("", 1)]


def test_prompts_and_preferences_that_a_teacher_wrote_count_too(project: Project) -> None:
    project.rows.add_prompts([NewPrompt([{"role": "user", "content": "written"}], terms="gemma")])
    project.rows.add_responses(answers("smol", range(9, 10), "apache-2.0"))
    assert [use.stamp for use in terms_of_rows(project).restricted] == ["gemma"]
    project.rows.add_preferences([NewPreference(1, ["a", "b"], [1.0, 0.0], status="accepted", terms="openai")])
    assert [use.stamp for use in terms_of_rows(project, kind="preference").uses] == ["openai"]
    assert [use.stamp for use in terms_of_training(project, recipe("dpo"), {}).uses] == ["openai"]


def test_a_teacher_whose_signal_takes_part_counts_without_a_row(project: Project) -> None:
    project.teachers.set_terms("smol", "gemma")
    summary = terms_of_training(project, recipe("forward_kl"), asdict(SMOL))
    assert [(use.stamp, use.rows, use.teachers) for use in summary.restricted] == [("gemma", 0, ("smol",))]


def test_a_person_corrects_a_teachers_terms(project: Project) -> None:
    assert project.teachers.get("gpt").terms == "openai"
    project.teachers.set_terms("gpt", " free:  agreed in\nwriting ")
    assert project.teachers.get("gpt").terms == "free: agreed in writing"
    assert project.teachers.get("gpt").spec.url == GPT.url
    project.teachers.set_terms("gpt", "")
    assert project.teachers.get("gpt").spec == GPT
    with pytest.raises(BadInput, match="too long"):
        project.teachers.set_terms("gpt", "x" * 201)
    with pytest.raises(BadInput, match="Unknown teacher"):
        project.teachers.set_terms("nobody", "mit")


def test_free_terms_change_nothing_of_a_run(project: Project) -> None:
    project.rows.add_responses(answers("smol", range(1, 5), "apache-2.0"))
    summary = terms_of_training(project, recipe(), {})
    assert recorded_terms(project, {"recipe_hash": "h"}, summary, "") == {}
    assert recorded_terms(project, {"recipe_hash": "h"}, summary, "why not") == {}


def test_a_reason_is_asked_recorded_and_stands_until_the_run_is_done(project: Project) -> None:
    project.rows.add_responses(answers("gpt", range(1, 5), "openai"))
    chosen = recipe()
    parameters = {"recipe_hash": recipe_hash(chosen)}
    summary = terms_of_training(project, chosen, {})
    with pytest.raises(BadInput, match="terms of use"):
        recorded_terms(project, parameters, summary, "")
    kept = recorded_terms(project, parameters, summary, "an experiment")
    run = project.runs.add("train", "t", {**parameters, **kept})
    assert recorded_terms(project, parameters, summary, "") == kept
    assert kept == {REASON: "an experiment", RESTRICTED_NAMES: ["openai"]}
    with pytest.raises(BadInput):
        recorded_terms(project, {"recipe_hash": "another"}, summary, "")
    project.runs.set_state(run, "finished")
    with pytest.raises(BadInput):
        recorded_terms(project, parameters, summary, "")


def test_an_older_project_gets_the_column_and_a_backup(tmp_path: Path) -> None:
    folder = first_schema(tmp_path / "old.kdstudio", 3)
    with Project.open(folder) as opened:
        assert opened.rows.prompt(1).terms == ""
        opened.rows.add_responses(answers("gpt", range(1, 2), "openai"))
        assert opened.rows.response(1).terms == "openai"
    assert [path.name[:10] for path in (folder / "backups").iterdir()] == ["project-v1"]
    with contextlib.closing(connect(folder / DATABASE_NAME)) as connection:
        assert connection.execute("SELECT count(*) FROM prompts").fetchone()[0] == 3
