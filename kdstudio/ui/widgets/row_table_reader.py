"""The one thread that reads rows for the table: ids of a query, pages of rows, and where to stand after a change.

The window's thread only asks and is told by signal. A newer question makes an older one worthless: what runs for it is
interrupted. Pages are read newest first, since those are what the person looks at.
"""

from __future__ import annotations

import contextlib
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PySide6.QtCore import QObject, QThread, Signal

from kdstudio.errors import KnownError
from kdstudio.project.content import Kind
from kdstudio.project.table import RowQuery, RowTable

WAITING_PAGES = 8
_NEIGHBOURS = 64


@dataclass(frozen=True)
class Standing:
    """Where a view stands before a refresh: its ids, the current place (-1: none), the top place, the chosen ids."""

    ids: Sequence[int] = ()
    place: int = -1
    top: int = 0
    chosen: tuple[int, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """The ids of a query at one moment.

    `same`: they are those of the standing. `grown`: they begin with those. `place`, `top`, `chosen`: where the current
    row, the top row and the chosen rows are now; a row that is gone is stood for by its nearest neighbour.
    """

    number: int
    query: RowQuery
    ids: Sequence[int]
    same: bool = False
    grown: bool = False
    place: int = -1
    top: int = 0
    chosen: tuple[int, ...] = ()


@dataclass
class _Waiting:
    query: tuple[int, RowQuery, Standing] | None = None
    pages: list[tuple[int, Kind, int, Sequence[int]]] = field(default_factory=list)
    closed: bool = False


class RowReader(QThread):
    """Reads the rows of one project folder. `stop` it before the project closes.

    `found(Snapshot)` answers `ask`, `page_read(number, page, rows)` answers `want_page`, `failed(KnownError)` either.
    """

    found = Signal(object)
    page_read = Signal(int, int, list)
    failed = Signal(object)

    def __init__(self, folder: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("row_reader")
        self._folder = folder
        self._waiting = _Waiting()
        self._turn = threading.Condition()
        self._number = 0
        self._looking_up = False
        self._table: RowTable | None = None

    def ask(self, query: RowQuery, standing: Standing | None = None) -> int:
        """Look a query up, in place of any before; returns the number under which the answer and its pages come."""
        with self._turn:
            self._number += 1
            self._waiting.query = (self._number, query, standing or Standing())
            if self._looking_up and self._table is not None:
                self._table.interrupt()
            self._turn.notify()
            return self._number

    def want_page(self, number: int, kind: Kind, page: int, ids: Sequence[int]) -> int | None:
        """Read the rows of these ids. Returns the oldest waiting page when it is dropped, because there are many."""
        with self._turn:
            waiting = self._waiting.pages
            waiting.append((number, kind, page, ids))
            self._turn.notify()
            return waiting.pop(0)[2] if len(waiting) > WAITING_PAGES else None

    def stop(self) -> None:
        """End the thread, interrupting what it does, and wait for it."""
        with self._turn:
            self._waiting.closed = True
            if self._looking_up and self._table is not None:
                self._table.interrupt()
            self._turn.notify()
        self.wait()

    # ------------------------------------------------------------------------------------------------ the thread
    def run(self) -> None:
        """The thread: open the table, answer until it is stopped."""
        try:
            table = RowTable(self._folder)
        except KnownError as error:
            self.failed.emit(error)
            return
        with contextlib.closing(table):
            self._table = table
            while self._serve(table):
                pass
        self._table = None

    def _serve(self, table: RowTable) -> bool:
        """Answer one wish; False when the thread is to end. A page that is in sight goes before a refresh."""
        with self._turn:
            self._turn.wait_for(lambda: self._waiting.closed or self._waiting.query or self._waiting.pages)
            if self._waiting.closed:
                return False
            page = self._waiting.pages.pop() if self._waiting.pages else None
            query = None
            if page is None:
                query, self._waiting.query = self._waiting.query, None
                self._looking_up = True
        try:
            if page is not None:
                number, kind, index, ids = page
                self.page_read.emit(number, index, table.fetch(kind, ids))
            elif query is not None:
                self._look_up(table, *query)
        except KnownError as error:
            self.failed.emit(error)
        return True

    def _look_up(self, table: RowTable, number: int, query: RowQuery, standing: Standing) -> None:
        try:
            ids = table.ids(query)
        finally:
            with self._turn:  # whoever interrupts holds this lock: the next look-up is never hit by it
                self._looking_up = False
                newest = number == self._number
        if newest and not isinstance(ids, tuple):
            self.found.emit(compared(number, query, ids, standing))


def compared(number: int, query: RowQuery, ids: Sequence[int], standing: Standing) -> Snapshot:
    """A snapshot that says what became of `standing`."""
    old = standing.ids
    alike = type(ids) is type(old)
    if alike and len(ids) == len(old) and ids == old:
        return Snapshot(number, query, ids, same=True, place=standing.place, top=standing.top)
    if alike and len(old) and len(ids) > len(old) and ids[: len(old)] == old:
        return Snapshot(number, query, ids, grown=True, place=standing.place, top=standing.top)
    wanted: list[int] = []
    for place in (standing.place, standing.top):
        wanted += _nearest(old, place)
    places = places_of(ids, [*wanted, *standing.chosen])
    last = len(ids) - 1
    here = _first(_nearest(old, standing.place), places, min(standing.place, last))
    top = _first(_nearest(old, standing.top), places, max(0, min(standing.top, last)))
    chosen = tuple(sorted(places[item] for item in standing.chosen if item in places))
    return Snapshot(number, query, ids, place=here, top=top, chosen=chosen)


def _nearest(ids: Sequence[int], place: int) -> list[int]:
    """The id at a place, those after it, then those before it."""
    if not 0 <= place < len(ids):
        return []
    after, before = ids[place : place + _NEIGHBOURS], ids[max(0, place - _NEIGHBOURS) : place]
    return [*after, *reversed(before)]


def _first(wanted: list[int], places: dict[int, int], otherwise: int) -> int:
    return next((places[item] for item in wanted if item in places), otherwise)


def places_of(ids: Sequence[int], wanted: Sequence[int]) -> dict[int, int]:
    """Where each of the wanted ids stands; those that are not there are left out."""
    if isinstance(ids, range):
        return {item: ids.index(item) for item in wanted if item in ids}
    if not len(wanted) or not len(ids):
        return {}
    import numpy as np  # here, in the reader's thread: its import is too long for the window's

    table = np.frombuffer(ids, dtype=np.int64) if isinstance(ids, array) else np.asarray(ids, dtype=np.int64)
    found = np.flatnonzero(np.isin(table, np.asarray(wanted, dtype=np.int64)))
    return {int(table[place]): int(place) for place in found}
