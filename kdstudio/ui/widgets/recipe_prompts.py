"""The texts of a recipe, edited in place, with the variables that stand for a row’s columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from PySide6.QtCore import QEvent, QObject, Signal
from PySide6.QtWidgets import QFormLayout, QHBoxLayout, QMenu, QSizePolicy, QVBoxLayout, QWidget

from kdstudio.catalogue.steps import FilterStep, PromptStep, RankStep, ScoreStep, Step
from kdstudio.ui.style import mono_font
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.fields import Paragraph
from kdstudio.ui.widgets.labels import label

_WORDS = {
    "system": "System message",
    "user": "User’s message",
    "assistant": "Assistant’s turn",
    "text": "Text",
    "rubric": "Rubric",
    "expression": "Keep only when",
    "when": "Only when",
}
_EMPTY = {
    "system": "Empty: the prompt’s own system message, if it has one.",
    "user": "Empty: the prompt as it stands.",
    "rubric": "Empty: judge quality.",
    "when": "Empty: for every row.",
}
_LEAST_LINES, _MOST_LINES, _CHARACTERS_A_LINE = 2, 10, 54


def texts_of(step: Step) -> tuple[str, ...]:
    """The keys of a step that are texts a person may want to change."""
    return (*(("when",) if step.when else ()), *_own_texts(step))


def _own_texts(step: Step) -> tuple[str, ...]:
    match step:
        case PromptStep() if step.text:
            return ("text",)
        case PromptStep():
            return ("system", *(("assistant",) if step.assistant else ()), "user")
        case ScoreStep() | RankStep():
            return ("rubric",)
        case FilterStep() if step.expression:
            return ("expression",)
    return ()


class PromptEditor(QWidget):
    """The texts of one step. `changed()` follows every edit; `values()` are the step's keys."""

    changed = Signal()

    def __init__(self, index: int, step: Step, names: Sequence[str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.fields: dict[str, Paragraph] = {}
        self._last: Paragraph | None = None
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(6)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        column.addLayout(form)
        for key in texts_of(step):
            field = self._field(index, key, str(getattr(step, key)))
            caption = label(_WORDS[key])
            caption.setBuddy(field)
            caption.setMinimumHeight(28)
            form.addRow(caption, field)
        self.variables = label("", "small", wrap=True, name=f"generate_variables_{index}", selectable=True)
        if names and not isinstance(step, ScoreStep | RankStep):
            form.addRow("", self._variables(index, names, bare=isinstance(step, FilterStep) or not _own_texts(step)))

    def _field(self, index: int, key: str, text: str) -> Paragraph:
        wrapped = sum(1 + len(line) // _CHARACTERS_A_LINE for line in text.splitlines())
        field = Paragraph(max(_LEAST_LINES, min(wrapped + 1, _MOST_LINES)))
        field.setObjectName(f"generate_prompt_{index}_{key}")
        field.setAccessibleName(_WORDS[key])
        field.setFont(mono_font())
        field.setPlaceholderText(_EMPTY.get(key, ""))
        field.set_value(text)
        field.changed.connect(self.changed)
        field.installEventFilter(self)
        self.fields[key] = field
        self._last = field
        return field

    def _variables(self, index: int, names: Sequence[str], *, bare: bool) -> QWidget:
        holder = QWidget()
        row = QHBoxLayout(holder)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        shown = [name if bare else f"{{{{ {name} }}}}" for name in names]
        self.variables.setText("  ".join(text.replace(" ", "\u00a0") for text in shown))
        holder.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Maximum)
        insert = button("Insert", icon="plus", kind="ghost", name=f"generate_insert_{index}", tip="Insert a variable")
        menu = QMenu(insert)
        for text in shown:
            menu.addAction(text).triggered.connect(partial(self._insert, text))
        insert.setMenu(menu)
        row.addWidget(self.variables, 1)
        row.addWidget(insert)
        return holder

    def _insert(self, text: str, _checked: bool = False) -> None:
        self.insert(text)

    def insert(self, text: str) -> None:
        """Put a variable where the cursor was last."""
        if self._last is not None:
            self._last.insertPlainText(text)
            self._last.setFocus()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Keep in mind which text was edited last."""
        if event.type() == QEvent.Type.FocusIn and isinstance(watched, Paragraph):
            self._last = watched
        return super().eventFilter(watched, event)

    def values(self) -> dict[str, str]:
        """The texts, by key of the step."""
        return {key: field.value() for key, field in self.fields.items()}
