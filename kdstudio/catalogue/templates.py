"""Reading a recipe's Jinja templates without running them: which names they need, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kdstudio.errors import BadInput

# Only parses. Even turning a template into code computes its constants, and one may be 10 ** (10 ** 10).
_READING = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
_GIVEN = {"range", "dict", "namespace", "raise_exception", "strftime_now"}  # what `chat_template` lets templates call
_IMPLIED = {"loop", "caller", "varargs", "kwargs"}  # what Jinja itself sets in loops and macros
_PLAIN = (nodes.Output, nodes.TemplateData, nodes.Name)


@dataclass(frozen=True)
class Reading:
    """What a template is made of. `names` must come from outside, `lookups` may; `plain`: it only puts names in."""

    names: frozenset[str]
    lookups: frozenset[str]
    plain: bool


def read_template(text: str, where: str) -> Reading:
    """Read a template. Raises `BadInput` naming the place and the template's line."""
    try:
        tree = _READING.parse(text)
        _check(tree)
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        line = getattr(error, "lineno", 0)
        raise BadInput(
            "A template cannot be read", f"{where}, line {line}: {error}.", "Correct the template."
        ) from error
    except ValueError as error:  # Python reads whole numbers of at most 4,300 digits
        raise BadInput(
            "A template cannot be read", f"{where}: a number in it has too many digits.", "Correct the template."
        ) from error
    names = list(tree.find_all(nodes.Name))
    lookups = frozenset(name.name for name in names if name.ctx == "load") - _GIVEN - _IMPLIED
    own = {name.name for name in names if name.ctx != "load"} | {macro.name for macro in tree.find_all(nodes.Macro)}
    plain = all(isinstance(node, _PLAIN) for node in tree.find_all(nodes.Node))
    return Reading(lookups - own, lookups, plain)


def expression_template(expression: str) -> str:
    """A template that writes "true" when the expression holds, and nothing when it does not."""
    return "{% if (" + expression + ") %}true{% endif %}"


_OPERATORS = {
    "==": "is",
    "!=": "is not",
    ">=": "is at least",
    "<=": "is at most",
    ">": "is more than",
    "<": "is less than",
}


def in_words(expression: str) -> str:
    """An expression as a person says it: `score >= 4` is "score is at least 4"."""
    tokens = [(kind, value) for _, kind, value in _READING.lex("{{" + expression + "}}")][1:-1]
    said = (
        f" {_OPERATORS.get(value, value)} " if kind == "operator" and value in _OPERATORS else value
        for kind, value in tokens
    )
    return " ".join("".join(said).split())


def _check(tree: nodes.Template) -> None:
    """Raise `TemplateSyntaxError` for what can be parsed but never rendered."""
    for node in tree.find_all((nodes.Filter, nodes.Test)):
        known = _READING.filters if isinstance(node, nodes.Filter) else _READING.tests
        if node.name not in known:
            raise jinja2.TemplateSyntaxError(f"no {type(node).__name__.lower()} is called {node.name!r}", node.lineno)
    if any(True for _ in meta.find_referenced_templates(tree)):
        raise jinja2.TemplateSyntaxError("a recipe's template cannot take in other files", 1)
