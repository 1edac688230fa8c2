"""Recipes: typed, validated with the line at fault, hashed without regard to comments."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdstudio.errors import BadInput
from kdstudio.recipe import (
    ElicitationRecipe,
    TrainingRecipe,
    find_elicitation_recipe,
    load_recipe,
    override,
    parse_recipe,
    recipe_hash,
    shipped_recipes,
    to_toml,
)

TRAINING = """
version = 1
[recipe]
id = "mine"  # a comment
title = "Mine"
[[objective]]
name = "forward_kl"
[[objective]]
name = "supervised"
weight = 0.5
[run]
steps = 10
"""


def test_the_hash_is_over_meaning_not_over_text() -> None:
    one = parse_recipe(TRAINING, TrainingRecipe)
    other = parse_recipe(
        TRAINING.replace("# a comment", "").replace("steps = 10", "steps = 10\nseed = 0"), TrainingRecipe
    )
    changed = parse_recipe(TRAINING.replace("steps = 10", "steps = 11"), TrainingRecipe)
    assert recipe_hash(one) == recipe_hash(other)
    assert recipe_hash(one) != recipe_hash(changed)


def test_what_is_written_out_reads_back_the_same() -> None:
    recipe = parse_recipe(TRAINING, TrainingRecipe)
    assert parse_recipe(to_toml(recipe), TrainingRecipe) == recipe
    for shipped in shipped_recipes().values():
        assert parse_recipe(to_toml(shipped), ElicitationRecipe) == shipped


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (TRAINING + "stepz = 3\n", 13, "unknown key"),
        (TRAINING.replace('"supervised"', '"telepathy"'), 8, "no objective called 'telepathy'"),
        (TRAINING.replace("weight = 0.5", "weight = -1"), 10, "greater than 0"),
        (TRAINING.replace("version = 1", "version = 7"), 2, "Input should be 1"),
        (TRAINING.replace("[run]", "[rum]"), 11, "unknown key"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_recipe(text, TrainingRecipe, name="mine.toml")
    assert words in caught.value.detail
    assert f"(line {line})" in caught.value.detail
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a = [", b"[" * 5000, b"x" * (2 << 20)])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(BadInput):
        load_recipe(path, TrainingRecipe)


def test_an_elicitation_recipe_needs_to_ask_and_to_emit() -> None:
    text = 'version = 1\n[recipe]\nid = "a"\ntitle = "A"\n[[step]]\ntype = "emit"\n'
    with pytest.raises(BadInput, match="mistake"):
        parse_recipe(text, ElicitationRecipe)
    with pytest.raises(BadInput, match="Unknown recipe"):
        find_elicitation_recipe("mind_reading")


def test_set_reaches_tables_lists_and_steps() -> None:
    recipe = override(
        parse_recipe(TRAINING, TrainingRecipe), ["run.steps=40", "objective.1.weight=2", "recipe.title=Other"]
    )
    assert (recipe.run.steps, recipe.objective[1].weight, recipe.recipe.title) == (40, 2.0, "Other")
    documents = find_elicitation_recipe("from_documents")
    for name in ("documents", "parameters.documents", "parameters.documents.default"):
        assert override(documents, [f"{name}=/a/b"]).parameters["documents"].default == "/a/b"
    answer = override(find_elicitation_recipe("answer"), ["sample.max_tokens=60"])
    assert next(step for step in answer.step if step.type == "sample").max_tokens == 60


@pytest.mark.parametrize("assignment", ["nothing", "=3", "run.stepz=3", "no.such.table=1", "objective.9.weight=1"])
def test_set_refuses_what_is_not_there(assignment: str) -> None:
    with pytest.raises(BadInput):
        override(parse_recipe(TRAINING, TrainingRecipe), [assignment])
