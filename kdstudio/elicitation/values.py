"""What a person sets of a recipe's parameters, checked against what the recipe declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdstudio.catalogue.parameters import checked_value
from kdstudio.errors import BadInput
from kdstudio.recipe import ElicitationRecipe


def with_values(recipe: ElicitationRecipe, values: Mapping[str, Any]) -> ElicitationRecipe:
    """The recipe with `values` as its parameters' defaults: what ran is then what its hash names.

    Raises `BadInput` for a parameter that the recipe does not have, or a value that it does not allow.
    """
    unknown = sorted(set(values) - set(recipe.parameters))
    if unknown:
        known = ", ".join(recipe.parameters) or "none"
        raise BadInput("Unknown parameter", f"{recipe.recipe.id} has no {', '.join(unknown)}.", f"Known: {known}.")
    tables = {
        name: table.model_copy(update={"default": checked_value(name, table, values[name])})
        if name in values
        else table
        for name, table in recipe.parameters.items()
    }
    return recipe.model_copy(update={"parameters": tables})
