"""Keeps a table up to date: asks its reader for the newest query, refreshes after changes, never faster than it can.

A refresh is not asked for while one runs, so that a slow query over a million rows ends although rows keep coming in;
and not while the table is out of sight.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, Signal

from kdstudio.errors import KnownError
from kdstudio.project.table import RowQuery
from kdstudio.ui.widgets.row_table import RowTableView
from kdstudio.ui.widgets.row_table_reader import RowReader, Snapshot, Standing

_REFRESH_SECONDS = 0.12


class RowFeed(QObject):
    """Feeds one table from one project folder.

    `asked()`: a look-up began; `found()`: its rows are in the table; `failed(KnownError)`.
    """

    asked = Signal()
    found = Signal()
    failed = Signal(object)

    def __init__(self, table: RowTableView, visible: Callable[[], bool]) -> None:
        super().__init__(table)
        self.query = RowQuery("response")
        self.seconds = 0.0
        self._table, self._visible = table, visible
        self._reader: RowReader | None = None
        self._running: tuple[int, float] | None = None
        self._dirty = False
        self._timer = QTimer(self, singleShot=True)
        self._timer.timeout.connect(self.refresh)

    def open(self, folder: Path) -> None:
        """Read from a project's folder."""
        self.close()
        self._reader = RowReader(folder, self)
        self._reader.found.connect(self._take)
        self._reader.failed.connect(self._fail)
        self._reader.start()
        self._table.rows.set_reader(self._reader)

    def close(self) -> None:
        """Let go of the project; the table is empty then."""
        reader, self._reader = self._reader, None
        self._running, self._dirty = None, False
        self._timer.stop()
        self._table.rows.set_reader(None)
        if reader is not None:
            reader.stop()
            reader.deleteLater()

    def ask(self, query: RowQuery) -> None:
        """Look a query up in place of any other; the table keeps what it shows until the answer comes."""
        self.query = query
        if self._reader is None:
            return
        standing = self._table.standing() if query.kind == self._table.rows.kind else Standing()
        self._dirty = False
        self._running = (self._reader.ask(query, standing), time.monotonic())
        self.asked.emit()

    def refresh(self) -> None:
        """Look the same query up again."""
        self.ask(self.query)

    def refresh_soon(self) -> None:
        """Look again soon after a change; once the table is in sight, and once what runs has ended."""
        if not self._visible() or self._running is not None:
            self._dirty = True
        elif not self._timer.isActive():
            self._timer.start(round(1000 * max(_REFRESH_SECONDS, 3 * self.seconds)))

    def catch_up(self) -> None:
        """Refresh now if something changed while the table was out of sight."""
        if self._dirty:
            self.refresh()

    def _take(self, snapshot: Snapshot) -> None:
        if self._running is None or snapshot.number != self._running[0]:
            return
        self.seconds = time.monotonic() - self._running[1]
        self._running = None
        self._table.adopt(snapshot)
        self.found.emit()
        if self._dirty:
            self._dirty = False
            self.refresh_soon()

    def _fail(self, error: KnownError) -> None:
        self._running = None
        self.failed.emit(error)
