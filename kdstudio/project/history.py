"""Undo and redo, kept in the database: what a person decided or edited, before and after, one entry an action."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from kdstudio.jobs.events import now
from kdstudio.project.database import Database
from kdstudio.project.migrations import KIND_TABLES

_COLUMNS = {"status", "reason", "decided", "messages", "text", "message", "source"}
CHANGES = "(status <> :status OR decided <> :decided)"
"""Which rows a decision changes."""
REASON = "CASE WHEN :reason = '' AND status = :status THEN reason ELSE :reason END"
"""A row's reason after a decision: confirming what was decided without a word keeps the one it had."""
KEPT = 200
"""How many actions can be undone."""
KEPT_ROWS = 2_000_000
"""How many rows all actions but the newest may name in all: about 200 MB."""
_ROWS_OF = "SELECT count(*) FROM history_rows WHERE history_id = ?"
_FIRST_OF_KIND = "SELECT kind, before, after, min(row_id) FROM history_rows WHERE history_id = ? GROUP BY kind"
"""All rows of one kind in an entry changed in the same columns: the first shows which."""


class History:
    """The stack of undoable actions of one project; it survives a restart."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, connection: sqlite3.Connection, label: str) -> int:
        """Open an entry inside the caller's transaction; what could be redone is forgotten."""
        connection.execute("DELETE FROM history WHERE undone = 1")
        cursor = connection.execute("INSERT INTO history (label, created) VALUES (?, ?)", (label, now()))
        return int(cursor.lastrowid or 0)

    def record(
        self,
        connection: sqlite3.Connection,
        entry: int,
        kind: str,
        row_id: int,
        before: dict[str, Any],
        after: dict[str, Any],
    ) -> None:
        """Note one row's columns before and after."""
        connection.execute(
            "INSERT INTO history_rows VALUES (?,?,?,?,?)", (entry, kind, row_id, json.dumps(before), json.dumps(after))
        )

    def record_statuses(
        self, connection: sqlite3.Connection, entry: int, kind: str, ids: str, status: str, reason: str, decided: int
    ) -> None:
        """Note that the rows of these ids (a JSON list) get a status, unless they have it; call it before they do."""
        before = "json_object('status', status, 'reason', reason, 'decided', decided)"
        after = f"json_object('status', :status, 'reason', {REASON}, 'decided', :decided)"
        connection.execute(
            f"INSERT INTO history_rows SELECT :entry, :kind, id, {before}, {after} FROM {KIND_TABLES[kind]} "  # noqa: S608
            f"WHERE id IN (SELECT value FROM json_each(:ids)) AND {CHANGES}",
            {"entry": entry, "kind": kind, "ids": ids, "status": status, "reason": reason, "decided": decided},
        )

    def commit(self, connection: sqlite3.Connection, entry: int) -> None:
        """Drop an entry that changed nothing, and the oldest beyond what is kept."""
        if connection.execute("SELECT 1 FROM history_rows WHERE history_id = ? LIMIT 1", (entry,)).fetchone() is None:
            connection.execute("DELETE FROM history WHERE id = ?", (entry,))
        connection.execute(
            "DELETE FROM history WHERE id <= (SELECT id FROM history ORDER BY id DESC LIMIT 1 OFFSET ?)", (KEPT,)
        )
        if connection.execute(_ROWS_OF, (entry,)).fetchone()[0] > KEPT_ROWS // 200:
            entries = connection.execute("SELECT id FROM history WHERE id < ? ORDER BY id DESC", (entry,)).fetchall()
            total = 0
            for (older,) in entries:  # the newest action can always be undone, however large
                total += connection.execute(_ROWS_OF, (older,)).fetchone()[0]
                if total > KEPT_ROWS:
                    connection.execute("DELETE FROM history WHERE id <= ?", (older,))
                    break

    def apply(self, connection: sqlite3.Connection, kind: str, row_id: int, values: dict[str, Any]) -> None:
        """Write columns back to a row."""
        if not set(values) <= _COLUMNS:
            raise ValueError(f"not columns that history may write: {set(values) - _COLUMNS}")
        places = ", ".join(f"{name} = ?" for name in values)
        connection.execute(f"UPDATE {KIND_TABLES[kind]} SET {places} WHERE id = ?", (*values.values(), row_id))  # noqa: S608

    def undo(self) -> str | None:
        """Take the last action back; returns its label, or None when there is nothing to undo."""
        return self._move("SELECT * FROM history WHERE undone = 0 ORDER BY id DESC LIMIT 1", "before", undone=1)

    def redo(self) -> str | None:
        """Do the last undone action again; returns its label, or None."""
        return self._move("SELECT * FROM history WHERE undone = 1 ORDER BY id LIMIT 1", "after", undone=0)

    def _move(self, sql: str, column: str, *, undone: int) -> str | None:
        with self._database.write() as connection:
            entry = connection.execute(sql).fetchone()
            if entry is None:
                return None
            kinds = connection.execute(_FIRST_OF_KIND, (entry["id"],)).fetchall()
            for first in kinds:
                names = [name for name in json.loads(first[column]) if name in _COLUMNS]
                written = ", ".join(f"{name} = json_extract(h.{column}, '$.{name}')" for name in names)
                connection.execute(
                    f"UPDATE {KIND_TABLES[first['kind']]} AS t SET {written} FROM history_rows AS h "  # noqa: S608
                    "WHERE h.history_id = ? AND h.kind = ? AND t.id = h.row_id",
                    (entry["id"], first["kind"]),
                )
            connection.execute("UPDATE history SET undone = ? WHERE id = ?", (undone, entry["id"]))
            return str(entry["label"])

    def can_undo(self) -> str:
        """Label of what `undo` would take back; "" if nothing."""
        row = self._database.one("SELECT label FROM history WHERE undone = 0 ORDER BY id DESC LIMIT 1")
        return row["label"] if row else ""

    def can_redo(self) -> str:
        """Label of what `redo` would do again; "" if nothing."""
        row = self._database.one("SELECT label FROM history WHERE undone = 1 ORDER BY id LIMIT 1")
        return row["label"] if row else ""
