"""What a person sets of a recipe's parameters, checked against what the recipe declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdstudio.catalogue.elicitation import ParameterTable
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
        name: table.model_copy(update={"default": _checked(name, table, values[name])}) if name in values else table
        for name, table in recipe.parameters.items()
    }
    return recipe.model_copy(update={"parameters": tables})


def _checked(name: str, table: ParameterTable, value: Any) -> str | int | float | bool:
    kinds: dict[str, tuple[type, ...]] = {"integer": (int,), "number": (int, float), "boolean": (bool,)}
    fits = isinstance(value, kinds.get(table.type, (str,))) and (table.type == "boolean" or not isinstance(value, bool))
    if not fits:
        raise BadInput("A parameter has the wrong type", f"{name} is {value!r}.", f"It takes: {table.type}.")
    if table.type == "choice" and value not in table.choices:
        raise BadInput(
            "A parameter has no such choice", f"{name} is {value!r}.", f"One of: {', '.join(table.choices)}."
        )
    if table.type in ("integer", "number"):
        low, high = table.minimum, table.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"{'' if low is None else f'{low:g} '}to{'' if high is None else f' {high:g}'}"
            raise BadInput("A parameter is out of range", f"{name} is {value!r}.", f"It goes from {bounds}.")
    chosen: str | int | float | bool = value
    return chosen
