"""Every step that a recipe may name is executed by something, documented, and shown with its keys."""

from __future__ import annotations

from typing import Any

import pytest

from kdstudio.catalogue.steps import STEP_TYPES
from kdstudio.elicitation.pipeline import Pipeline
from kdstudio.elicitation.steps import ASKING, BINDERS, COMPANY, ENDING
from kdstudio.recipe import ElicitationRecipe, recipe_hash, shipped_recipes
from kdstudio.registry import Params, parameters_of


def test_every_step_of_the_catalogue_has_what_executes_it() -> None:
    assert {*BINDERS, *ASKING, *COMPANY, *ENDING} == set(STEP_TYPES)
    assert len(STEP_TYPES) == len(BINDERS) + len(ASKING) + len(COMPANY) + len(ENDING)


@pytest.mark.parametrize("step", STEP_TYPES, ids=lambda step: step.__name__)
def test_a_step_explains_itself(step: type[Params]) -> None:
    assert step.__doc__
    assert step.model_fields["type"].default == step.__name__.removesuffix("Step").lower()
    assert all(parameter.help for parameter in parameters_of(step) if parameter.name != "type")


@pytest.mark.parametrize("recipe", shipped_recipes().values(), ids=lambda recipe: recipe.recipe.id)
def test_a_shipped_recipe_runs_and_says_what_it_is(recipe: ElicitationRecipe) -> None:
    pipeline = Pipeline(recipe, recipe_hash=recipe_hash(recipe), teacher="t", seed=0)
    assert pipeline.questions_from(0) >= 1
    header: Any = recipe.recipe
    assert header.purpose
    assert header.methods
    assert all(reference.startswith("https://") for reference in header.references)
    assert all(table.help for table in recipe.parameters.values())
