"""Which columns flow where: a recipe that reads what nothing wrote is refused before a question costs anything."""

from __future__ import annotations

from kdstudio.catalogue.columns import check_columns
from kdstudio.recipe import ElicitationRecipe


def check_flow(recipe: ElicitationRecipe) -> None:
    """Raise `BadInput` for a step that reads a column, or a template a name, that is not there at that point."""
    check_columns(recipe.recipe.id, recipe.step, recipe.input, recipe.parameters)
