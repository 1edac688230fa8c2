"""The one place that opens SQLite: one writer, readers of their own, nothing acknowledged is lost.

WAL with synchronous=FULL; a single writer connection behind a re-entrant lock (two writing connections at once meet the
WAL-reset bug of SQLite 3.7.0 to 3.51.2); each reading thread has its own read-only connection.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdstudio.errors import KnownError
from kdstudio.files import TEMPORARY_MARK, disk_errors, disk_full, free_bytes, fsync_folder

DATABASE_NAME = "project.db"
_PAGE_BYTES = 8192
_CACHE_KIB = 64 << 10
_KEPT_LOG_BYTES = 64 << 20
_NO_ROOM = 64 << 10


@contextlib.contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's failures that the world causes into words a person can act on."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error).lower()
        # What must exist beside the file, such as its index of the log, fails on a full disk with a plain I/O error.
        if "is full" in text or ("disk i/o" in text and free_bytes(path.parent) < _NO_ROOM):
            raise disk_full(path) from error
        if "malformed" in text or "not a database" in text:
            raise KnownError(
                "The project's database is damaged",
                f"{path}: {error}.",
                f"Put the newest file of its backups/ folder in the place of {path.name}, or restore your own backup.",
            ) from error
        if "locked" in text or "busy" in text:
            raise KnownError("The database is busy", f"{path}: {error}.", "Try again in a moment.") from error
        if "readonly" in text or "unable to open" in text or "disk i/o" in text:
            raise KnownError(
                "The project's database cannot be used",
                f"{path}: {error}.",
                "Check the folder's rights and that its disk is there.",
            ) from error
        raise


class Database:
    """A project's database. Writing methods are serialised; reading ones use a connection of the calling thread."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self.lock = threading.RLock()
        self._readers = threading.local()
        self._all_readers: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None
        if not read_only:
            with database_errors(path):
                self._writer = connect(path)

    @property
    def writer(self) -> sqlite3.Connection:
        """The one writing connection. Raises `KnownError` on a project that was opened to read."""
        if self._writer is None:
            raise KnownError(
                "The project is open to read only", str(self.path), "Open it in the window or with a verb that writes."
            )
        return self._writer

    @property
    def reader(self) -> sqlite3.Connection:
        """This thread's read-only connection."""
        connection: sqlite3.Connection | None = getattr(self._readers, "connection", None)
        if connection is None:
            with database_errors(self.path):
                connection = connect_read_only(self.path)
            self._readers.connection = connection
            with self.lock:
                self._all_readers.append(connection)
        return connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of the block or none of it. Blocks inside blocks join the outermost."""
        with self.lock, database_errors(self.path):
            connection = self.writer
            if connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite may have rolled back by itself (a full disk); a COMMIT that failed has not.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def all(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        with database_errors(self.path):
            return self.reader.execute(sql, values).fetchall()

    def one(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        with database_errors(self.path):
            row: sqlite3.Row | None = self.reader.execute(sql, values).fetchone()
            return row

    def stream(self, sql: str, values: Sequence[Any] = ()) -> Iterator[sqlite3.Row]:
        """The rows of a query one by one, from a cursor of their own."""
        with database_errors(self.path):
            yield from self.reader.execute(sql, values)

    def close(self) -> None:
        """Close every connection; the last one folds the write-ahead log into the file."""
        with self.lock:
            for reader in self._all_readers:
                with contextlib.suppress(sqlite3.Error):
                    reader.close()
            self._all_readers.clear()
            self._readers = threading.local()
            if self._writer is not None:
                self._writer.close()
                self._writer = None


_WRITER_PRAGMAS = (
    f"page_size={_PAGE_BYTES}",  # of a new file only
    *("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000", "mmap_size=0"),
    *(f"cache_size=-{_CACHE_KIB}", f"journal_size_limit={_KEPT_LOG_BYTES}"),
)


def connect(path: Path) -> sqlite3.Connection:
    """A writing connection in autocommit mode; transactions are begun by hand.

    The cache holds the index of fingerprints of some million rows: they come in no order, and would be read again and
    again. The write-ahead log shrinks again after a large import.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    connection.row_factory = sqlite3.Row
    for pragma in _WRITER_PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A reading connection that cannot write."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False, timeout=10)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA busy_timeout=10000")
    connection.execute("PRAGMA query_only=ON")
    return connection


def quick_check(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `KnownError` when SQLite finds the file damaged."""
    with database_errors(path):
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise KnownError(
            "The project's database is damaged",
            f"{path}: {found}.",
            f"Put the newest file of its backups/ folder in the place of {path.name}, or restore your own backup.",
        )


def backup(connection: sqlite3.Connection, target: Path) -> None:
    """Copy the database through SQLite's backup interface; the copy gets its name only when it was read back and sound.

    Raises `KnownError` when it is not, or cannot be written; nothing is changed then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY_MARK}{target.name}")
    try:
        with database_errors(target), contextlib.closing(sqlite3.connect(temporary)) as copy:
            connection.backup(copy)
            quick_check(copy, target)
        with disk_errors(target):
            temporary.replace(target)
            fsync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def chunks(values: Iterable[Any], size: int = 500) -> Iterator[list[Any]]:
    """Lists of at most `size` values, for statements with many places."""
    block: list[Any] = []
    for value in values:
        block.append(value)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
