"""The objectives of a recipe: each chosen from the registry, with its weight and its own parameters."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QButtonGroup, QFrame, QHBoxLayout, QRadioButton, QVBoxLayout, QWidget

from kdstudio.catalogue.objectives import OBJECTIVES, Objective
from kdstudio.catalogue.objectives import Signal as Needed
from kdstudio.catalogue.training import ObjectiveTable
from kdstudio.registry import parameters_of
from kdstudio.ui.forms import Form
from kdstudio.ui.widgets.fields import Switch
from kdstudio.ui.widgets.labels import label


class ObjectiveChoice(QFrame):
    """One objective as a card: what it is, when to use it, its paper, its parameters once it is chosen."""

    changed = Signal()

    def __init__(self, entry: Objective, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.entry = entry
        self.setProperty("role", "row")
        self.setObjectName(f"objective_{entry.key}")
        self.choose = Switch(entry.label)
        self.choose.setObjectName(f"objective_{entry.key}_choose")
        self.choose.setAccessibleDescription(entry.when)
        self.when = label(entry.when, "small", wrap=True)
        paper = entry.reference.removeprefix("https://")
        self.paper = label(paper, "small", selectable=True)
        self.obstacle = label("", "warn", wrap=True, name=f"objective_{entry.key}_obstacle")
        self.obstacle.hide()
        self.weight = Form(ObjectiveTable, {"name": entry.key}, name=f"objective_{entry.key}", include=["weight"])
        self.form = Form(entry.params, name=f"objective_{entry.key}_parameters")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 4, 0, 4)
        column.setSpacing(4)
        head = QHBoxLayout()
        head.addWidget(self.choose)
        head.addStretch(1)
        head.addWidget(self.paper)
        column.addLayout(head)
        for part in (self.when, self.obstacle, self.weight, self.form):
            column.addWidget(part)
        self.choose.toggled.connect(self._toggled)
        for form in (self.weight, self.form):
            form.changed.connect(self.changed)
        self._toggled()

    def _toggled(self) -> None:
        chosen = self.choose.isChecked()
        self.weight.setVisible(chosen)
        self.form.setVisible(chosen and bool(parameters_of(self.entry.params)))
        self.changed.emit()

    def table(self) -> dict[str, Any]:
        """The recipe's table for this objective."""
        return {"name": self.entry.key, "weight": self.weight.values()["weight"], "parameters": self.form.values()}

    def forbid(self, reason: str) -> None:
        """Say why this objective cannot be used with the chosen teacher; "" allows it."""
        self.obstacle.setText(reason)
        self.obstacle.setVisible(bool(reason))
        self.choose.setEnabled(not reason)
        if reason:
            self.choose.setChecked(False)


class ObjectiveList(QWidget):
    """All objectives of the registry; several may be chosen and are weighed."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.choices = {entry.key: ObjectiveChoice(entry) for entry in OBJECTIVES}
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        for choice in self.choices.values():
            column.addWidget(choice)
            choice.changed.connect(self.changed)
        next(iter(self.choices.values())).choose.setChecked(True)

    def tables(self) -> list[dict[str, Any]]:
        """The chosen objectives, in the registry's order."""
        return [choice.table() for choice in self.choices.values() if choice.choose.isChecked()]

    def set_tables(self, tables: list[dict[str, Any]]) -> None:
        """Choose these objectives."""
        named = {str(table["name"]): table for table in tables}
        for key, choice in self.choices.items():
            choice.choose.setChecked(key in named)
            if key in named:
                choice.weight.set_values({"weight": named[key].get("weight", 1.0)})
                choice.form.set_values(named[key].get("parameters", {}))

    def forbid_signals(self, reason: str) -> None:
        """Close objectives that read the teacher's distribution; "" opens them. Keeps something chosen."""
        for choice in self.choices.values():
            if Needed.TEACHER_SIGNAL in choice.entry.needs:
                choice.forbid(reason)
        if not self.tables():
            free = [choice for choice in self.choices.values() if choice.choose.isEnabled()]
            if free:
                free[0].choose.setChecked(True)

    def need_signals(self) -> bool:
        """Whether a chosen objective reads the teacher's distribution."""
        chosen = [choice.entry for choice in self.choices.values() if choice.choose.isChecked()]
        return any(Needed.TEACHER_SIGNAL in entry.needs for entry in chosen)


def exclusive(name: str, options: dict[str, str]) -> tuple[QWidget, QButtonGroup]:
    """Radio buttons in a row: key -> words. The group's buttons are named `<name>_<key>`."""
    holder = QWidget()
    row = QHBoxLayout(holder)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(16)
    group = QButtonGroup(holder)
    for key, words in options.items():
        made = QRadioButton(words)
        made.setObjectName(f"{name}_{key}")
        group.addButton(made)
        row.addWidget(made)
    row.addStretch(1)
    group.buttons()[0].setChecked(True)
    return holder, group
