"""Jinja templates of recipes, rendered where they can neither reach the program nor exhaust it.

A recipe may come from anybody. A template that only puts names into text is rendered here; any other one in the process
apart in which chat templates are rendered, with two seconds and half a gibibyte. A name that no column or parameter has
is an error, not an empty text, and is found before anything is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kdstudio.errors import BadInput
from kdstudio.models.chat_template import TemplateStopped, render_apart, render_here

# Only parses. Even turning a template into code computes its constants, and one may be 10 ** (10 ** 10).
_READING = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
_GIVEN = {"range", "dict", "namespace", "raise_exception", "strftime_now"}  # what `chat_template` lets templates call
_IMPLIED = {"loop", "caller", "varargs", "kwargs"}  # what Jinja itself sets in loops and macros
_PLAIN = (nodes.Output, nodes.TemplateData, nodes.Name)


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
    try:
        tree = _READING.parse(text)
        _check(tree)
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        line = getattr(error, "lineno", 0)
        raise BadInput(
            "A template cannot be read", f"{where}, line {line}: {error}.", "Correct the template."
        ) from error
    names = list(tree.find_all(nodes.Name))
    lookups = frozenset(name.name for name in names if name.ctx == "load") - _GIVEN - _IMPLIED
    own = {name.name for name in names if name.ctx != "load"} | {macro.name for macro in tree.find_all(nodes.Macro)}
    plain = all(isinstance(node, _PLAIN) for node in tree.find_all(nodes.Node))
    return Template(text, where, lookups - own, lookups, plain)


def _check(tree: nodes.Template) -> None:
    """Raise `TemplateSyntaxError` for what can be parsed but never rendered."""
    for node in tree.find_all((nodes.Filter, nodes.Test)):
        known = _READING.filters if isinstance(node, nodes.Filter) else _READING.tests
        if node.name not in known:
            raise jinja2.TemplateSyntaxError(f"no {type(node).__name__.lower()} is called {node.name!r}", node.lineno)
    if any(True for _ in meta.find_referenced_templates(tree)):
        raise jinja2.TemplateSyntaxError("a recipe's template cannot take in other files", 1)
