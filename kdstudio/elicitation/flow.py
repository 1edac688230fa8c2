"""Which columns flow where: a recipe that reads what nothing wrote is refused before a question costs anything."""

from __future__ import annotations

from collections.abc import Iterable

from kdstudio.catalogue.columns import check_columns
from kdstudio.catalogue.steps import SampleStep
from kdstudio.recipe import ElicitationRecipe


def check_flow(recipe: ElicitationRecipe) -> None:
    """Raise `BadInput` for a step that reads a column, or a template a name, that is not there at that point."""
    check_columns(recipe.recipe.id, recipe.step, recipe.input, recipe.parameters)


def asks_for(step: SampleStep, columns: Iterable[str]) -> str:
    """The column with the messages to send: a recipe without a prompt step sends the prompt as it stands."""
    return "messages" if step.request == "request" and "request" not in columns else step.request
