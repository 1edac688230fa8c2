"""Jinja templates of recipes, rendered where they can neither reach the program nor exhaust it.

A recipe may come from anybody. A template that only puts names into text is rendered here; any other one in the process
apart in which chat templates are rendered, with two seconds and half a gibibyte. A name that no column or parameter has
is an error, not an empty text, and is found before anything is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdstudio.catalogue.templates import read_template
from kdstudio.errors import BadInput
from kdstudio.models.chat_template import TemplateStopped, render_apart, render_here


@dataclass(frozen=True)
class Template:
    """A template that was read. `names` must come from outside, `lookups` may; `where` is its place in the recipe."""

    text: str
    where: str
    names: frozenset[str]
    lookups: frozenset[str]
    plain: bool

    def render(self, values: Mapping[str, Any]) -> str:
        """The text. Raises `TemplateStopped` when it went over a limit, `BadInput` when it fails on these values."""
        wanted = {name: values[name] for name in self.lookups if name in values}
        try:
            if self.plain:
                return render_here(self.text, wanted, strict=True)
            return render_apart(self.text, wanted, strict=True)
        except TemplateStopped as error:
            raise TemplateStopped("A template was stopped", f"{self.where}: {error.detail}", "Simplify it.") from None
        except BadInput as error:
            raise BadInput("A template failed", f"{self.where}: {error.detail}", "Correct the template.") from None


def compile_template(text: str, where: str) -> Template:
    """Read a template. Raises `BadInput` naming the place and the template's line."""
    reading = read_template(text, where)
    return Template(text, where, reading.names, reading.lookups, reading.plain)
