"""What a file is and what its first records would become, with a choice of columns where names are not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QStackedWidget,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from kdstudio.project.content import Kind, last_user_text
from kdstudio.ui.widgets.empty_state import EmptyState
from kdstudio.ui.widgets.fields import Choice
from kdstudio.ui.widgets.labels import ElidedLabel, label

if TYPE_CHECKING:
    from kdstudio.project.exchange import Item
    from kdstudio.ui.widgets.data_import import Looked

_OURS = (
    ("prompt", "Prompt"),
    ("completion", "Answer"),
    ("system", "System"),
    ("reasoning", "Reasoning"),
    ("chosen", "Chosen"),
    ("rejected", "Rejected"),
    ("tags", "Tags"),
)
_MAPPED_FORMATS = ("csv", "prompt_completion", "alpaca", "preference")
_KINDS = {"": "Everything in it", "prompt": "Only the prompts", "response": "Answers", "preference": "Preferences"}
_WHAT_HAPPENS = {
    "": "Prompts come in once; answers and preferences are added to theirs.",
    "prompt": "Prompts come in once; answers in the file are left out.",
    "response": "Every record needs an answer; one without goes to the list of rejects.",
    "preference": "Every record needs a chosen and a rejected answer; one without goes to the list of rejects.",
}


class ImportPreview(QWidget):
    """`changed()`: another column was chosen, so the file is to be looked at again."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._columns: tuple[str, ...] = ()
        self._path: object = None
        self.what = ElidedLabel("", "heading")
        self.what.setObjectName("import_what")
        self.note: QLabel = label("", "warn", wrap=True, name="import_note")
        self.kinds = Choice(tuple(_KINDS), _KINDS)
        self.kinds.setObjectName("import_kind")
        self.kinds.setAccessibleName("What to import")
        self.happens: QLabel = label("", "small", wrap=True, name="import_happens")
        self.columns: dict[str, Choice] = {}
        self.table = _preview_table()
        self.empty = EmptyState("file-down", "You see what a file holds before anything is added.")
        self._build()
        self.kinds.changed.connect(self._show_happens)
        self.show_nothing()

    def _build(self) -> None:
        page = QWidget()
        column = QVBoxLayout(page)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        row = QHBoxLayout()
        row.addWidget(label("Import"))
        row.addWidget(self.kinds)
        row.addWidget(self.happens, 1)
        self.mapping_frame = QFrame()
        grid = QGridLayout(self.mapping_frame)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(8)
        for place, (ours, words) in enumerate(_OURS):
            choice = Choice(("",), {"": "by name"})
            choice.setObjectName(f"import_column_{ours}")
            choice.setAccessibleName(f"Column with the {words.lower()}")
            choice.setToolTip(f"Which column holds the {words.lower()}; “by name” looks for the usual names.")
            choice.changed.connect(self.changed)
            self.columns[ours] = choice
            cell = QVBoxLayout()
            cell.setSpacing(2)
            cell.addWidget(label(words, "small"))
            cell.addWidget(choice)
            grid.addLayout(cell, place // 4, place % 4)
        for place in range(4):
            grid.setColumnStretch(place, 1)
        for part in (self.what, self.note):
            column.addWidget(part)
        column.addLayout(row)
        column.addWidget(self.mapping_frame)
        column.addWidget(self.table, 1)
        self.stack = QStackedWidget()
        self.stack.addWidget(page)
        self.stack.addWidget(self.empty)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.stack)

    def kind(self) -> Kind | None:
        """Which kind of row to import; None for everything."""
        return cast("Kind | None", self.kinds.value() or None)

    def mapping(self) -> dict[str, str]:
        """Ours -> theirs, where the person chose a column."""
        return {ours: choice.value() for ours, choice in self.columns.items() if choice.value()}

    def show_nothing(self) -> None:
        """No file yet."""
        self.stack.setCurrentIndex(1)

    def show_file(self, looked: Looked) -> None:
        """Show what a look at a file found."""
        self.stack.setCurrentIndex(0)
        if looked.path != self._path or looked.columns != self._columns:
            self._path = looked.path
            self._offer(looked.columns)
        size = f"{looked.bytes / 1e6:.1f} MB" if looked.bytes >= 1e5 else f"{max(looked.bytes / 1e3, 0.1):.1f} kB"
        found = looked.found
        mappable = bool(looked.columns) and (found is None or found.format in _MAPPED_FORMATS)
        self.mapping_frame.setVisible(mappable)
        if found is None:
            self.what.setText(f"{looked.path.name} · {size}")
            words = "None of its columns has a name we know. Choose which one holds the prompt."
            self._say_note(looked.fault.detail if looked.fault and self.mapping().get("prompt") else words)
            self._fill(())
        else:
            from kdstudio.project.formats import FORMATS

            self.what.setText(f"{FORMATS[found.format].label} · {found.encoding.upper()} · {size}")
            self._say_note(found.note)
            self._fill(found.preview)
        self._show_happens()

    def _say_note(self, words: str) -> None:
        self.note.setText(words.strip())
        self.note.setVisible(bool(words.strip()))

    def _offer(self, columns: tuple[str, ...]) -> None:
        self._columns = columns
        for choice in self.columns.values():
            choice.blockSignals(True)
            choice.clear()
            choice.addItem("by name", "")
            for column in columns:
                choice.addItem(column, column)
            choice.blockSignals(False)

    def _show_happens(self) -> None:
        self.happens.setText(_WHAT_HAPPENS[self.kinds.value()])

    def _fill(self, items: tuple[Item, ...]) -> None:
        self.table.setRowCount(len(items))
        for place, item in enumerate(items):
            answer = item.response if item.response is not None else "  /  ".join(item.candidates)
            for column, text in enumerate((last_user_text(item.messages), answer or "–")):
                cell = QTableWidgetItem(" ".join(text[:300].split()))
                cell.setToolTip(text[:1000])
                cell.setFlags(Qt.ItemFlag.ItemIsEnabled)
                self.table.setItem(place, column, cell)


def _preview_table() -> QTableWidget:
    made = QTableWidget(0, 2)
    made.setObjectName("import_preview")
    made.setAccessibleName("The first records as they would be imported")
    made.setHorizontalHeaderLabels(["Prompt", "Answer"])
    made.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
    made.horizontalHeader().setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    made.horizontalHeader().setHighlightSections(False)
    made.verticalHeader().hide()
    made.verticalHeader().setDefaultSectionSize(28)
    made.setShowGrid(False)
    made.setWordWrap(False)
    made.setAlternatingRowColors(True)
    made.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    made.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
    made.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    return made
