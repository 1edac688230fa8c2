"""The runs of a project and what their journals said: states, figures, samples, rows.

A journal may be ingested any number of times, whole or in parts: each line counts once, by (run, seq).
"""

from __future__ import annotations

import builtins
import json
import math
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from kdstudio.errors import BadInput
from kdstudio.jobs.events import Dropped, Line, Metric, Progress, Row, Sample, Started, now
from kdstudio.project.content import NewPreference, NewPrompt, NewResponse
from kdstudio.project.database import Database
from kdstudio.project.journal_rows import UnusableRowError, clean, new_row, prompt_named
from kdstudio.project.rows import Rows

OVER = ("finished", "stopped", "failed", "interrupted")


@dataclass(frozen=True)
class Run:
    """A run as the project knows it. `progress` holds the last Progress event, `error` title, detail, hint and log."""

    id: str
    kind: str
    title: str
    state: str
    created: str
    finished: str
    recipe_hash: str
    parameters: dict[str, Any]
    result: dict[str, Any]
    error: dict[str, Any]
    progress: dict[str, Any]
    pid: int


class Runs:
    """Adding, finding and ingesting runs."""

    def __init__(self, database: Database, rows: Rows) -> None:
        self._database = database
        self._rows = rows

    def add(self, kind: str, title: str, parameters: dict[str, Any]) -> str:
        """Enter a new run; returns its id, which sorts by time and is a folder name."""
        run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{kind}-{uuid.uuid4().hex[:8]}"
        values = (run_id, kind, title, "starting", now(), parameters.get("recipe_hash", ""), json.dumps(parameters))
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO runs (id, kind, title, state, created, recipe_hash, parameters) VALUES (?,?,?,?,?,?,?)",
                values,
            )
        return run_id

    def get(self, run_id: str) -> Run:
        """One run. Raises `BadInput` when there is none of that id."""
        row = self._database.one("SELECT * FROM runs WHERE id = ?", (run_id,))
        if row is None:
            raise BadInput("Unknown run", f"The project has no run {run_id!r}.", "See: kdstudio jobs PROJECT")
        return _run(row)

    def list(self, kind: str | None = None) -> list[Run]:
        """All runs, newest first; of one kind if it is given."""
        where, values = ("WHERE kind = ?", (kind,)) if kind else ("", ())
        return [_run(row) for row in self._database.all(f"SELECT * FROM runs {where} ORDER BY rowid DESC", values)]  # noqa: S608

    def set_state(
        self, run_id: str, state: str, *, result: dict[str, Any] | None = None, error: dict[str, Any] | None = None
    ) -> None:
        """Enter where a run stands. A run that goes on loses the error of its last attempt."""
        finished = now() if state in OVER else ""
        with self._database.write() as connection:
            connection.execute("UPDATE runs SET state = ?, finished = ? WHERE id = ?", (state, finished, run_id))
            if result is not None:
                connection.execute("UPDATE runs SET result = ? WHERE id = ?", (json.dumps(result), run_id))
            if error is not None or state not in OVER:
                connection.execute("UPDATE runs SET error = ? WHERE id = ?", (json.dumps(error or {}), run_id))

    def ingest(self, run_id: str, lines: Iterable[Line]) -> builtins.list[Line]:
        """Take lines of a run's journal into the project in one transaction; returns those that were new.

        A row that cannot be kept is entered among the dropped ones, with the reason.
        """
        with self._database.write() as connection:
            row = connection.execute("SELECT ingested FROM runs WHERE id = ?", (run_id,)).fetchone()
            if row is None:
                raise BadInput("Unknown run", f"The project has no run {run_id!r}.", "")
            last: int = row["ingested"]
            fresh: builtins.list[Line] = []
            for line in lines:
                if line.seq > last:
                    fresh.append(line)
                    last = line.seq
            if not fresh:
                return []
            unusable = self._ingest_rows(run_id, fresh)
            for line in fresh:
                _ingest_line(connection, run_id, line)
            connection.executemany(
                "INSERT OR IGNORE INTO dropped VALUES (?,?,?,'ingest',?)", ((run_id, *entry) for entry in unusable)
            )
            connection.execute("UPDATE runs SET ingested = ? WHERE id = ?", (last, run_id))
            return fresh

    def _ingest_rows(self, run_id: str, lines: builtins.list[Line]) -> builtins.list[tuple[int, int, str]]:
        """Add the rows of these lines; returns (seq, prompt, reason) of those that cannot be kept."""
        prompts: builtins.list[NewPrompt] = []
        others: builtins.list[tuple[int, NewResponse | NewPreference]] = []
        named: builtins.list[tuple[int, bytes, NewResponse | NewPreference]] = []
        unusable: builtins.list[tuple[int, int, str]] = []
        for line in lines:
            if not isinstance(line.event, Row):
                continue
            try:
                row = new_row(line.event.kind, line.event.row, run_id)
                fingerprint = prompt_named(line.event.row)
            except UnusableRowError as error:
                unusable.append((line.seq, 0, str(error)))
            else:
                if isinstance(row, NewPrompt):
                    prompts.append(row)
                elif fingerprint is not None:
                    named.append((line.seq, fingerprint, row))
                else:
                    others.append((line.seq, row))
        self._rows.add_prompts(prompts)
        ids = self._rows.prompts_by_fingerprint(fingerprint for _, fingerprint, _ in named)
        for seq, fingerprint, row in named:
            row.prompt_id = ids.get(fingerprint, 0)
            others.append((seq, row))
        missing = self._rows.missing_prompts(row.prompt_id for _, row in others)
        reason = "the project has no prompt of that id"
        unusable += [(seq, row.prompt_id, reason) for seq, row in others if row.prompt_id in missing]
        kept = [row for _, row in others if row.prompt_id not in missing]
        self._rows.add_responses(row for row in kept if isinstance(row, NewResponse))
        self._rows.add_preferences(row for row in kept if isinstance(row, NewPreference))
        return unusable

    def metric_names(self, run_id: str) -> builtins.list[str]:
        """The figures that a run reported."""
        rows = self._database.all("SELECT DISTINCT name FROM metrics WHERE run = ? ORDER BY name", (run_id,))
        return [row["name"] for row in rows]

    def metrics(self, run_id: str, name: str) -> tuple[builtins.list[int], builtins.list[float]]:
        """Steps and values of one figure, by step. A step that was done again after a crash counts once."""
        rows = self._database.all(
            "SELECT step, value FROM metrics WHERE run = ? AND name = ? ORDER BY step", (run_id, name)
        )
        return [row["step"] for row in rows], [float(row["value"]) for row in rows]

    def samples(self, run_id: str) -> builtins.list[Sample]:
        """What the student wrote, in order."""
        rows = self._database.all(
            "SELECT step, prompt, student, teacher FROM samples WHERE run = ? ORDER BY seq", (run_id,)
        )
        return [Sample(**dict(row)) for row in rows]

    def dropped(self, run_id: str) -> builtins.list[Dropped]:
        """Which prompts fell in which step, and why."""
        rows = self._database.all("SELECT prompt, step, reason FROM dropped WHERE run = ? ORDER BY seq", (run_id,))
        return [Dropped(**dict(row)) for row in rows]


