"""The rows and steps of a comparison against the trainer's own."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from kdstudio.distillation.batches import BatchPlan
from kdstudio.distillation.examples import SourceRow, encode_rows
from kdstudio.distillation.planning import planned_steps
from kdstudio.distillation.rows import TrainingRows, split_rows
from kdstudio.errors import BadInput
from kdstudio.evaluation.fair_budget import HELD_OUT_TAG, Budget, pinned, rows_text
from kdstudio.recipe import TrainingRecipe, validate_recipe
from kdstudio.students.save import open_tokenizer
from tests.tiny import tiny_model
from tests.unit.distillation.setting import make_project, recipe, source_rows, teacher


def typed(**tables: Any) -> TrainingRecipe:
    return validate_recipe(recipe(**tables), TrainingRecipe)


DRAWN = {"held_out_tag": "", "held_out": 0.25}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def frozen(project: Path, chosen: TrainingRecipe) -> Path:
    folder = project / "comparisons" / "one"
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text(rows_text(project, chosen, teacher()))
    return folder


def trained_on(folder: Path, chosen: TrainingRecipe, seed: int) -> TrainingRows:
    """The rows as a run with that seed divides them."""
    lines = (folder / "rows.jsonl").read_text().splitlines()
    sources = [
        SourceRow(**{**row, "messages": tuple(row["messages"]), "tags": tuple(row["tags"])})
        for row in map(json.loads, lines)
    ]
    examples, _ = encode_rows(open_tokenizer(tiny_model(layers=4)), sources, 512)
    return split_rows(examples, chosen.data, seed)


def held_out(rows: TrainingRows) -> list[int]:
    return [rows.examples[row].response_id for row in rows.held_out]


def test_the_split_does_not_change_with_the_seed(project: Path) -> None:
    chosen = typed(data=DRAWN)
    folder = frozen(project, chosen)
    held = [held_out(trained_on(folder, pinned(chosen), seed)) for seed in range(4)]
    assert len(held[0]) == 5
    assert held == [held[0]] * 4
    assert held_out(trained_on(folder, chosen, 0)) == held[0]
    assert held_out(trained_on(folder, chosen, 1)) != held[0]


def test_only_held_out_rows_are_tagged_and_nothing_else_changes(project: Path) -> None:
    rows = [json.loads(line) for line in rows_text(project, typed(data=DRAWN), teacher()).splitlines()]
    assert sum(HELD_OUT_TAG in row["tags"] for row in rows) == 5
    expected = source_rows(20)
    assert [row["text"] for row in rows] == [row.text for row in expected]
    assert [[tag for tag in row["tags"] if tag != HELD_OUT_TAG] for row in rows] == [list(row.tags) for row in expected]


def test_a_tag_of_the_recipe_stays(project: Path) -> None:
    assert HELD_OUT_TAG not in rows_text(project, typed(), teacher())
    assert pinned(typed()).data.held_out_tag == "held"


def test_without_held_out_rows_there_is_nothing_to_compare(project: Path) -> None:
    with pytest.raises(BadInput, match="Nothing is held out"):
        rows_text(project, typed(data={"held_out_tag": "", "held_out": 0.0}), teacher())


def test_without_a_local_model_the_student_has_no_source(project: Path) -> None:
    with pytest.raises(BadInput, match="no source"):
        rows_text(project, typed(), {"name": "far", "kind": "openai"})


def steps_of(rows: TrainingRows, chosen: TrainingRecipe, seed: int) -> list[int]:
    """Tokens of each step as the trainer takes them."""
    run = chosen.run
    plan = BatchPlan(
        [rows.tokens(unit) for unit in rows.units],
        rows_per_batch=run.rows_per_batch,
        accumulation=run.accumulation,
        seed=seed,
    )
    return [rows.tokens(list(itertools.chain(*plan.step(step)))) for step in range(60)]


@pytest.mark.parametrize("seed", [0, 1, 5])
@pytest.mark.parametrize(
    "run", [{"rows_per_batch": 4}, {"rows_per_batch": 3}, {"rows_per_batch": 2, "accumulation": 4}]
)
def test_tokens_are_equal_within_half_of_a_step(project: Path, run: dict[str, int], seed: int) -> None:
    chosen = pinned(typed(data=DRAWN, run={**run, "steps": 10}))
    folder = frozen(project, typed(data=DRAWN))
    budget = Budget(folder, project, chosen, teacher())
    steps = steps_of(trained_on(folder, chosen, seed), chosen, seed)
    for tokens in (500, 1500, 3000):
        plan = budget.plan(chosen, seed, tokens)
        totals = list(itertools.accumulate(steps))
        assert plan.tokens == totals[plan.steps - 1]
        assert abs(plan.tokens - tokens) == min(abs(total - tokens) for total in totals)
        assert plan.largest == max(steps[: plan.steps])


def test_a_recipes_own_tokens_are_those_of_its_steps_or_epochs(project: Path) -> None:
    folder = frozen(project, typed(data=DRAWN))
    whole = trained_on(folder, pinned(typed(data=DRAWN)), 0)
    epochs = pinned(typed(data=DRAWN, run={"steps": 0, "epochs": 2.0}))
    budget = Budget(folder, project, epochs, teacher())
    assert budget.own(epochs) == 2 * whole.tokens(list(whole.training))
    four = pinned(typed(data=DRAWN))
    assert planned_steps(four, 15) == 4
    assert budget.own(four) == sum(steps_of(whole, four, 0)[:4])


def test_a_budget_below_one_step_is_one_step(project: Path) -> None:
    chosen = pinned(typed(data=DRAWN))
    budget = Budget(frozen(project, typed(data=DRAWN)), project, chosen, teacher())
    assert budget.plan(chosen, 0, 1).steps == 1


def test_own_answers_are_expected_to_be_as_long_as_the_stored_ones(project: Path) -> None:
    folder = frozen(project, typed(data=DRAWN))
    stored = pinned(typed(data=DRAWN))
    budget = Budget(folder, project, stored, teacher())
    twice = pinned(typed(data=DRAWN, rollout={"share": 1.0, "samples": 2, "max_tokens": 64}))
    assert budget.own(twice) == 2 * budget.own(stored)
