"""Each shipped recipe's worked example, end to end through the real pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdstudio.catalogue.cost import questions
from kdstudio.recipe import FAMILIES, ElicitationRecipe, shipped_recipes
from tests.contracts.recipe_examples import faults_of, run_example

SHIPPED = list(shipped_recipes().values())


@pytest.mark.parametrize("recipe", SHIPPED, ids=lambda recipe: recipe.recipe.id)
def test_the_example_of_a_recipe_comes_out_as_it_says(recipe: ElicitationRecipe, tmp_path: Path) -> None:
    assert recipe.example is not None, "a shipped recipe has a worked example"
    rows, falls = run_example(recipe, tmp_path)
    assert not (fault := faults_of(rows, list(recipe.example.expect))), fault
    assert falls == recipe.example.falls
    assert rows, "an example that writes nothing shows nothing"


@pytest.mark.parametrize("recipe", SHIPPED, ids=lambda recipe: recipe.recipe.id)
def test_a_recipe_says_what_the_gallery_shows(recipe: ElicitationRecipe) -> None:
    header = recipe.recipe
    assert header.family in FAMILIES
    assert questions(recipe.step) >= 1
    asking = [step for step in recipe.step if getattr(step, "method", "") != "scores"]
    speakers = {str(getattr(step, "speaker", "")) for step in asking}
    assert ("judge" in header.needs) == ("judge" in speakers)
    assert ("student" in header.needs) >= ("student" in speakers)
    assert ("documents" in header.needs) == (recipe.input.source == "documents")
