"""How a recipe asks: the person's changes to its steps and its parameters, as forms, and the recipe they make."""

from __future__ import annotations

from typing import Any, cast

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFormLayout, QLineEdit, QVBoxLayout, QWidget

from kdstudio.catalogue.elicitation import ParameterTable
from kdstudio.catalogue.steps import FilterStep, SampleStep
from kdstudio.recipe import ElicitationRecipe, validate_recipe
from kdstudio.registry import Parameter
from kdstudio.ui.forms import Form
from kdstudio.ui.widgets.fields import Field, Switch, make_field
from kdstudio.ui.widgets.labels import label

_SAMPLING = ("max_tokens", "temperature", "samples", "top_p", "top_k", "stop")
_SELDOM = ("top_p", "top_k", "stop")
_FILTERS = ("minimum_characters", "maximum_characters", "refuse_pattern", "require_pattern", "finished")
_LABELS = {
    "max_tokens": "Longest answer",
    "samples": "Answers a prompt",
    "top_p": "Top p",
    "top_k": "Top k",
    "stop": "Stop at",
    "minimum_characters": "Shortest, characters",
    "maximum_characters": "Longest, characters",
    "finished": "Only answers that ended by themselves",
    "refuse_pattern": "Refuse what matches",
    "require_pattern": "Keep only what matches",
}
CAPTION_WIDTH = 130
_KINDS = {
    "text": "str",
    "lines": "str",
    "files": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "choice": "choice",
}


class GenerateSettings(QWidget):
    """The forms of one recipe. `changed()` follows every edit."""

    changed = Signal()

    def __init__(self, recipe: ElicitationRecipe, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._recipe = recipe
        self.samples: list[tuple[int, Form]] = []
        self.filters: list[tuple[int, Form]] = []
        self.parameters: dict[str, QWidget] = {}
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(10)
        if recipe.parameters:
            column.addLayout(self._parameter_form())
        for index, step in enumerate(recipe.step):
            if isinstance(step, SampleStep):
                self._add_sample(column, index, step)
            elif isinstance(step, FilterStep):
                self._add_filter(column, index, step)
        self.more = Switch("More settings")
        self.more.setObjectName("generate_more")
        self.more.toggled.connect(self._show_more)
        column.addWidget(self.more)
        align_captions(self)
        self._show_more(shown=False)

    def _show_more(self, shown: bool) -> None:
        for _, form in self.samples:
            for name in _SELDOM:
                form.set_field_visible(name, shown)
        for _, form in self.filters:
            form.setVisible(shown)

    def _parameter_form(self) -> QFormLayout:
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(8)
        for name, table in self._recipe.parameters.items():
            words = name.replace("_", " ").capitalize()
            field = make_field(_parameter(name, table), words)
            field.setObjectName(f"generate_parameter_{name}")
            field.setAccessibleName(words)
            field.setToolTip(table.help)
            cast(Field, field).set_value(table.default)
            if isinstance(field, QLineEdit):
                field.setCursorPosition(0)
            cast(Field, field).changed.connect(self.changed)
            self.parameters[name] = field
            caption = label(words)
            caption.setBuddy(field)
            form.addRow(caption, field)
        return form

    def _add_sample(self, column: QVBoxLayout, index: int, step: SampleStep) -> None:
        first = not self.samples
        form = Form(
            SampleStep,
            step.model_dump(),
            name="generate" if first else f"generate_{index}",
            include=_SAMPLING,
            labels=_LABELS,
        )
        form.changed.connect(self.changed)
        if not first:
            column.addWidget(label(f"Question {len(self.samples) + 1}", "heading"))
        self.samples.append((index, form))
        column.addWidget(form)

    def _add_filter(self, column: QVBoxLayout, index: int, step: FilterStep) -> None:
        form = Form(
            FilterStep,
            step.model_dump(),
            name=f"generate_filter_{index}",
            include=_FILTERS,
            labels=_LABELS,
        )
        form.changed.connect(self.changed)
        self.filters.append((index, form))
        column.addWidget(form)

    def errors(self) -> dict[str, str]:
        """What the forms refuse; shown in place too."""
        found: dict[str, str] = {}
        for _, form in (*self.samples, *self.filters):
            found.update(form.errors())
        return found

    def recipe(self) -> ElicitationRecipe:
        """The recipe with the person's changes. Raises `BadInput` for what no form can refuse by itself."""
        tables = self._recipe.model_dump(mode="json")
        for index, form in (*self.samples, *self.filters):
            tables["step"][index].update(form.values())
        return validate_recipe(tables, ElicitationRecipe, name=self._recipe.recipe.id)

    def values(self) -> dict[str, Any]:
        """The recipe's own parameters."""
        return {name: cast(Field, field).value() for name, field in self.parameters.items()}

    def requests_per_prompt(self) -> int:
        """How many answers one prompt asks for."""
        total = 1
        for _, form in self.samples:
            total *= int(form.values()["samples"])
        return total

    def longest(self) -> int:
        """The most tokens that one prompt can cost in answers."""
        count, tokens = 1, 0
        for _, form in self.samples:
            count *= int(form.values()["samples"])
            tokens += count * int(form.values()["max_tokens"])
        return tokens


def align_captions(widget: QWidget) -> None:
    """Give the captions of all forms inside one width, so that their editors stand in line."""
    for form in widget.findChildren(QFormLayout):
        for row in range(form.rowCount()):
            item = form.itemAt(row, QFormLayout.ItemRole.LabelRole)
            caption = item.widget() if item is not None else None
            if caption is not None:
                caption.setMinimumWidth(CAPTION_WIDTH)


def _parameter(name: str, table: ParameterTable) -> Parameter:
    """A recipe's parameter in the shape that the editors know."""
    return Parameter(
        name, _KINDS[table.type], table.default, table.help, table.minimum, table.maximum, tuple(table.choices)
    )
