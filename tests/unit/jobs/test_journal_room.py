"""A journal on a disk that is full: no torn line, and room for the answer in hand and for the job's last words."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from kdstudio.errors import KnownError
from kdstudio.jobs.events import Answer, Failed, Progress
from kdstudio.jobs.journal import JOURNAL_NAME, SPARE_NAME, JournalWriter, read_journal


class Disk:
    """Stands for the journal's stream, and takes so many bytes: a part first, without a word, then none."""

    def __init__(self, stream: Any, spare: Path) -> None:
        self._stream, self._spare, self.room = stream, spare, 1 << 20
        self._kept = True

    def write(self, data: bytes) -> int:
        if self._kept and not self._spare.exists():
            self._kept, self.room = False, self.room + 4096
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(len(data), self.room)
        self.room -= taken
        return int(self._stream.write(bytes(data)[:taken]))

    def truncate(self, size: int) -> int:
        self.room += int(self._stream.seek(0, 2)) - size
        return int(self._stream.truncate(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@pytest.fixture
def disk(tmp_path: Path) -> tuple[JournalWriter, Disk]:
    writer = JournalWriter(tmp_path)
    disk = Disk(writer._stream, tmp_path / SPARE_NAME)
    writer._stream = disk  # type: ignore[assignment]
    return writer, disk


def kinds(folder: Path) -> list[str]:
    assert (folder / JOURNAL_NAME).read_bytes().endswith(b"\n")
    lines = list(read_journal(folder))
    assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
    return [line.event.event for line in lines]


def test_the_answer_in_hand_is_kept_and_then_the_job_ends(disk: tuple[JournalWriter, Disk], tmp_path: Path) -> None:
    writer, small = disk
    writer.write(Progress())
    small.room = 30
    with pytest.raises(KnownError, match="disk is full") as caught:
        writer.write(Answer("1", "paid for"))
    assert " bytes)" in caught.value.hint
    assert kinds(tmp_path) == ["progress", "answer"]
    writer.write_last(Failed("The disk is full"))
    assert kinds(tmp_path) == ["progress", "answer", "failed"]
    writer.close()
    assert not (tmp_path / SPARE_NAME).exists()


def test_a_line_that_does_not_fit_leaves_no_part_of_itself(disk: tuple[JournalWriter, Disk], tmp_path: Path) -> None:
    writer, small = disk
    writer.write(Progress())
    (tmp_path / SPARE_NAME).unlink()
    small._kept, small.room = False, 30
    for _ in range(2):
        with pytest.raises(KnownError, match="disk is full"):
            writer.write(Answer("1", "lost"))
    assert kinds(tmp_path) == ["progress"]
    small.room = 1 << 20
    writer.write(Answer("2", "after room was made"))
    assert kinds(tmp_path) == ["progress", "answer"]
    writer.close()