def _ingest_line(connection: sqlite3.Connection, run_id: str, line: Line) -> None:
    match line.event:
        case Metric(step=step, values=values):
            connection.executemany(
                "INSERT OR REPLACE INTO metrics VALUES (?,?,?,?)",
                [(run_id, name, step, value) for name, value in _figures(values)],
            )
        case Sample() as sample:
            texts = (clean(text) for text in (sample.prompt, sample.student, sample.teacher))
            connection.execute(
                "INSERT OR IGNORE INTO samples VALUES (?,?,?,?,?,?)", (run_id, line.seq, sample.step, *texts)
            )
        case Dropped() as dropped:
            connection.execute(
                "INSERT OR IGNORE INTO dropped VALUES (?,?,?,?,?)",
                (run_id, line.seq, dropped.prompt, dropped.step, clean(dropped.reason)),
            )
        case Progress() as progress:
            connection.execute("UPDATE runs SET progress = ? WHERE id = ?", (json.dumps(asdict(progress)), run_id))
        case Started(pid=pid):
            connection.execute("UPDATE runs SET pid = ? WHERE id = ?", (pid, run_id))


def _figures(values: Mapping[str, Any]) -> Iterator[tuple[str, float | str]]:
    """What is a number, as SQLite keeps it: it has no not-a-number (that would be NULL), which is kept as the word."""
    for name, value in values.items():
        if isinstance(value, int | float):
            yield name, "nan" if math.isnan(value) else float(value)


def _run(row: sqlite3.Row) -> Run:
    texts = {name: row[name] for name in ("id", "kind", "title", "state", "created", "finished", "recipe_hash", "pid")}
    tables = {name: json.loads(row[name]) for name in ("parameters", "result", "error", "progress")}
    return Run(**texts, **tables)
