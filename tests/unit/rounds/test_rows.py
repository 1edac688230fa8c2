"""Which rows are held out from all rounds, and which a round trains on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from kdstudio.distillation import frozen_rows
from kdstudio.distillation.examples import SourceRow
from kdstudio.errors import BadInput
from kdstudio.project import NewPrompt, Project
from kdstudio.project.content import NewPreference, NewResponse
from kdstudio.recipe import RoundsRecipe, TrainingRecipe, validate_recipe
from kdstudio.rounds.rows import HELD_OUT_TAG, ROWS_NAME, held_out_rows, training_rows

TRAINING = TrainingRecipe()


def recipe(**tables: Any) -> RoundsRecipe:
    header = {"id": "r", "title": "R"}
    return validate_recipe({"version": 1, "recipe": header, "elicit": {"recipe": "answer"}, **tables}, RoundsRecipe)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Ten prompts with references; the first six have an accepted response, all have one of the run `r1`."""
    made = Project.create(tmp_path / "p")
    made.rows.add_prompts(
        NewPrompt([{"role": "user", "content": f"q{n}"}], reference=f"{n}", tags=("exam",) if n < 3 else ())
        for n in range(10)
    )
    made.rows.add_responses(NewResponse(n + 1, f"accepted {n}", status="accepted") for n in range(6))
    made.rows.add_responses(
        NewResponse(n + 1, f"own {n}", run="r1", key=str(n), extras={"score": float(n)}) for n in range(10)
    )
    made.rows.add_preferences(
        NewPreference(n + 1, ["good", "bad" if n else "good "], [1.0, 0.0 if n != 1 else 1.0], run="r1")
        for n in range(3)
    )
    return made


def test_the_draw_is_of_accepted_responses_and_stays_the_same(project: Project) -> None:
    table = recipe(measure={"held_out": 0.5})
    rows = held_out_rows(project, table, TRAINING, 0)
    assert rows == held_out_rows(project, table, TRAINING, 0)
    assert len(rows) == 3
    assert all(row["text"].startswith("accepted") and HELD_OUT_TAG in row["tags"] for row in rows)
    seeds = {tuple(row["prompt_id"] for row in held_out_rows(project, table, TRAINING, seed)) for seed in range(8)}
    assert len(seeds) > 1


def test_references_stand_in_where_answers_are_checked(project: Project) -> None:
    rows = held_out_rows(
        project, recipe(stop={"figure": "accuracy"}, measure={"held_out": 0.5, "maximum_rows": 4}), TRAINING, 0
    )
    assert len(rows) == 4
    every = held_out_rows(project, recipe(stop={"figure": "accuracy"}, measure={"held_out_tag": "exam"}), TRAINING, 0)
    assert [row["prompt_id"] for row in every] == [1, 2, 3]
    assert all(row["reference"] for row in every)


def test_nothing_to_measure_on_is_said(project: Project, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="tag 'no'"):
        held_out_rows(project, recipe(measure={"held_out_tag": "no"}), TRAINING, 0)
    empty = Project.create(tmp_path / "empty")
    with pytest.raises(BadInput, match="accepted response"):
        held_out_rows(empty, recipe(), TRAINING, 0)


def texts(project: Project, table: RoundsRecipe, held_out: set[int], *, preferences: bool = False) -> list[str]:
    rows = training_rows(project, table, TRAINING, {"r1"}, held_out, preferences=preferences)
    fields = {field.name for field in dataclasses.fields(SourceRow)}
    assert all(set(row) <= fields for row in rows)
    return [row["text"] for row in rows]


def test_a_round_trains_on_what_passed_and_nothing_held_out(project: Project) -> None:
    project.rows.set_status("response", [7], "rejected")
    assert texts(project, recipe(), {2, 3}) == [f"own {n}" for n in range(3, 10)]
    assert texts(project, recipe(accept={"column": "score", "minimum": 8}), {2, 3}) == ["own 8", "own 9"]
    assert not texts(project, recipe(accept={"column": "nowhere"}), set())
    both = texts(project, recipe(train={"with_accepted": True}), set(range(1, 6)))
    assert both == ["accepted 5", *(f"own {n}" for n in range(5, 10))]


def test_preferences_that_tell_nothing_are_left_out(project: Project) -> None:
    assert texts(project, recipe(), set(), preferences=True) == ["good", "good ", "good", "bad"]
    assert texts(project, recipe(), {1}, preferences=True) == ["good", "bad"]


def test_the_rows_lie_where_a_training_run_looks_for_them() -> None:
    assert ROWS_NAME == frozen_rows.ROWS_NAME
