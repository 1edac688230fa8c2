"""Expressions over a row's columns: which rows a step is for (`when`), and which a filter keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdstudio.catalogue.steps import Step
from kdstudio.catalogue.templates import expression_template
from kdstudio.elicitation.passage import FallenError, Passage
from kdstudio.elicitation.sandbox import Template, compile_template
from kdstudio.errors import BadInput
from kdstudio.models.chat_template import TemplateStopped


@dataclass(frozen=True)
class Expression:
    """A Jinja expression with the recipe's parameters, rendered in the sandbox like any template."""

    template: Template
    values: Mapping[str, Any]

    def holds(self, passage: Passage) -> bool:
        """Whether it is true of a row. Raises `FallenError` when it fails on it, `TemplateStopped` over a limit."""
        try:
            return bool(self.template.render({**self.values, **passage.columns}))
        except TemplateStopped:
            raise
        except BadInput as error:
            raise FallenError(error.detail) from error


def compile_expression(text: str, values: Mapping[str, Any], where: str) -> Expression:
    """Read an expression. Raises `BadInput` naming the place."""
    template = compile_template(expression_template(text), where)
    return Expression(template, {name: value for name, value in values.items() if name in template.lookups})


class Conditions:
    """The `when` of each step of a recipe that has one."""

    def __init__(self, steps: Sequence[Step], values: Mapping[str, Any], places: Sequence[str]) -> None:
        self._expressions = {
            index: compile_expression(step.when, values, f"{places[index]}, when")
            for index, step in enumerate(steps)
            if step.when.strip()
        }

    def apply(self, index: int, passage: Passage) -> bool:
        """Whether the step at `index` is for this row. Raises as `Expression.holds`."""
        expression = self._expressions.get(index)
        return expression is None or expression.holds(passage)
