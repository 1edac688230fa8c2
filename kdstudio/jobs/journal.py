"""Writing and tailing `events.jsonl`, the truth about a run."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdstudio.files import disk_errors
from kdstudio.jobs.events import MAXIMUM_LINE_BYTES, Event, Line, decode, encode

JOURNAL_NAME, SPARE_NAME = "events.jsonl", "spare"
_SPARE_BYTES = 256 << 10
_READ_BYTES = 4 << 20


class JournalWriter:
    """Appends events with consecutive numbers; one writer at a time (the run's lock sees to that).

    What a killed writer left half-written at the end is cut off before the first new line. A spare file beside the
    journal keeps some room: on a full disk the line in hand, perhaps a paid answer, and the job's last words still fit.
    """

    def __init__(self, run_folder: Path) -> None:
        """Open the journal of a run. Raises `KnownError` when the disk does not let us."""
        self._path, self._spare = run_folder / JOURNAL_NAME, run_folder / SPARE_NAME
        self._lock = threading.Lock()
        with disk_errors(self._path):
            self._seq = _repair(self._path)
            self._stream = self._path.open("ab", buffering=0)
        self._keep_room()

    def write(self, event: Event, *, durable: bool = False) -> int:
        """Append one event, flushed to the system (to the disk if `durable`); returns its number.

        Raises `KnownError` when the disk is full. The event is kept even then if the spare room took it, once.
        """
        with self._lock, disk_errors(self._path):
            line = encode(event, self._seq + 1)
            try:
                self._append(line)
            except OSError:
                if not self._free_room():
                    raise
                self._append(line)
                self._seq += 1
                os.fsync(self._stream.fileno())
                raise
            self._seq += 1
            if durable:
                os.fsync(self._stream.fileno())
            return self._seq

    def write_all(self, events: Iterable[Event], *, durable: bool = False) -> int:
        """Append several events with one write and, if `durable`, one fsync, during which others may append.

        Returns the last number. Raises `KnownError` when the disk is full: then none of them is in the journal, unless
        the spare room took them, once.
        """
        with disk_errors(self._path):
            with self._lock:
                numbered = [encode(event, number) for number, event in enumerate(events, self._seq + 1)]
                lines, full = b"".join(numbered), None
                try:
                    self._append(lines)
                except OSError as error:
                    if not self._free_room():
                        raise
                    self._append(lines)
                    full = error
                self._seq += len(numbered)
                last, descriptor = self._seq, self._stream.fileno()
            if durable or full is not None:
                os.fsync(descriptor)
            if full is not None:
                raise full
            return last

    def write_last(self, event: Event) -> int:
        """Append the event that ends the job, to the disk: the spare room is for this."""
        self._free_room()
        return self.write(event, durable=True)

    def close(self) -> None:
        """Flush to the disk and close."""
        with self._lock:
            if not self._stream.closed:
                os.fsync(self._stream.fileno())
                self._stream.close()
        self._free_room()

    def _append(self, line: bytes) -> None:
        """All of the line or nothing: a disk that is almost full takes a part without an error."""
        start, left = self._stream.seek(0, os.SEEK_END), memoryview(line)
        try:
            while left:
                left = left[self._stream.write(left) :]
        except OSError:
            self._stream.truncate(start)
            raise

    def _keep_room(self) -> None:
        """Hold some room. Random bytes, since some file systems keep no room for zeros."""
        try:
            self._spare.write_bytes(os.urandom(_SPARE_BYTES))
        except OSError:
            self._free_room()

    def _free_room(self) -> bool:
        """Give the room back; False if there was none."""
        try:
            self._spare.unlink()
        except OSError:
            return False
        return True


def _repair(path: Path) -> int:
    """Cut an unterminated tail off and return the last number written (0 for a new journal)."""
    if not path.exists():
        path.touch()
        return 0
    last, good = 0, 0
    with path.open("r+b") as stream:
        for raw in stream:
            if not raw.endswith(b"\n"):
                break
            good += len(raw)
            line = decode(raw)
            last = max(last, line.seq) if line else last
        stream.truncate(good)
    return last


class JournalReader:
    """Reads a journal from where it last stopped; safe to use while the writer appends."""

    def __init__(self, run_folder: Path) -> None:
        self._path = run_folder / JOURNAL_NAME
        self._offset = 0

    def read(self) -> list[Line]:
        """The whole lines that came since the last call (at most a few MiB of them). A shrunken file starts over."""
        try:
            with self._path.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                if size < self._offset:
                    self._offset = 0
                if size == self._offset:
                    return []
                stream.seek(self._offset)
                block = stream.read(_READ_BYTES)
        except FileNotFoundError:
            return []
        end = block.rfind(b"\n") + 1
        if end == 0:
            if len(block) > MAXIMUM_LINE_BYTES:  # an endless line: step over it, it cannot be an event
                self._offset += len(block)
            return []
        self._offset += end
        return [line for raw in block[:end].splitlines(keepends=True) if (line := decode(raw)) is not None]


def read_journal(run_folder: Path) -> Iterator[Line]:
    """Every whole line of a run's journal, from its beginning."""
    reader = JournalReader(run_folder)
    while lines := reader.read():
        yield from lines
