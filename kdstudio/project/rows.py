"""Prompts, responses and preferences: adding, reading, deciding, editing.

Nothing is deleted: a filter or a person rejects, with the reason, and every decision or edit can be undone.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from kdstudio.errors import BadInput
from kdstudio.jobs.events import now
from kdstudio.project.content import (
    STATUSES,
    Kind,
    NewPreference,
    NewPrompt,
    NewResponse,
    Preference,
    Prompt,
    Response,
    Status,
    canonical,
    text_fault,
)
from kdstudio.project.database import Database, chunks
from kdstudio.project.history import CHANGES, REASON, History
from kdstudio.project.migrations import KIND_TABLES
from kdstudio.project.row_values import (
    INSERT_PREFERENCE,
    INSERT_PROMPT,
    INSERT_RESPONSE,
    preference_values,
    prompt_values,
    read_preference,
    read_prompt,
    read_response,
    response_values,
)
from kdstudio.project.search import index_new, last_id

_KINDS_BY_TABLE = {table: kind for kind, table in KIND_TABLES.items()}
_BLOCK = 10_000
"""So many ids become Python's numbers at a time: listing a million at once holds the interpreter's lock for 20 ms."""


class Rows:
    """The rows of one project."""

    def __init__(self, database: Database, history: History) -> None:
        self._database = database
        self._history = history

    def add_prompts(self, prompts: Iterable[NewPrompt]) -> int:
        """Add prompts in one transaction; exact duplicates are left out. Returns how many are new."""
        created = now()
        values = (prompt_values(prompt, created) for prompt in prompts)
        return self._insert("prompts", INSERT_PROMPT, values)

    def put_prompts(self, prompts: Sequence[NewPrompt]) -> tuple[Sequence[int], int]:
        """Add prompts that are not there yet; returns the id of each one given, and how many are new."""
        created = now()
        values = [prompt_values(prompt, created) for prompt in prompts]
        with self._database.write() as connection:
            last = last_id(connection, "prompts")
            new = self._insert("prompts", INSERT_PROMPT, values)
            if new == len(values):  # ids were given in the order of the values
                return range(last + 1, last + 1 + new), new
            keys = [value[0] for value in values]
            found: dict[bytes, int] = {}
            for block in chunks(keys):
                marks = ",".join("?" * len(block))
                sql = f"SELECT fingerprint, id FROM prompts WHERE fingerprint IN ({marks})"  # noqa: S608
                found.update((row[0], row[1]) for row in connection.execute(sql, block))
            return [found[key] for key in keys], new

    def prompts_by_fingerprint(self, fingerprints: Iterable[bytes]) -> dict[bytes, int]:
        """The ids of the prompts that are there; also sees what the open transaction wrote."""
        found: dict[bytes, int] = {}
        with self._database.write() as connection:
            for block in chunks(set(fingerprints)):
                marks = ",".join("?" * len(block))
                sql = f"SELECT fingerprint, id FROM prompts WHERE fingerprint IN ({marks})"  # noqa: S608
                found.update((row[0], row[1]) for row in connection.execute(sql, block))
        return found

    def last_ids(self) -> dict[Kind, int]:
        """The highest id of each kind; 0 where there is none. Ids only grow, and nothing is deleted."""
        found: dict[Kind, int] = {}
        for kind, table in KIND_TABLES.items():
            row = self._database.one(f"SELECT max(id) AS last FROM {table}", ())  # noqa: S608
            found[cast("Kind", kind)] = int(row["last"] or 0) if row is not None else 0
        return found

    def missing_prompts(self, ids: Iterable[int]) -> set[int]:
        """Which of these are ids of no prompt; also sees what the open transaction wrote."""
        missing: set[int] = set()
        with self._database.write() as connection:
            for block in chunks(set(ids)):
                marks = ",".join("?" * len(block))
                found = connection.execute(f"SELECT id FROM prompts WHERE id IN ({marks})", block)  # noqa: S608
                missing |= set(block).difference(row[0] for row in found)
        return missing

    def add_responses(self, responses: Iterable[NewResponse]) -> int:
        """Add responses in one transaction; one that is already there is left out. Returns how many are new."""
        created = now()
        values = (response_values(response, created) for response in responses)
        return self._insert("responses", INSERT_RESPONSE, values)

    def add_preferences(self, preferences: Iterable[NewPreference]) -> int:
        """Add preferences in one transaction. Returns how many are new."""
        created = now()
        values = (preference_values(preference, created) for preference in preferences)
        return self._insert("preferences", INSERT_PREFERENCE, values)

    def prompt(self, row_id: int) -> Prompt:
        """One prompt. Raises `BadInput` when there is none of that id."""
        return read_prompt(self._row("prompts", row_id))

    def response(self, row_id: int) -> Response:
        """One response. Raises `BadInput` when there is none of that id."""
        return read_response(self._row("responses", row_id))

    def preference(self, row_id: int) -> Preference:
        """One preference. Raises `BadInput` when there is none of that id."""
        return read_preference(self._row("preferences", row_id))

    def responses_of(self, prompt_id: int) -> list[Response]:
        """All responses to a prompt, oldest first."""
        rows = self._database.all("SELECT * FROM responses WHERE prompt_id = ? ORDER BY id", (prompt_id,))
        return [read_response(row) for row in rows]

    def prompts(
        self, *, status: str = "", tag: str = "", limit: int = 0, unanswered_by: tuple[str, str, str] | None = None
    ) -> Iterator[Prompt]:
        """Prompts in order of id.

        `unanswered_by`: (teacher, recipe hash, run) leaves out what they answered in any other run.
        """
        where, values = ["1"], []
        if status and status != "any":
            where.append("status = ?")
            values.append(status)
        if tag:
            where.append("instr(' ' || tags || ' ', ' ' || ? || ' ')")
            values.append(tag)
        if unanswered_by is not None:
            theirs = "r.prompt_id = prompts.id AND r.teacher = ? AND r.recipe_hash = ? AND r.run <> ?"
            where.append(f"NOT EXISTS (SELECT 1 FROM responses r WHERE {theirs})")  # noqa: S608
            values += list(unanswered_by)
        sql = f"SELECT * FROM prompts WHERE {' AND '.join(where)} ORDER BY id LIMIT ?"  # noqa: S608 -- our own words only
        for row in self._database.stream(sql, (*values, limit or -1)):
            yield read_prompt(row)

    def preferences(self, *, status: str = "") -> Iterator[Preference]:
        """Preferences in order of id."""
        for row in self._database.stream(
            "SELECT * FROM preferences WHERE ? IN ('', 'any', status) ORDER BY id", (status,)
        ):
            yield read_preference(row)

    def pairs(self, *, status: str = "accepted", limit: int = 0) -> Iterator[tuple[Prompt, Response]]:
        """What trains: responses of that status with their prompts, in the prompts' order.

        Those of a rejected prompt take no part. Answers come in any order: what is trained must not depend on it.
        """
        where = "p.status <> 'rejected'" + ("" if status in ("", "any") else " AND r.status = ?")
        values = () if status in ("", "any") else (status,)
        joined = "prompts p CROSS JOIN responses r ON r.prompt_id = p.id"  # in this order nothing has to be sorted
        sql = f"SELECT r.* FROM {joined} WHERE {where} ORDER BY p.id, r.id LIMIT ?"  # noqa: S608 -- our own words only
        for row in self._database.stream(sql, (*values, limit or -1)):
            response = read_response(row)
            yield self.prompt(response.prompt_id), response

    def terms(
        self, kind: Kind, *, status: str = "accepted", ids: Sequence[int] | None = None
    ) -> list[tuple[str, str, str, int]]:
        """What rows that train carry: (stamp, teacher, stamp of its prompt, how many rows).

        Responses or preferences of that status, or those of `ids` whatever became of them since.
        """
        teacher = "r.teacher" if kind == "response" else "''"
        where, value = "p.status <> 'rejected' AND r.status = ?", status
        if ids is not None:
            where, value = "r.id IN (SELECT value FROM json_each(?))", json.dumps(list(ids))
        elif status in ("", "any"):
            where, value = "p.status <> 'rejected' AND r.status <> ?", "rejected"
        rows = self._database.all(
            f"SELECT r.terms AS stamp, {teacher} AS teacher, p.terms AS prompt, count(*) AS number "  # noqa: S608
            f"FROM {KIND_TABLES[kind]} r JOIN prompts p ON p.id = r.prompt_id WHERE {where} GROUP BY 1, 2, 3",
            (value,),
        )
        return [(row["stamp"], row["teacher"], row["prompt"], row["number"]) for row in rows]

    def set_status(self, kind: Kind, ids: Iterable[int], status: Status, reason: str = "") -> int:
        """Accept, reject or reset rows as one undoable action of a person; returns how many changed.

        A row that a recipe or a file gave this status is confirmed by it, with the reason it had where none is given.
        """
        if status not in STATUSES:
            raise BadInput("Unknown status", f"{status!r} is none.", f"Known: {', '.join(STATUSES)}.")
        table = KIND_TABLES[kind]
        chosen = ids if isinstance(ids, Sequence) else list(ids)
        label = {"accepted": "Accept", "rejected": "Reject", "pending": "Reset"}[status]
        count = f" {len(chosen)} rows" if len(chosen) != 1 else ""
        decided = int(status != "pending")
        with self._database.write() as connection:
            entry = self._history.begin(connection, f"{label}{count}")
            changed = 0
            for start in range(0, len(chosen), _BLOCK):
                listed = json.dumps(list(chosen[start : start + _BLOCK]))
                self._history.record_statuses(connection, entry, kind, listed, status, reason, decided)
                cursor = connection.execute(
                    f"UPDATE {table} SET status = :status, reason = {REASON}, decided = :decided "  # noqa: S608
                    f"WHERE id IN (SELECT value FROM json_each(:ids)) AND {CHANGES}",
                    {"status": status, "reason": reason, "decided": decided, "ids": listed},
                )
                changed += cursor.rowcount
            self._history.commit(connection, entry)
            return changed

    def edit_text(self, kind: Kind, row_id: int, text: str) -> None:
        """Change a prompt's last user turn or a response's text, undoably.

        Raises `BadInput` for a text that is empty or cannot be kept.
        """
        if fault := text_fault(text):
            raise BadInput("The text cannot be kept", f"Of the text, {fault}.", "Type it anew.")
        if not text.strip():
            raise BadInput("The text is empty", "A row needs some text.", "Reject the row instead of emptying it.")
        if kind == "preference":
            raise BadInput(
                "A preference is not edited", "Its answers are its evidence.", "Reject it, or edit the responses."
            )
        with self._database.write() as connection:
            row = connection.execute(f"SELECT * FROM {KIND_TABLES[kind]} WHERE id = ?", (row_id,)).fetchone()  # noqa: S608
            if row is None:
                raise BadInput("The row is gone", f"There is no {kind} {row_id}.", "Reload the table.")
            if row["text"] == text:
                return
            before, after = _texts(kind, row), _edited(kind, row, text)
            entry = self._history.begin(connection, f"Edit {kind} {row_id}")
            self._history.record(connection, entry, kind, row_id, before, after)
            self._history.apply(connection, kind, row_id, after)
            self._history.commit(connection, entry)

    def counts(self) -> dict[tuple[str, str], int]:
        """How many rows there are of each (kind, status); kept as they change, so that it costs nothing."""
        rows = self._database.all("SELECT kind, status, number FROM counts")
        return {(row["kind"], row["status"]): row["number"] for row in rows}

    def _insert(self, table: str, sql: str, values: Iterable[tuple[Any, ...]]) -> int:
        with self._database.write() as connection:
            last = last_id(connection, table)
            connection.executemany(sql, values)
            index_new(connection, table, last)
            # Ids only grow and nothing is deleted, so that what lies above the last id is what was added.
            new = connection.execute(
                f"SELECT status, count(*) FROM {table} WHERE id > ? GROUP BY +status",  # noqa: S608
                (last,),
            ).fetchall()
            connection.executemany(
                "INSERT INTO counts VALUES (?,?,?) ON CONFLICT DO UPDATE SET number = number + excluded.number",
                ((_KINDS_BY_TABLE[table], status, number) for status, number in new),
            )
            return sum(number for _, number in new)

    def _row(self, table: str, row_id: int) -> sqlite3.Row:
        row = self._database.one(f"SELECT * FROM {table} WHERE id = ?", (row_id,))  # noqa: S608
        if row is None:
            raise BadInput(
                "The row is not there", f"There is no row {row_id} in {table}.", "See: kdstudio rows PROJECT"
            )
        return row


def _texts(kind: Kind, row: sqlite3.Row) -> dict[str, Any]:
    names = ("messages", "text", "source") if kind == "prompt" else ("text", "message", "source")
    return {name: row[name] for name in names}


def _edited(kind: Kind, row: sqlite3.Row, text: str) -> dict[str, Any]:
    source = row["source"] if row["source"].endswith("edited") else f"{row['source']}, edited".removeprefix(", ")
    if kind == "response":
        message = json.loads(row["message"] or "{}")
        return {"text": text, "message": canonical({**message, "content": text}) if message else "", "source": source}
    messages = json.loads(row["messages"])
    target = next((item for item in reversed(messages) if item.get("role") == "user"), messages[-1])
    target["content"] = text
    return {"messages": canonical(messages), "text": text, "source": source}
