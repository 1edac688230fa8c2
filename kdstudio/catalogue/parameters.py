"""A recipe's parameters: names that templates can use, and values that they allow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kdstudio.catalogue.elicitation import ParameterTable
from kdstudio.errors import BadInput

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What Jinja or our templates mean by these names themselves
_TAKEN = {
    *("loop", "self", "super", "caller", "varargs", "kwargs", "range", "dict", "namespace", "raise_exception"),
    *("strftime_now", "true", "false", "none", "True", "False", "None", "and", "or", "not", "in", "is", "if", "else"),
}
_KINDS: dict[str, tuple[type, ...]] = {"integer": (int,), "number": (int, float), "boolean": (bool,)}


def check_parameters(file: str, parameters: Mapping[str, ParameterTable], lines: Mapping[str, int]) -> None:
    """Raise `BadInput` for a parameter that no template could read, or whose own default it does not allow."""
    for name, table in parameters.items():
        where = f"{file}, line {lines[name]}" if lines.get(name) else file
        if not _NAME.fullmatch(name) or name in _TAKEN:
            raise BadInput(
                "A parameter cannot be called so",
                f"{where}: {name!r} is no name that a template can read.",
                "Use letters, digits and _; the words of the template language itself are taken.",
            )
        if table.type == "choice" and not table.choices:
            raise BadInput("A parameter has no choices", f"{where}: {name}.", 'Add choices = ["...", "..."].')
        if table.minimum is not None and table.maximum is not None and table.minimum > table.maximum:
            raise BadInput(
                "A parameter allows nothing", f"{where}: {name} has a minimum above its maximum.", "Swap them."
            )
        try:
            checked_value(name, table, table.default)
        except BadInput as error:
            raise BadInput(error.title, f"{where}: the default of {error.detail}", error.hint) from None


def checked_value(name: str, table: ParameterTable, value: Any) -> str | int | float | bool:
    """A parameter's value. Raises `BadInput` for one of the wrong type, no choice, or out of its range."""
    fits = isinstance(value, _KINDS.get(table.type, (str,)))
    if not fits or (isinstance(value, bool) and table.type != "boolean"):
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
