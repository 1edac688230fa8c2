"""The chosen objectives, each with its weight and its own parameters: what the recipe's `[[objective]]` tables say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QLineEdit, QVBoxLayout, QWidget

from kdstudio.catalogue.objectives import OBJECTIVES
from kdstudio.catalogue.training import ObjectiveTable
from kdstudio.registry import parameters_of
from kdstudio.ui.forms import Form, align
from kdstudio.ui.widgets.buttons import tool_button
from kdstudio.ui.widgets.labels import label

_TWO_COLUMNS_FROM = 640
_WHEN_EMPTY = {"student_layers": "four, spread evenly", "teacher_layers": "at the same depth"}


class Part(QFrame):
    """One chosen objective. `left_out` when a person takes it away."""

    changed = Signal()
    left_out = Signal()

    def __init__(self, table: Mapping[str, Any], name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.key = str(table["name"])
        entry = OBJECTIVES[self.key]
        self.setObjectName(f"{name}_part")
        self.weight = Form(ObjectiveTable, table, name=name, include=["weight"], labels={"weight": "Weight in mix"})
        self.form = Form(entry.params, table.get("parameters", {}), name=f"{name}_parameters")
        for field, words in _WHEN_EMPTY.items():
            editor = self.form.fields.get(field)
            if isinstance(editor, QLineEdit):
                editor.setPlaceholderText(words)
        self.obstacle = label("", "warn", wrap=True, name=f"{name}_part_obstacle")
        self.obstacle.hide()
        away = tool_button("x", f"Leave out {entry.label}", name=f"{name}_leave_out", clicked=self.left_out.emit)
        head = QHBoxLayout()
        head.addWidget(label(entry.label, "heading", wrap=True), 1)
        head.addWidget(away, 0, Qt.AlignmentFlag.AlignTop)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addLayout(head)
        for form in (self.weight, self.form):
            align(form)
            column.addWidget(form)
            form.changed.connect(self.changed)
        column.addWidget(self.obstacle)
        self.form.setVisible(bool(parameters_of(entry.params)))

    def table(self) -> dict[str, Any]:
        """Its table in the recipe."""
        return {"name": self.key, "weight": self.weight.values()["weight"], "parameters": self.form.values()}

    def forbid(self, reason: str) -> None:
        """Say why a run with it could not start; "" if it could."""
        self.obstacle.setText(reason)
        self.obstacle.setVisible(bool(reason))


class Parts(QWidget):
    """The chosen objectives in the recipe's order; the same one may stand there twice, with other parameters."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.parts: list[Part] = []
        self._columns = 1
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(24)
        self._grid.setVerticalSpacing(14)

    def names(self) -> list[str]:
        """The chosen objectives' keys."""
        return [part.key for part in self.parts]

    def tables(self) -> list[dict[str, Any]]:
        """The recipe's tables."""
        return [part.table() for part in self.parts]

    def set_tables(self, tables: Sequence[Mapping[str, Any]]) -> None:
        """Show these objectives instead."""
        for part in self.parts:
            self._remove(part)
        self.parts = []
        for table in tables:
            self.parts.append(self._make(table))
        self._arrange()
        self.changed.emit()

    def choose(self, key: str) -> None:
        """Add an objective with its defaults, unless it is there."""
        if key not in self.names():
            self.parts.append(self._make({"name": key}))
            self._arrange()
            self.changed.emit()

    def drop(self, key: str) -> None:
        """Take an objective away, however often it is there."""
        for part in [part for part in self.parts if part.key == key]:
            self.parts.remove(part)
            self._remove(part)
        self._arrange()
        self.changed.emit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Two columns where there is room."""
        super().resizeEvent(event)
        columns = 2 if event.size().width() >= _TWO_COLUMNS_FROM else 1
        if columns != self._columns:
            self._columns = columns
            self._arrange()

    def _make(self, table: Mapping[str, Any]) -> Part:
        again = self.names().count(str(table["name"]))
        name = f"objective_{table['name']}" + (f"_{again + 1}" if again else "")
        part = Part(table, name, self)
        part.changed.connect(self.changed)
        part.left_out.connect(lambda: self._leave_out(part))
        return part

    def _leave_out(self, part: Part) -> None:
        self.parts.remove(part)
        self._remove(part)
        self._arrange()
        self.changed.emit()

    def _remove(self, part: Part) -> None:
        self._grid.removeWidget(part)
        part.setParent(None)
        part.deleteLater()

    def _arrange(self) -> None:
        for place, part in enumerate(self.parts):
            self._grid.addWidget(part, place // self._columns, place % self._columns, Qt.AlignmentFlag.AlignTop)
            part.show()  # at once, not with the next event
        self._grid.setColumnStretch(0, 1)
        self._grid.setColumnStretch(1, 1 if self._columns == 2 else 0)
