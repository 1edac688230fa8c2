"""The window onto a million rows: any place of any filtered, sorted table, without OFFSET.

A query is answered by the list of its ids, eight bytes a row. Ids without gaps need no list at all: then a place *is*
an id, less the first. Either way a jump costs one look-up by primary key, wherever it goes. Making the list of a
filtered query reads an index once; that belongs on a worker thread and can be interrupted.
"""

from __future__ import annotations

import contextlib
import sqlite3
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdstudio.project.content import Kind
from kdstudio.project.database import DATABASE_NAME, connect_read_only, database_errors
from kdstudio.project.judgements import differing
from kdstudio.project.migrations import KIND_TABLES
from kdstudio.project.search import matching

Sort = Literal["id", "tokens", "status", "source", "teacher", "prompt", "response"]
_SHOWN_CHARACTERS = 400
_ALL_CHARACTERS = (1 << 31) - 1


@dataclass(frozen=True)
class RowQuery:
    """Which rows, in which order. `search` looks in prompts and answers; empty fields do not narrow.

    `differs`: the key of a judge's criterion; only rows on which a person decided otherwise.
    """

    kind: Kind
    status: str = ""
    search: str = ""
    tag: str = ""
    teacher: str = ""
    run: str = ""
    differs: str = ""
    sort: Sort = "id"
    descending: bool = False


@dataclass(frozen=True)
class TableRow:
    """One row as a table shows it; long texts are cut at 400 characters."""

    id: int
    kind: Kind
    prompt: str
    response: str
    tokens: int
    status: str
    source: str
    teacher: str
    tags: str
    reason: str


_COLUMNS = {
    "prompt": """SELECT t.id, substr(t.text, 1, {n}) AS prompt,
        coalesce((SELECT substr(r.text, 1, {n}) FROM responses r WHERE r.prompt_id = t.id ORDER BY r.id LIMIT 1), '')
        AS response, t.tokens, t.status, t.source, '' AS teacher, t.tags, t.reason FROM prompts t""",
    "response": """SELECT t.id, substr(p.text, 1, {n}) AS prompt, substr(t.text, 1, {n}) AS response, t.tokens,
        t.status, t.source, t.teacher, p.tags, t.reason FROM responses t JOIN prompts p ON p.id = t.prompt_id""",
    "preference": """SELECT t.id, substr(p.text, 1, {n}) AS prompt, substr(t.text, 1, {n}) AS response, t.tokens,
        t.status, t.source, '' AS teacher, p.tags, t.reason FROM preferences t JOIN prompts p ON p.id = t.prompt_id""",
}
_SORT_COLUMNS = {
    "id": {},
    "tokens": {},
    "status": {},
    "source": {},
    "teacher": {"prompt": "source", "preference": "source"},
    "response": {"prompt": "text", "response": "text", "preference": "text"},
    "prompt": {"prompt": "text", "response": "prompt_id", "preference": "prompt_id"},
}
"""What a sort reads where it is not the column of its own name. By prompt, the answers to one prompt stand together."""


