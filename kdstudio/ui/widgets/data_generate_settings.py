"""How a recipe asks: the person's changes to its texts, its steps and its parameters, and the recipe they make."""

from __future__ import annotations

from typing import Any, cast

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFormLayout, QLineEdit, QVBoxLayout, QWidget

from kdstudio.catalogue.columns import flows
from kdstudio.catalogue.elicitation import ParameterTable
from kdstudio.catalogue.steps import SampleStep, Step
from kdstudio.recipe import ElicitationRecipe, parse_recipe, to_toml, validate_recipe
from kdstudio.registry import Parameter
from kdstudio.ui.forms import Form
from kdstudio.ui.widgets.fields import Field, Paragraph, Switch, make_field
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.recipe_documents import DocumentsField
from kdstudio.ui.widgets.recipe_prompts import PromptEditor, texts_of

_SELDOM = ("top_p", "top_k", "stop")
_KEYS: dict[str, tuple[str, ...]] = {
    "sample": ("max_tokens", "temperature", "samples", *_SELDOM),
    "chunk": ("words", "overlap", "at_most"),
    "loop": ("rounds", "until", "maximum_slide"),
    "draw": ("count", "method"),
    "filter": ("minimum_characters", "maximum_characters", "refuse_pattern", "require_pattern", "finished"),
    "deduplicate": ("method", "threshold", "pool"),
    "expand": ("at_most",),
    "vote": ("minimum_share",),
    "execute": ("seconds", "memory_mb"),
    "score": ("lowest", "highest", "minimum"),
    "rank": ("method",),
}
"""Type of step -> the keys that a person may want to change."""
_OFTEN = ("sample", "chunk", "loop", "draw")
_HEADINGS = {
    "sample": "Question",
    "chunk": "Passages",
    "loop": "Rounds",
    "draw": "Rows that are drawn",
    "filter": "Filter",
    "deduplicate": "Doubles",
    "expand": "Lists",
    "vote": "Vote",
    "execute": "Code that is run",
    "score": "Scores",
    "rank": "Ranking",
    "prompt": "What is asked",
    "parse": "Answers taken apart",
    "emit": "What is written",
}
_LABELS = {
    "max_tokens": "Longest answer",
    "samples": "Answers a prompt",
    "top_p": "Top p",
    "top_k": "Top k",
    "stop": "Stop at",
    "minimum_characters": "Shortest, characters",
    "maximum_characters": "Longest, characters",
    "finished": "Only answers that ended by themselves",
    "refuse_pattern": "Refuse matches",
    "require_pattern": "Keep only matches",
    "words": "Words a passage",
    "at_most": "At most (0: all)",
    "until": "Stop after rows",
    "maximum_slide": "Poorer by at most",
    "memory_mb": "Memory, MiB",
    "minimum": "Lowest kept score",
}
CAPTION_WIDTH = 130
_LONG_TEXT = 48
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
        self.forms: list[tuple[int, Form]] = []
        self.prompts: list[tuple[int, PromptEditor]] = []
        self.parameters: dict[str, QWidget] = {}
        self._seldom: list[QWidget] = []
        self._samples = 0
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(8)
        if recipe.parameters:
            self._column.addWidget(label("Parameters", "heading"))
            self._column.addLayout(self._parameter_form())
        names = [flow.names for flow in flows(recipe.step, recipe.input, recipe.parameters)]
        for index, step in enumerate(recipe.step):
            self._add_step(index, step, names[index])
        self.more = Switch("More settings")
        self.more.setObjectName("generate_more")
        self.more.toggled.connect(self._show_more)
        self._column.addWidget(self.more)
        align_captions(self)
        self._show_more(shown=False)
        # What nobody touched stays as the recipe says, to the letter: an editor may not show every value whole
        self._before: list[dict[str, Any]] = [{**part.values()} for _, part in self._parts()]
        self._values_before = self.values()

    def _parts(self) -> list[tuple[int, Form | PromptEditor]]:
        return [*self.forms, *self.prompts]

    def _show_more(self, shown: bool) -> None:
        for index, form in self.forms:
            if isinstance(self._recipe.step[index], SampleStep):
                for name in _SELDOM:
                    form.set_field_visible(name, shown)
        for widget in self._seldom:
            widget.setVisible(shown)

    def _parameter_form(self) -> QFormLayout:
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(8)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        for name, table in self._recipe.parameters.items():
            words = name.replace("_", " ").capitalize()
            field = _editor(name, table, words)
            field.setToolTip(table.help)
            cast(Field, field).set_value(table.default)
            if isinstance(field, QLineEdit):
                field.setCursorPosition(0)
            cast(Field, field).changed.connect(self.changed)
            self.parameters[name] = field
            if isinstance(field, Switch):
                form.addRow("", field)
                continue
            caption = label(words)
            caption.setToolTip(table.help)
            caption.setBuddy(field)
            caption.setMinimumHeight(28)
            form.addRow(caption, field)
        return form

    def _add_step(self, index: int, step: Step, names: tuple[str, ...]) -> None:
        """Its texts, then its figures; what is seldom changed stands behind the switch."""
        texts, keys = texts_of(step), _KEYS.get(step.type, ())
        if not texts and not keys:
            return
        seldom = step.type not in _OFTEN and step.type != "prompt"
        heading = label(self._heading(step, index), "heading")
        self._add(heading, seldom=seldom and not texts)
        if texts:
            editor = PromptEditor(index, step, names)
            editor.changed.connect(self.changed)
            self.prompts.append((index, editor))
            self._add(editor, seldom=False)
        if keys:
            self._add(self._form(index, step, keys), seldom=seldom)

    def _heading(self, step: Step, index: int) -> str:
        return f"{_HEADINGS[step.type]} · step {index + 1}"

    def _add(self, widget: QWidget, *, seldom: bool) -> None:
        self._column.addWidget(widget)
        if seldom:
            self._seldom.append(widget)

    def _form(self, index: int, step: Step, keys: tuple[str, ...]) -> Form:
        first = isinstance(step, SampleStep) and not self._samples
        self._samples += isinstance(step, SampleStep)
        name = "generate" if first else f"generate_{step.type}_{index}"
        form = Form(type(step), step.model_dump(), name=name, include=keys, labels=_LABELS)
        form.changed.connect(self.changed)
        self.forms.append((index, form))
        return form

    # ------------------------------------------------------------------------------------------------- what it says
    def errors(self) -> dict[str, str]:
        """What the forms refuse; shown in place too."""
        found: dict[str, str] = {}
        for _, form in self.forms:
            found.update(form.errors())
        return found

    def recipe(self) -> ElicitationRecipe:
        """The recipe with the person's changes. Raises `BadInput` naming step and line for what cannot run."""
        tables = self._recipe.model_dump(mode="json")
        for (index, part), before in zip(self._parts(), self._before, strict=True):
            tables["step"][index].update({key: new for key, new in part.values().items() if new != before[key]})
        for name, value in self.values().items():
            if value != self._values_before[name]:
                tables["parameters"][name]["default"] = value
        name = self._recipe.recipe.id
        return parse_recipe(to_toml(validate_recipe(tables, ElicitationRecipe, name=name)), ElicitationRecipe, name)

    def values(self) -> dict[str, Any]:
        """The recipe's own parameters."""
        return {name: cast(Field, field).value() for name, field in self.parameters.items()}

    def longest(self) -> int:
        """The most tokens that the answers to one row can have, without a judge's."""
        count, tokens = 1, 0
        for index, form in self.forms:
            if isinstance(self._recipe.step[index], SampleStep):
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


def _editor(name: str, table: ParameterTable, words: str) -> QWidget:
    made: QWidget
    if table.type == "files":
        return DocumentsField(f"generate_parameter_{name}", words)
    if table.type == "lines" or (table.type == "text" and len(str(table.default)) > _LONG_TEXT):
        made = Paragraph(4 if table.type == "lines" else 3)
    else:
        made = make_field(_parameter(name, table), words)
    made.setObjectName(f"generate_parameter_{name}")
    made.setAccessibleName(words)
    return made


def _parameter(name: str, table: ParameterTable) -> Parameter:
    """A recipe's parameter in the shape that the editors know."""
    return Parameter(
        name, _KINDS[table.type], table.default, table.help, table.minimum, table.maximum, tuple(table.choices)
    )
