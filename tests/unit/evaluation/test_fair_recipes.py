"""What makes recipes comparable: what is filled in, what is refused, and the baseline."""

from __future__ import annotations

from typing import Any

import pytest

from kdstudio.errors import BadInput
from kdstudio.evaluation.fair_recipes import (
    BASELINE,
    Entry,
    baseline_of,
    differences,
    fair_entries,
    is_supervised,
    work_of,
)
from kdstudio.recipe import TrainingRecipe, parse_recipe

FIRST = """
version = 1
[recipe]
id = "first"
title = "First"
[student]
layer_count = 2
[data]
held_out = 0.2
[teacher]
name = "tiny"
signals = "dense"
[optimizer]
learning_rate = 3e-3
[run]
steps = 20
rows_per_batch = 4
"""


def parsed(text: str = FIRST, **changes: str) -> TrainingRecipe:
    for old, new in changes.items():
        text = text.replace(old, new)
    return parse_recipe(text, TrainingRecipe)


def second(tables: str = "", title: str = "Second") -> TrainingRecipe:
    return parse_recipe(f'version = 1\n[recipe]\nid = "second"\ntitle = "{title}"\n{tables}', TrainingRecipe)


def entries(*recipes: TrainingRecipe, teachers: dict[str, dict[str, Any]] | None = None) -> list[Entry]:
    known = teachers or {"": {}, "tiny": {"name": "tiny"}, "big": {"name": "big"}}
    return fair_entries(recipes, lambda recipe: known[recipe.teacher.name])


def test_what_a_recipe_leaves_unsaid_is_as_in_the_first() -> None:
    own = second('[[objective]]\nname = "reverse_kl"\n[optimizer]\nweight_decay = 0.1\n')
    first, other, _ = entries(parsed(), own)
    assert other.recipe.optimizer.learning_rate == 3e-3
    assert other.recipe.optimizer.weight_decay == 0.1
    assert other.recipe.teacher == first.recipe.teacher
    assert other.recipe.data.held_out == 0.2
    assert (other.recipe.run.steps, other.recipe.run.rows_per_batch) == (20, 4)
    found = differences(other.recipe.model_dump(mode="json"), first.recipe.model_dump(mode="json"))
    assert set(found) == {"objective", "optimizer.weight_decay"}
    assert found["optimizer.weight_decay"] == 0.1


def test_epochs_that_a_recipe_names_are_not_hidden_by_the_steps_of_the_first() -> None:
    run = entries(parsed(), second("[run]\nepochs = 2.0\n"))[1].recipe.run
    assert (run.steps, run.epochs) == (0, 2.0)


def test_the_baseline_is_the_first_recipe_learning_from_text() -> None:
    first, baseline = entries(parsed())
    assert (first.baseline, baseline.baseline) == (False, True)
    assert baseline.name == BASELINE
    found = differences(baseline.recipe.model_dump(mode="json"), first.recipe.model_dump(mode="json"))
    assert set(found) == {"objective"}
    assert is_supervised(baseline.recipe.model_dump(mode="json"))
    assert not is_supervised(first.recipe.model_dump(mode="json"))


def test_the_baseline_writes_no_answers_of_its_own() -> None:
    own = parsed(FIRST + "[rollout]\nshare = 0.5\n")
    assert baseline_of(own).rollout.share == 0


def test_a_recipe_that_is_the_baseline_is_not_trained_twice() -> None:
    text = second('[[objective]]\nname = "supervised"\n[run]\nepochs = 2.0\n', title="Text")
    found = entries(parsed(), text)
    assert [(entry.name, entry.baseline) for entry in found] == [("First", False), ("Text", True)]


def test_recipes_of_one_title_are_told_apart() -> None:
    assert [entry.name for entry in entries(parsed(), parsed(), parsed())] == [
        "First",
        "First (2)",
        "First (3)",
        BASELINE,
    ]


def test_a_title_that_is_the_baselines_keeps_it_apart() -> None:
    names = [entry.name for entry in entries(parsed(FIRST.replace('"First"', f'"{BASELINE}"')))]
    assert len(set(names)) == 2


def test_work_is_all_but_words_and_seed() -> None:
    one = parsed().model_dump(mode="json")
    other = parsed(FIRST.replace('"First"', '"Renamed"') + "seed = 7\n").model_dump(mode="json")
    assert work_of(one) == work_of(other)
    assert work_of(one) != work_of(parsed(FIRST.replace("steps = 20", "steps = 21")).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ("[student]\nlayer_count = 3\n", "different students: layer_count 3 instead of 2"),
        ('[student]\nsource = "folder"\npath = "/elsewhere"\n', "different students: source 'folder'"),
        ('[teacher]\nname = "big"\n', "different teachers: name 'big' instead of 'tiny'"),
        ("[data]\nlimit = 5\n", "different rows: limit 5 instead of 0"),
        ("[data]\nheld_out = 0.1\n", "different rows: held_out 0.1 instead of 0.2"),
        ('[[objective]]\nname = "dpo"\n', "learns from preferences"),
    ],
)
def test_what_no_comparison_can_make_up_for_is_refused_with_words(tables: str, said: str) -> None:
    with pytest.raises(BadInput, match="not be a fair comparison") as caught:
        entries(parsed(), second(tables))
    assert said in caught.value.detail
    assert caught.value.hint


def test_how_a_student_is_trained_may_differ() -> None:
    own = second('[student]\nadapter = "lora"\n[run]\nrows_per_batch = 2\n[teacher]\nsignals = "stored"\n')
    assert entries(parsed(), own)[1].recipe.student.adapter == "lora"


def test_nothing_to_compare_is_said() -> None:
    with pytest.raises(BadInput, match="Which recipes"):
        entries()
