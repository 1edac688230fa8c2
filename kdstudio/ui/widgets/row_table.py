"""The table of rows: a million of them, reviewed by keyboard.

Letter keys act only while the table has the focus. What a key means is said by signal; the page does it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence

from PySide6.QtCore import QItemSelection, QItemSelectionModel, QItemSelectionRange, QPoint, Qt, Signal
from PySide6.QtGui import QKeyEvent, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from kdstudio.project.table import Sort
from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.row_table_delegate import MARGIN, CellDelegate
from kdstudio.ui.widgets.row_table_model import RowTableModel
from kdstudio.ui.widgets.row_table_reader import Snapshot, Standing
from kdstudio.ui.widgets.wording import number

ROW_HEIGHT = 30
MINIMUM_TEXT = 128
COMFORTABLE_TEXT = 160
KEPT_CHOICE = 5000
"""A choice of at most so many single rows survives a refresh that moves rows."""


class RowTableView(QTableView):
    """Signals: `key_pressed(name)` (accept, reject, reason, edit, preview, copy), `sort_wanted(sort, descending)`,
    `chosen_changed()`, `menu_wanted(global point)`.
    """

    key_pressed = Signal(str)
    sort_wanted = Signal(str, bool)
    chosen_changed = Signal()
    menu_wanted = Signal(QPoint)

    def __init__(self, full_text: Callable[[int], str | None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("data_table")
        self.setAccessibleName("Rows")
        self.rows = RowTableModel(self)
        self._widths_are_ours = True
        self.setModel(self.rows)
        self.setItemDelegate(CellDelegate(self.rows, full_text, self))
        self._dress()
        self.rows.modelReset.connect(self._lay_out)
        self.selectionModel().selectionChanged.connect(lambda _new, _old: self.chosen_changed.emit())
        self.selectionModel().currentChanged.connect(lambda _new, _old: self.chosen_changed.emit())
        self.customContextMenuRequested.connect(lambda at: self.menu_wanted.emit(self.viewport().mapToGlobal(at)))
        theme().changed.connect(self.viewport().update)

    def _dress(self) -> None:
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.DoubleClicked)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setAlternatingRowColors(True)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.setCornerButtonEnabled(False)
        down = self.verticalHeader()
        down.hide()
        down.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        down.setMinimumSectionSize(ROW_HEIGHT)
        down.setDefaultSectionSize(ROW_HEIGHT)
        across = self.horizontalHeader()
        across.setObjectName("data_table_header")
        across.setAccessibleName("Columns; press one to sort by it")
        across.setSectionsClickable(True)
        across.setHighlightSections(False)
        across.setMinimumSectionSize(44)
        # Qt would choose the whole column at a press, and look at every chosen row to paint the heading: with a million
        # chosen rows that takes minutes. The headings get a selection of their own, which stays empty.
        across.sectionPressed.disconnect()
        across.sectionEntered.disconnect()
        across.setSelectionModel(QItemSelectionModel(self.rows, across))
        across.sectionClicked.connect(self._sort_by)
        across.sectionResized.connect(self._resized)

    # -------------------------------------------------------------------------------------------------- columns
    def show_sort(self, sort: str, *, descending: bool) -> None:
        """Point the arrow at the column that the rows are sorted by."""
        self.rows.sorted = (sort, descending)
        self.rows.headerDataChanged.emit(Qt.Orientation.Horizontal, 0, len(self.rows.columns) - 1)

    def _sort_by(self, section: int) -> None:
        sort: Sort | None = self.rows.columns[section].sort
        if sort is not None:
            descending = not self.rows.sorted[1] if sort == self.rows.sorted[0] else False
            self.show_sort(sort, descending=descending)
            self.sort_wanted.emit(sort, descending)

    def _resized(self, _section: int, old: int, new: int) -> None:
        if self._widths_are_ours and old and new and self.horizontalHeader().underMouse() and not self._laying_out:
            self._widths_are_ours = False

    _laying_out = False

    def _lay_out(self) -> None:
        """Fixed columns keep their width, texts share the rest; the dispensable ones go where texts would be tiny."""
        if not self._widths_are_ours:
            return
        self._laying_out = True
        columns = list(enumerate(self.rows.columns))
        widths = {place: column.width for place, column in columns if not column.text}
        widths[0] = max(widths[0], self.fontMetrics().horizontalAdvance(number(max(self._last_id(), 999))) + 2 * MARGIN)
        texts = [column for _, column in columns if column.text]
        room = self.viewport().width()
        for place in reversed([place for place, column in columns if column.droppable]):
            if room - sum(widths.values()) < COMFORTABLE_TEXT * len(texts):
                del widths[place]
        rest, shares = max(room - sum(widths.values()), MINIMUM_TEXT * len(texts)), sum(one.width for one in texts)
        for place, column in columns:
            if column.text:
                others = MINIMUM_TEXT * (len(texts) - 1)
                self.setColumnWidth(place, min(max(rest * column.width // shares, MINIMUM_TEXT), rest - others))
            else:
                self.setColumnHidden(place, place not in widths)
                self.setColumnWidth(place, widths.get(place, column.width))
        self._laying_out = False

    def _last_id(self) -> int:
        ids = self.rows.ids
        return max(ids[0], ids[-1], ids[len(ids) // 2]) if len(ids) else 0

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Give the texts what is left."""
        super().resizeEvent(event)
        self._lay_out()

    # --------------------------------------------------------------------------------------------------- choice
    def current_place(self) -> int:
        """The place of the current row; -1 for none."""
        return self.currentIndex().row()

    def current_id(self) -> int | None:
        """The id of the current row."""
        place = self.current_place()
        return self.rows.ids[place] if 0 <= place < len(self.rows.ids) else None

    def chosen_ranges(self) -> list[tuple[int, int]]:
        """The chosen places as (first, last), in order: a million chosen rows are one pair."""
        parts: list[QItemSelectionRange] = list(self.selectionModel().selection())  # type: ignore[call-overload]
        pairs = sorted((part.top(), part.bottom()) for part in parts if part.isValid())
        merged: list[tuple[int, int]] = []
        for first, last in pairs:
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        return merged

    def chosen_count(self) -> int:
        """How many rows are chosen."""
        return sum(last - first + 1 for first, last in self.chosen_ranges())

    def chosen_ids(self) -> Sequence[int]:
        """The ids of the chosen rows, in the table's order. Rows that stand together are a slice: nobody walks them."""
        parts = [self.rows.ids[first : last + 1] for first, last in self.chosen_ranges()]
        if len(parts) == 1:
            return parts[0]
        joined = array("q")
        for part in parts:
            joined.extend(part)
        return joined

    def standing(self) -> Standing:
        """Where this view stands, for a refresh."""
        few = self.chosen_count() <= KEPT_CHOICE
        top = max(0, self.rowAt(0))
        return Standing(self.rows.ids, self.current_place(), top, tuple(self.chosen_ids()) if few else ())

    def adopt(self, snapshot: Snapshot) -> None:
        """Show a snapshot; current row, choice and scroll place stay with their rows."""
        if not self.rows.adopt(snapshot):
            return
        if not len(snapshot.ids):
            self.chosen_changed.emit()
            return
        self.scrollTo(self.rows.index(snapshot.top, 0), QAbstractItemView.ScrollHint.PositionAtTop)
        choose = self.selectionModel()
        place = max(snapshot.place, 0)
        choose.setCurrentIndex(self.rows.index(place, self._home()), QItemSelectionModel.SelectionFlag.NoUpdate)
        picked = QItemSelection()
        for first, last in _runs(snapshot.chosen or (place,)):
            end = self.rows.index(last, len(self.rows.columns) - 1)
            picked.append(QItemSelectionRange(self.rows.index(first, 0), end))
        choose.select(picked, QItemSelectionModel.SelectionFlag.ClearAndSelect)
        self.scrollTo(self.currentIndex())

    def _home(self) -> int:
        """The column in which the current cell stands: the text that can be edited."""
        return max(self.rows.editable_column(), 0)

    def go_to(self, place: int) -> None:
        """Make one row the current and only chosen one, and bring it into sight."""
        if len(self.rows.ids):
            place = max(0, min(place, len(self.rows.ids) - 1))
            flags = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
            self.selectionModel().setCurrentIndex(self.rows.index(place, self._home()), flags)
            self.scrollTo(self.currentIndex())

    def advance(self) -> None:
        """On to the row after the last chosen one."""
        ranges = self.chosen_ranges()
        self.go_to((ranges[-1][1] if ranges else self.current_place()) + 1)

    def edit_current(self) -> bool:
        """Open the editor over the current row's text; False where it cannot be edited."""
        column = self.rows.editable_column()
        if column < 0 or self.current_place() < 0:
            return False
        index = self.rows.index(self.current_place(), column)
        self.setCurrentIndex(index)
        self.scrollTo(index)
        self.edit(index)
        return True

    # --------------------------------------------------------------------------------------------------- events
    def keyPressEvent(self, event: QKeyEvent) -> None:
        """The keys of reviewing; the others (arrows, pages, Ctrl+A) are Qt's."""
        held = event.modifiers() & ~Qt.KeyboardModifier.KeypadModifier
        shifted = held == Qt.KeyboardModifier.ShiftModifier
        both = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
        plain = {Qt.Key.Key_A: "accept", Qt.Key.Key_R: "reject", Qt.Key.Key_E: "edit", Qt.Key.Key_F2: "edit"}
        plain |= {Qt.Key.Key_Space: "preview", Qt.Key.Key_U: "reset"}
        key = Qt.Key(event.key())
        if held == both and key == Qt.Key.Key_C:
            self.key_pressed.emit("copy")
        elif shifted and key == Qt.Key.Key_R:
            self.key_pressed.emit("reason")
        elif held == Qt.KeyboardModifier.NoModifier and key in (Qt.Key.Key_J, Qt.Key.Key_K):
            self.go_to(self.current_place() + (1 if key == Qt.Key.Key_J else -1))
        elif held == Qt.KeyboardModifier.NoModifier and key in plain:
            self.key_pressed.emit(plain[key])
        else:
            super().keyPressEvent(event)

    def keyboardSearch(self, _text: str) -> None:
        """Do not walk through a million rows for a letter; the search box does that in the reader's thread."""

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint in one go: entering Python here holds the interpreter's lock for the whole frame, so that a busy
        worker thread costs one wait and not one a cell.
        """
        super().paintEvent(event)


def _runs(places: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Sorted places as runs without gaps."""
    start = end = places[0]
    for place in places[1:]:
        if place != end + 1:
            yield start, end
            start = place
        end = place
    yield start, end