class RowTable:
    """Reads rows for one view through a connection of its own. Use from one thread at a time; `interrupt` from any."""

    def __init__(self, folder: Path) -> None:
        """Open the project's database in `folder` read-only. Raises `KnownError` when it cannot be read."""
        self._path = folder / DATABASE_NAME
        with database_errors(self._path):
            self._connection = connect_read_only(self._path)
        self._query: RowQuery | None = None
        self._version = -1
        self._ids: Sequence[int] = ()
        self._interrupted = False

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def interrupt(self) -> None:
        """End a running look-up; `ids` then returns an empty tuple."""
        self._interrupted = True
        with contextlib.suppress(sqlite3.ProgrammingError):
            self._connection.interrupt()

    def ids(self, query: RowQuery) -> Sequence[int]:
        """The ids of all rows of a query in its order: a range where there are no gaps, else an array of int64.

        Kept until the query or the data changes. An empty tuple, which is not kept, when interrupted.
        """
        self._interrupted = False
        try:
            with database_errors(self._path):
                version = self._data_version()
                if query != self._query or version != self._version:
                    self._query = None
                    self._ids = self._find(query)
                    self._query, self._version = query, version
        except sqlite3.OperationalError as error:
            # An interrupt while the first search opens the full-text index is reported as the index's own failure.
            if self._interrupted or "interrupt" in str(error):
                return ()
            raise
        return self._ids

    def count(self, query: RowQuery) -> int:
        """How many rows a query has."""
        return len(self.ids(query))

    def page(self, query: RowQuery, first: int, limit: int, *, whole: bool = False) -> list[TableRow]:
        """Rows from the place `first` on, at most `limit`; with their `whole` texts if wanted."""
        return self.fetch(query.kind, self.ids(query)[first : first + limit], whole=whole)

    def ordinal(self, query: RowQuery, row_id: int) -> int:
        """The place of a row in a query; -1 if it is not there."""
        ids = self.ids(query)
        if isinstance(ids, range):
            return ids.index(row_id) if row_id in ids else -1
        if query.sort == "id" and not query.descending:
            place = bisect_left(ids, row_id)
            return place if place < len(ids) and ids[place] == row_id else -1
        try:
            return ids.index(row_id)
        except ValueError:
            return -1

    def fetch(self, kind: Kind, ids: Sequence[int], *, whole: bool = False) -> list[TableRow]:
        """The rows of these ids, in their order; with their `whole` texts if wanted."""
        if not len(ids):
            return []
        marks = ",".join(map(str, ids))
        sql = f"{_COLUMNS[kind].format(n=_ALL_CHARACTERS if whole else _SHOWN_CHARACTERS)} WHERE t.id IN ({marks})"
        with database_errors(self._path):
            found = {row["id"]: TableRow(kind=kind, **dict(row)) for row in self._connection.execute(sql)}
        return [found[item] for item in ids if item in found]

    def tags(self) -> list[str]:
        """Tags in use, from the first thousands of distinct tag lists."""
        rows = self._connection.execute("SELECT DISTINCT tags FROM prompts LIMIT 5000").fetchall()
        return sorted({tag for row in rows for tag in row[0].split()})

    def _data_version(self) -> int:
        """Changes whenever another connection committed."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def _find(self, query: RowQuery) -> Sequence[int]:
        table = KIND_TABLES[query.kind]
        where, values = _conditions(query)
        if query.differs:
            clause, own = differing(self._read, query.kind, query.differs)
            where.append(clause)
            values += own
        words = query.search.strip()
        if not where and not words and query.sort == "id":
            # One SELECT for each end: with both in one, SQLite would scan the whole table.
            ends = f"SELECT (SELECT min(id) FROM {table}), (SELECT max(id) FROM {table})"  # noqa: S608
            low, high = self._connection.execute(ends).fetchone()
            low, high = (0, -1) if low is None else (low, high)
            counted = "SELECT coalesce(sum(number), 0) FROM counts WHERE kind = ?"
            count = self._connection.execute(counted, (query.kind,)).fetchone()[0]
            if high - low + 1 == count:
                return range(high, low - 1, -1) if query.descending else range(low, high + 1)
        if words and not where and query.sort == "id":
            return self._search(query, table)
        if words:
            found, found_values = _matching(query, table)
            where.append(found)
            values += found_values
        clause = f"WHERE {' AND '.join(where)}" if where else ""
        return self._listed(f"SELECT id FROM {table} {clause} ORDER BY {_order(query)}", values)  # noqa: S608

    def _search(self, query: RowQuery, table: str) -> array[int]:
        """What a search alone finds, straight from the full-text index; answers are found by their prompts, too."""
        own, own_value = matching(table, query.search.strip())
        ids = self._listed(f"{own} ORDER BY 1", [own_value])
        if query.kind != "prompt":
            theirs, their_value = matching("prompts", query.search.strip())
            ids = _united(ids, self._listed(f"SELECT id FROM {table} WHERE prompt_id IN ({theirs})", [their_value]))  # noqa: S608
        return ids[::-1] if query.descending else ids

    def _read(self, sql: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        return self._connection.execute(sql, values).fetchall()

    def _listed(self, sql: str, values: Sequence[Any]) -> array[int]:
        """The ids that a SELECT gives, in its order.

        They come as one text instead of a million rows: a fifth of the time, and the interpreter's lock is free
        meanwhile.
        """
        text = self._connection.execute(f"SELECT group_concat(id) FROM ({sql})", values).fetchone()[0]  # noqa: S608
        return _numbers(text or "")


def _united(one: array[int], other: array[int]) -> array[int]:
    """The ids in either, rising, each once.

    Not by numpy's `union1d`: since 2.3 it fills a hash table under the interpreter's lock, which stopped the window for
    150 ms at a million ids. A stable sort merges what is rising already, and holds no lock.
    """
    import numpy as np  # here, because its import is too long for a start that reads no table

    both = np.concatenate([np.asarray(one, np.int64), np.asarray(other, np.int64)])
    both.sort(kind="stable")
    first = np.ones(len(both), dtype=bool)
    first[1:] = both[1:] != both[:-1]
    numbers = array("q")
    numbers.frombytes(both[first].tobytes())
    return numbers


def _numbers(text: str) -> array[int]:
    """The numbers of `1,2,3` as int64."""
    import numpy as np  # here, because its import is too long for a start that reads no table

    numbers = array("q")
    numbers.frombytes(np.fromstring(text, dtype=np.int64, sep=",").tobytes() if text else b"")
    return numbers


def _order(query: RowQuery) -> str:
    column = _SORT_COLUMNS[query.sort].get(query.kind, query.sort)
    direction = " DESC" if query.descending else ""
    return f"id{direction}" if column == "id" else f"{column}{direction}, id"


def _conditions(query: RowQuery) -> tuple[list[str], list[Any]]:
    where: list[str] = []
    values: list[Any] = []
    if query.status:
        where.append("status = ?")
        values.append(query.status)
    if query.teacher and query.kind == "response":
        where.append("teacher = ?")
        values.append(query.teacher)
    if query.run and query.kind != "prompt":
        where.append("run = ?")
        values.append(query.run)
    if query.tag:
        tagged = "instr(' ' || tags || ' ', ' ' || ? || ' ')"
        where.append(tagged if query.kind == "prompt" else f"prompt_id IN (SELECT id FROM prompts WHERE {tagged})")  # noqa: S608
        values.append(query.tag)
    return where, values


def _matching(query: RowQuery, table: str) -> tuple[str, list[str]]:
    own, own_value = matching(table, query.search.strip())
    if query.kind == "prompt":
        return f"id IN ({own})", [own_value]
    theirs, their_value = matching("prompts", query.search.strip())
    return f"(id IN ({own}) OR prompt_id IN ({theirs}))", [own_value, their_value]
