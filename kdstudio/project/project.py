"""The project folder: what a person opens, copies and backs up."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock

from kdstudio.errors import BadInput, KnownError
from kdstudio.files import disk_errors, fsync_folder, remove_temporaries
from kdstudio.project.database import DATABASE_NAME, Database, database_errors, quick_check
from kdstudio.project.history import History
from kdstudio.project.judgements import Judgements
from kdstudio.project.migrations import migrate, refuse_newer, refuse_older, version_of
from kdstudio.project.rows import Rows
from kdstudio.project.runs import Runs
from kdstudio.project.teachers import Teachers

SUFFIX = ".kdstudio"
_LOCK_NAME = "project.lock"
_OPEN_MARK = "open"


class Project:
    """An open project. The one that writes holds the project's lock; readers need none."""

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        """Open the project in `folder`. Raises `BadInput` when there is none, `KnownError` when another holds it."""
        self.folder = folder.resolve()
        self.name = self.folder.name.removesuffix(SUFFIX)
        self.vault_folder = self.folder / "vault"
        self.runs_folder = self.folder / "runs"
        self.exports_folder = self.folder / "exports"
        if not (self.folder / DATABASE_NAME).is_file():
            raise BadInput(
                "This is not a project", f"{folder} holds no {DATABASE_NAME}.", "Choose a folder NAME.kdstudio."
            )
        self._lock = None if read_only else _take_lock(self.folder)
        try:
            self._database = Database(self.folder / DATABASE_NAME, read_only=read_only)
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise
        except BaseException:
            self._release()
            raise
        self.history = History(self._database)
        self.rows = Rows(self._database, self.history)
        self.runs = Runs(self._database, self.rows)
        self.teachers = Teachers(self._database)
        self.judgements = Judgements(self._database)

    @staticmethod
    def create(folder: Path) -> Project:
        """Make a new project (the suffix .kdstudio is added where it lacks) and open it.

        Raises `BadInput` when the folder exists and is not empty.
        """
        folder = folder if folder.suffix == SUFFIX else folder.with_name(folder.name + SUFFIX)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadInput("There is something here already", f"{folder} is not empty.", "Choose another name.")
        with disk_errors(folder):
            for part in ("vault", "runs", "exports"):
                (folder / part).mkdir(parents=True, exist_ok=True)
            (folder / DATABASE_NAME).touch()
        return Project(folder)

    @staticmethod
    def open(folder: Path, *, read_only: bool = False) -> Project:
        """Open a project; errors as in the constructor."""
        return Project(folder, read_only=read_only)

    @property
    def database_path(self) -> Path:
        """The SQLite file, for tables that keep a reading connection of their own."""
        return self._database.path

    def _prepare(self) -> None:
        """Check and migrate. The full check reads the whole file, so it runs only after an unclean end."""
        if self._database.read_only:
            with database_errors(self._database.path):
                version = version_of(self._database.reader)
            refuse_newer(version, self._database.path)
            refuse_older(version, self._database.path)
            return
        mark = self.folder / _OPEN_MARK
        if mark.exists():
            quick_check(self._database.writer, self._database.path)
        with database_errors(self._database.path):
            migrate(self._database.writer, self._database.path)
        with disk_errors(mark):
            mark.touch()
            fsync_folder(self.folder)  # or a power cut takes the mark away, and with it the check
        for folder in (self.folder, self.folder / "backups", self.folder / "rejects"):
            remove_temporaries(folder)

    def transaction(self) -> AbstractContextManager[object]:
        """All writes of the block, or none of them."""
        return self._database.write()

    def close(self) -> None:
        """Close the database and let go of the lock; a second call does nothing."""
        self._database.close()
        if self._lock is not None:
            (self.folder / _OPEN_MARK).unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _take_lock(folder: Path) -> filelock.BaseFileLock:
    """The lock that makes this process the project's only writer; the system frees it even after a kill."""
    path = folder / _LOCK_NAME
    lock = filelock.FileLock(str(path), thread_local=False)
    try:
        with disk_errors(path):
            lock.acquire(timeout=0)
    except filelock.Timeout as error:
        owner = _owner(folder)
        raise KnownError(
            "The project is already open",
            f"Another KD Studio{owner} works in {folder}.",
            "Close it there first, or use that window. Running jobs are not disturbed.",
        ) from error
    with suppress(OSError):  # only there to be said; a full disk must not keep a project from being opened
        (folder / f"{_LOCK_NAME}.pid").write_text(str(os.getpid()))
    return lock


def _owner(folder: Path) -> str:
    try:
        return f" (process {int((folder / f'{_LOCK_NAME}.pid').read_text())})"
    except (OSError, ValueError):
        return ""
