"""A million rows as a Qt model: the ids are known, the rows come in pages from the reader's thread.

Nothing here waits. A row that is not there yet is painted as a placeholder and asked for; pages are kept, the least
recently used go first. A refresh keeps what is shown until the new rows have come, so that nothing flickers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt, QTimer, Signal

from kdstudio.project.content import Kind
from kdstudio.project.table import Sort, TableRow
from kdstudio.ui.widgets.row_table_reader import RowReader, Snapshot
from kdstudio.ui.widgets.wording import number as worded

PAGE = 64
KEPT_PAGES = 160
_SHOWN = 220
Index = QModelIndex | QPersistentModelIndex


@dataclass(frozen=True)
class Column:
    """A column: its field of `TableRow`, heading, sort, width in pixels (a share of the rest when `text`)."""

    field: str
    heading: str
    sort: Sort | None
    width: int
    text: bool = False
    right: bool = False
    editable: bool = False
    droppable: bool = False


_NUMBER = Column("id", "#", "id", 52, right=True)
_PROMPT = Column("prompt", "Prompt", "prompt", 45, text=True)
_SOURCE = Column("source", "Source", "source", 120, droppable=True)
_STATUS = Column("status", "Status", "status", 100)
COLUMNS: dict[Kind, tuple[Column, ...]] = {
    "prompt": (
        _NUMBER,
        Column("prompt", "Prompt", "prompt", 55, text=True, editable=True),
        Column("response", "First answer", None, 45, text=True),
        Column("tags", "Tags", None, 104, droppable=True),
        _SOURCE,
        _STATUS,
    ),
    "response": (
        _NUMBER,
        _PROMPT,
        Column("response", "Teacher answer", "response", 55, text=True, editable=True),
        Column("tokens", "Tokens", "tokens", 72, right=True, droppable=True),
        Column("teacher", "Teacher", "teacher", 124, droppable=True),
        _STATUS,
    ),
    "preference": (
        _NUMBER,
        _PROMPT,
        Column("response", "Preferred answer", "response", 55, text=True),
        _SOURCE,
        _STATUS,
    ),
}


class RowTableModel(QAbstractTableModel):
    """The rows of the newest snapshot. `edited(row_id, text)`: the person changed a cell's text."""

    edited = Signal(int, str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.kind: Kind = "response"
        self.ids: Sequence[int] = ()
        self.columns = COLUMNS[self.kind]
        self.sorted: tuple[str, bool] = ("id", False)
        self._reader: RowReader | None = None
        self._number = 0
        self._pages: OrderedDict[int, list[TableRow]] = OrderedDict()
        self._stale: set[int] = set()
        self._asked: set[int] = set()
        self._wanted: dict[int, None] = {}
        self._marks: dict[int, dict[str, str]] = {}
        self._flush = QTimer(self)
        self._flush.setSingleShot(True)
        self._flush.timeout.connect(self._ask)

    # ----------------------------------------------------------------------------------------------- the source
    def set_reader(self, reader: RowReader | None) -> None:
        """Read from another project, or from none."""
        if self._reader is not None:
            self._reader.page_read.disconnect(self._take_page)
        self._reader = reader
        if reader is not None:
            reader.page_read.connect(self._take_page)
        self.clear(self.kind)

    def clear(self, kind: Kind) -> None:
        """Show no rows, with the columns of a kind, until a snapshot comes."""
        self.beginResetModel()
        self.kind, self.columns, self.ids = kind, COLUMNS[kind], ()
        self._marks.clear()
        self._forget()
        self.endResetModel()

    def adopt(self, snapshot: Snapshot) -> bool:
        """Show a snapshot; True when the view was reset, so that current row and selection must be set again."""
        self._number = snapshot.number
        self._asked.clear()
        if snapshot.same or snapshot.grown:
            self._stale = set(self._pages)
            if snapshot.grown:
                self.beginInsertRows(QModelIndex(), len(self.ids), len(snapshot.ids) - 1)
                self.ids = snapshot.ids
                self.endInsertRows()
            self.ids = snapshot.ids
            self._changed(0, len(self.ids) - 1)  # repaints what is in sight, which asks for its pages anew
            return False
        self.beginResetModel()
        self.kind, self.columns, self.ids = snapshot.query.kind, COLUMNS[snapshot.query.kind], snapshot.ids
        self._forget()
        self.endResetModel()
        return True

    def _forget(self) -> None:
        self._pages.clear()
        self._stale.clear()
        self._asked.clear()
        self._wanted.clear()

    def _want(self, page: int) -> None:
        if page not in self._asked:
            self._wanted[page] = None
            if not self._flush.isActive():
                self._flush.start(0)

    def _ask(self) -> None:
        wanted, self._wanted = self._wanted, {}
        for page in wanted:
            ids = self.ids[page * PAGE : (page + 1) * PAGE]
            if self._reader is not None and len(ids) and page not in self._asked:
                self._asked.add(page)
                dropped = self._reader.want_page(self._number, self.kind, page, ids)
                if dropped is not None:
                    self._asked.discard(dropped)

    def _take_page(self, number: int, page: int, rows: list[TableRow]) -> None:
        if number != self._number:
            return
        self._asked.discard(page)
        self._stale.discard(page)
        self._pages[page] = self._marked(rows)
        self._pages.move_to_end(page)
        while len(self._pages) > KEPT_PAGES:
            gone, _ = self._pages.popitem(last=False)
            self._stale.discard(gone)
        self._changed(page * PAGE, page * PAGE + len(rows) - 1)

    def _changed(self, first: int, last: int) -> None:
        last = min(last, len(self.ids) - 1)
        if 0 <= first <= last:
            self.dataChanged.emit(self.index(first, 0), self.index(last, len(self.columns) - 1))

    # -------------------------------------------------------------------------------------------------- reading
    def row(self, place: int) -> TableRow | None:
        """The row at a place, or None while it is being read; asks for it then."""
        page = place // PAGE
        rows = self._pages.get(page)
        if rows is None or page in self._stale:
            self._want(page)
        if rows is None or place % PAGE >= len(rows):
            return None
        self._pages.move_to_end(page)
        return rows[place % PAGE]

    def cell(self, place: int, column: int) -> str | None:
        """The text of a cell on one line; None while it is being read. Ids are known at once."""
        shown = self.columns[column]
        if shown.field == "id":
            return worded(self.ids[place])
        row = self.row(place)
        return None if row is None else flat(row, shown.field)

    def mark(self, ids: Iterable[int], **changes: str) -> None:
        """Show a change at once, before it is written; `unmark` when it was, or could not be."""
        self._marks.update(dict.fromkeys(ids, changes))
        for page, rows in self._pages.items():
            self._pages[page] = self._marked(rows)
        self._changed(0, len(self.ids) - 1)

    def unmark(self, ids: Iterable[int]) -> None:
        """From the next refresh on show what the project holds."""
        for item in ids:
            self._marks.pop(item, None)

    def _marked(self, rows: list[TableRow]) -> list[TableRow]:
        if not any(row.id in self._marks for row in rows):
            return rows
        return [replace(row, **self._marks.get(row.id, {})) for row in rows]  # type: ignore[arg-type]

    # ----------------------------------------------------------------------------------------------- Qt's model
    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - Qt's own signature
        """How many rows the query has."""
        return 0 if parent.isValid() else len(self.ids)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - Qt's own signature
        """The columns of the kind that is shown."""
        return 0 if parent.isValid() else len(self.columns)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Texts for display, tool tips and screen readers; the delegate paints by `cell`, which is cheaper."""
        if not index.isValid() or index.row() >= len(self.ids):
            return None
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.AccessibleTextRole):
            return self.cell(index.row(), index.column()) or ""
        if role == Qt.ItemDataRole.ToolTipRole:
            row = self.row(index.row())
            field = self.columns[index.column()].field
            if row is not None and field == "status":
                return f"{row.status}: {row.reason}" if row.reason else row.status
            return None if row is None or field in ("id", "tokens") else str(getattr(row, field))
        if role == Qt.ItemDataRole.TextAlignmentRole and self.columns[index.column()].right:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Headings, aligned as their cells."""
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(self.columns):
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            sort, descending = self.sorted
            mark = ("  ↓" if descending else "  ↑") if self.columns[section].sort == sort else ""
            return self.columns[section].heading + mark
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignRight if self.columns[section].right else Qt.AlignmentFlag.AlignLeft
            return side | Qt.AlignmentFlag.AlignVCenter
        return None

    def flags(self, index: Index) -> Qt.ItemFlag:
        """Rows can be chosen; the text that a person may correct can be edited."""
        base = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemNeverHasChildren
        editable = index.isValid() and self.columns[index.column()].editable and self.row(index.row()) is not None
        return base | Qt.ItemFlag.ItemIsEditable if editable else base

    def setData(self, index: Index, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        """Pass an edit on; the row is written by whoever listens."""
        if role != Qt.ItemDataRole.EditRole or not index.isValid():
            return False
        self.edited.emit(self.ids[index.row()], str(value))
        return True

    def editable_column(self) -> int:
        """The column that the person may edit; -1 for none."""
        return next((place for place, column in enumerate(self.columns) if column.editable), -1)


def flat(row: TableRow, field: str) -> str:
    """A field on one short line, as a cell shows it."""
    value = getattr(row, field)
    if field == "tokens":
        return worded(value) if value else "–"
    return " ".join(str(value)[:_SHOWN].split())
