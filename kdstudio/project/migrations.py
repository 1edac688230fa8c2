"""The schema's versions, and moving a database from one to the next without ever losing the old one.

Each step runs in one transaction together with its `user_version`, after a backup that was read back and checked. A
database written by a newer version is refused, never guessed at; one of another program is left alone.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from kdstudio.errors import KnownError
from kdstudio.jobs.events import now
from kdstudio.project.database import backup
from kdstudio.project.search import SCHEMA, SEARCHED

_FIRST = """
CREATE TABLE prompts (
    id INTEGER PRIMARY KEY,
    fingerprint BLOB NOT NULL UNIQUE,
    messages TEXT NOT NULL,
    text TEXT NOT NULL,
    tags TEXT NOT NULL DEFAULT '',
    reference TEXT NOT NULL DEFAULT '',
    extras TEXT NOT NULL DEFAULT '',
    tokens INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL DEFAULT 'pending',
    reason TEXT NOT NULL DEFAULT '',
    source TEXT NOT NULL DEFAULT '',
    created TEXT NOT NULL
);
CREATE TABLE responses (
    id INTEGER PRIMARY KEY,
    prompt_id INTEGER NOT NULL REFERENCES prompts(id),
    fingerprint BLOB NOT NULL UNIQUE,
    text TEXT NOT NULL,
    reasoning TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    finish_reason TEXT NOT NULL DEFAULT '',
    teacher TEXT NOT NULL DEFAULT '',
    recipe_hash TEXT NOT NULL DEFAULT '',
    run TEXT NOT NULL DEFAULT '',
    seed INTEGER NOT NULL DEFAULT 0,
    sampling TEXT NOT NULL DEFAULT '',
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    tokens INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL DEFAULT 'pending',
    reason TEXT NOT NULL DEFAULT '',
    source TEXT NOT NULL DEFAULT '',
    created TEXT NOT NULL
);
CREATE INDEX responses_by_prompt ON responses(prompt_id);
CREATE TABLE preferences (
    id INTEGER PRIMARY KEY,
    prompt_id INTEGER NOT NULL REFERENCES prompts(id),
    fingerprint BLOB NOT NULL UNIQUE,
    candidates TEXT NOT NULL,
    scores TEXT NOT NULL,
    text TEXT NOT NULL,
    run TEXT NOT NULL DEFAULT '',
    tokens INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL DEFAULT 'pending',
    reason TEXT NOT NULL DEFAULT '',
    source TEXT NOT NULL DEFAULT '',
    created TEXT NOT NULL
);
CREATE INDEX preferences_by_prompt ON preferences(prompt_id);
CREATE TABLE teachers (
    name TEXT PRIMARY KEY,
    spec TEXT NOT NULL,
    capabilities TEXT NOT NULL DEFAULT '{}',
    created TEXT NOT NULL
);
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    title TEXT NOT NULL,
    state TEXT NOT NULL,
    created TEXT NOT NULL,
    finished TEXT NOT NULL DEFAULT '',
    recipe_hash TEXT NOT NULL DEFAULT '',
    parameters TEXT NOT NULL DEFAULT '{}',
    result TEXT NOT NULL DEFAULT '{}',
    error TEXT NOT NULL DEFAULT '{}',
    progress TEXT NOT NULL DEFAULT '{}',
    pid INTEGER NOT NULL DEFAULT 0,
    ingested INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE metrics (
    run TEXT NOT NULL REFERENCES runs(id),
    name TEXT NOT NULL,
    step INTEGER NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (run, name, step)
) WITHOUT ROWID;
CREATE TABLE samples (
    run TEXT NOT NULL REFERENCES runs(id),
    seq INTEGER NOT NULL,
    step INTEGER NOT NULL,
    prompt TEXT NOT NULL,
    student TEXT NOT NULL,
    teacher TEXT NOT NULL,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID;
CREATE TABLE dropped (
    run TEXT NOT NULL REFERENCES runs(id),
    seq INTEGER NOT NULL,
    prompt INTEGER NOT NULL,
    step TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID;
CREATE TABLE history (
    id INTEGER PRIMARY KEY,
    label TEXT NOT NULL,
    undone INTEGER NOT NULL DEFAULT 0,
    created TEXT NOT NULL
);
CREATE TABLE history_rows (
    history_id INTEGER NOT NULL REFERENCES history(id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    row_id INTEGER NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL,
    PRIMARY KEY (history_id, kind, row_id)
) WITHOUT ROWID;
CREATE TABLE counts (
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (kind, status)
) WITHOUT ROWID;
"""

_COUNTING = """
CREATE TRIGGER {table}_counted AFTER INSERT ON {table} BEGIN
    INSERT INTO counts VALUES ('{kind}', new.status, 1) ON CONFLICT DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER {table}_moved AFTER UPDATE OF status ON {table} WHEN old.status <> new.status BEGIN
    INSERT INTO counts VALUES ('{kind}', new.status, 1) ON CONFLICT DO UPDATE SET number = number + 1;
    UPDATE counts SET number = number - 1 WHERE kind = '{kind}' AND status = old.status;
END;
CREATE INDEX {table}_by_status ON {table}(status, id);
"""
KIND_TABLES = {"prompt": "prompts", "response": "responses", "preference": "preferences"}


def _first(connection: sqlite3.Connection) -> None:
    _run(connection, _FIRST)
    for kind, table in KIND_TABLES.items():
        _run(connection, _COUNTING.format(table=table, kind=kind))
    for table, index in SEARCHED.items():
        _run(connection, SCHEMA.format(table=table, index=index))


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Execute a script statement by statement: `executescript` would commit the surrounding transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


def _count_in_batches(connection: sqlite3.Connection) -> None:
    """Counting new rows one by one took a third of an import's time; `Rows` counts them by the batch."""
    for table in KIND_TABLES.values():
        connection.execute(f"DROP TRIGGER {table}_counted")


def _terms_of_rows(connection: sqlite3.Connection) -> None:
    """Rows carry the terms of use of the teacher that made them."""
    for table in KIND_TABLES.values():
        connection.execute(f"ALTER TABLE {table} ADD COLUMN terms TEXT NOT NULL DEFAULT ''")


def _extras_of_answers(connection: sqlite3.Connection) -> None:
    """Responses and preferences keep what their recipe set beside them, as prompts do."""
    for table in ("responses", "preferences"):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN extras TEXT NOT NULL DEFAULT ''")


def _decisions(connection: sqlite3.Connection) -> None:
    """Rows know whether a person set their status, which a recipe or a file sets too.

    Of older rows it is known of those in the history, and of a run's that were accepted, or rejected without a reason.
    """
    for kind, table in KIND_TABLES.items():
        connection.execute(f"ALTER TABLE {table} ADD COLUMN decided INTEGER NOT NULL DEFAULT 0")
        known = f"id IN ({_DECIDED_BEFORE})"
        if kind != "prompt":
            known += " OR run <> '' AND (status = 'accepted' OR reason = '')"
        connection.execute(f"UPDATE {table} SET decided = 1 WHERE status <> 'pending' AND ({known})", (kind,))  # noqa: S608
        connection.execute(f"CREATE INDEX {table}_decided ON {table}(id) WHERE decided = 1")


_DECIDED_BEFORE = """SELECT r.row_id FROM history_rows r JOIN history h ON h.id = r.history_id
    WHERE r.kind = ? AND h.undone = 0 AND json_extract(r.after, '$.status') IS NOT NULL"""

MIGRATIONS = (_first, _count_in_batches, _terms_of_rows, _extras_of_answers, _decisions)
VERSION = len(MIGRATIONS)


def version_of(connection: sqlite3.Connection) -> int:
    """The schema's version; 0 for an empty database."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, path: Path) -> list[Path]:
    """Bring a database to the newest schema, all steps or none of them, after a backup; returns the backups made.

    Raises `KnownError` when the database was written by a newer program or by another one.
    """
    current = version_of(connection)
    refuse_newer(current, path)
    if current == 0 and connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None:
        raise KnownError(
            "This is not a project's database", f"{path} was made by another program.", "Choose a folder NAME.kdstudio."
        )
    saved: list[Path] = []
    if current == VERSION:
        return saved
    if current > 0:
        stamp = now().replace(":", "").replace(".", "")
        saved.append(path.parent / "backups" / f"project-v{current}-{stamp}.db")
        backup(connection, saved[-1])
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in range(current, VERSION):
            MIGRATIONS[number](connection)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return saved


def refuse_older(version: int, path: Path) -> None:
    """Raise `KnownError` for a schema that has to be brought up to date by a writer first."""
    if version < VERSION:
        raise KnownError(
            "This project was made by an older KD Studio",
            f"{path} has schema {version}; this program reads {VERSION}.",
            "Open it in the window once: it is backed up and brought up to date.",
        )


def refuse_newer(version: int, path: Path) -> None:
    """Raise `KnownError` for a schema from the future."""
    if version > VERSION:
        raise KnownError(
            "This project was made by a newer KD Studio",
            f"{path} has schema {version}; this program knows up to {VERSION}.",
            "Update KD Studio to open it. Nothing was changed.",
        )
