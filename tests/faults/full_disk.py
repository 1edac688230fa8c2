"""Let the disk fill up under a job of ours, look at what it left, make room, and go on. Run as a program of its own:

    python -m tests.faults.full_disk SCENARIO small|limit FOLDER LEFT...

"small" mounts a little disk in FOLDER, and so needs a mount namespace that the caller made. "limit" needs nothing: no
file may grow any more, which stops the same writes at the same places, but under the system's other words. Each LEFT is
a try of its own: how much of what is needed is still free when the disk fills up ("nothing", "some", "most"), after a
"+" unseen: another program takes the space between our look and our write. A failed expectation is an `AssertionError`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from kdstudio import files
from kdstudio.errors import KnownError
from kdstudio.jobs.child import EXIT_DONE, EXIT_FAILED, Job
from kdstudio.jobs.events import Event, Failed, Line
from kdstudio.jobs.journal import JOURNAL_NAME, SPARE_NAME, read_journal

DISK_BYTES = 192 << 20
SHARES = {"nothing": 0.0, "some": 0.2, "most": 0.7}


class Disk(Protocol):
    """A folder whose space can be taken away and given back. `says`: what a job is told in the end, and can say."""

    folder: Path
    titles: tuple[str, ...]
    says: bool

    def fill(self, left: int) -> None:
        """Leave so many bytes."""
        ...

    def empty(self) -> None:
        """Give the space back."""
        ...


class SmallDisk:
    """A tmpfs, filled by a file beside the project."""

    titles: tuple[str, ...] = (files.FULL,)
    says = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)], check=True)

    def fill(self, left: int) -> None:
        self.empty()
        with self._ballast.open("wb") as stream:
            while (more := files.free_bytes(self.folder) - left) > 0:
                with contextlib.suppress(OSError):  # others write meanwhile: then there is less to take
                    os.posix_fallocate(stream.fileno(), os.fstat(stream.fileno()).st_size, more)

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)


class FileLimit:
    """Any folder, where no file may outgrow the journal by more than what is left."""

    titles: tuple[str, ...] = ("The file is too large for this disk", "The project's database cannot be used")
    says = False  # the journal meets the same limit

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def fill(self, left: int) -> None:
        journals = [path.stat() for path in self.folder.rglob(JOURNAL_NAME)]
        grown = max(journals, key=lambda found: found.st_mtime).st_size if journals else 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (grown + left, self._hard))

    def empty(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._hard, self._hard))


class FillingJob(Job):
    """A real job under which the disk fills up once `when` has met the event it waits for."""

    def __init__(self, folder: Path, disk: Disk, when: Callable[[Event], bool], left: int) -> None:
        super().__init__(folder, {"k": "secret-key-1"})
        self._disk, self._when, self._left, self.filled = disk, when, left, False

    def emit(self, event: Event, *, durable: bool = False) -> None:
        super().emit(event, durable=durable)
        if not self.filled and self._when(event):
            self.filled = True
            self._disk.fill(self._left)


def left_of(word: str, needed: int) -> int:
    """The bytes that a try leaves, in whole pages."""
    return int(SHARES[word.removeprefix("+")] * needed) // 4096 * 4096


def unseen(word: str) -> Callable[[], None]:
    """Let our own look at the free space find enough, if `word` asks for it; returns what takes that back."""
    real = files.require_space
    if word.startswith("+"):
        files.require_space = lambda *_: None
    return lambda: setattr(files, "require_space", real)


def fails(job: Job, function: Callable[[Job], dict[str, object]], disk: Disk) -> None:
    """Run a job into the full disk: it ends with words, in its journal if that is possible at all."""
    assert job.run(function) == EXIT_FAILED
    job._journal.close()
    lines = sound_journal(job.run_folder)
    if disk.says:
        last = lines[-1].event
        assert isinstance(last, Failed), last
        assert_words(KnownError(last.title, last.detail, last.hint), disk)
    assert_tidy(disk.folder)


def goes_on(folder: Path, function: Callable[[Job], dict[str, object]]) -> None:
    """Run the same job again, to its end."""
    job = Job(folder, {"k": "secret-key-1"})
    assert job.run(function) == EXIT_DONE, list(read_journal(folder))[-1]
    job._journal.close()
    sound_journal(folder)
    assert_tidy(folder)


def sound_journal(folder: Path) -> list[Line]:
    """The journal's lines, none of them torn, missing or twice."""
    raw = (folder / JOURNAL_NAME).read_bytes()
    lines = list(read_journal(folder))
    assert raw.endswith(b"\n") or not raw
    assert [line.seq for line in lines] == list(range(1, raw.count(b"\n") + 1))
    return lines


def assert_words(error: KnownError, disk: Disk) -> None:
    assert error.title in disk.titles, str(error)
    if disk.says:
        assert error.hint.startswith("Free "), error.hint
        assert " bytes)" in error.hint, error.hint  # how many are missing, to the last


def assert_tidy(folder: Path) -> None:
    left = [*folder.rglob(f"{files.TEMPORARY_MARK}*"), *folder.rglob(SPARE_NAME)]
    assert not left, left


def main(arguments: Sequence[str]) -> None:
    from tests.faults import full_disk_scenarios

    name, kind, folder, *tries = arguments
    disk: Disk = SmallDisk(Path(folder) / "disk") if kind == "small" else FileLimit(Path(folder) / "disk")
    scenario: Callable[[Disk, Path, str], None] = getattr(full_disk_scenarios, name)
    for number, word in zip(itertools.count(), tries):
        scenario(disk, disk.folder / f"try-{number}", word)
        print(name, kind, word, "held")


if __name__ == "__main__":
    main(sys.argv[1:])
