"""Writing and tailing `events.jsonl`, the truth about a run."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from kdstudio.files import disk_errors
from kdstudio.jobs.events import MAXIMUM_LINE_BYTES, Event, Line, decode, encode

JOURNAL_NAME = "events.jsonl"
_READ_BYTES = 4 << 20


class JournalWriter:
    """Appends events with consecutive numbers; one writer at a time (the run's lock sees to that).

    What a killed writer left half-written at the end is cut off before the first new line.
    """

    def __init__(self, run_folder: Path) -> None:
        self._path = run_folder / JOURNAL_NAME
        self._lock = threading.Lock()
        self._seq = _repair(self._path)
        self._stream = self._path.open("ab", buffering=0)

    def write(self, event: Event, *, durable: bool = False) -> int:
        """Append one event, flushed to the system (to the disk if `durable`); returns its number."""
        with self._lock, disk_errors(self._path):
            start = self._stream.tell()
            try:
                self._stream.write(encode(event, self._seq + 1))
            except OSError:
                self._stream.truncate(start)  # a full disk may have taken half the line
                raise
            self._seq += 1
            if durable:
                os.fsync(self._stream.fileno())
            return self._seq

    def close(self) -> None:
        """Flush to the disk and close."""
        with self._lock:
            if not self._stream.closed:
                os.fsync(self._stream.fileno())
                self._stream.close()


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
