"""What questions asked by hand cost: a try of a teacher, a chat. They belong to no run, but are spent all the same.

A small journal of the project keeps the teacher's name and the amounts, on the disk before a question is sent; what was
said is not kept. Several processes may append to it at once.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

from kdstudio.files import disk_errors
from kdstudio.jobs.events import Attempt, Settled, encode
from kdstudio.jobs.folder import ASKED_NAME
from kdstudio.jobs.journal import JOURNAL_NAME
from kdstudio.teachers.ledger import NoLedger, Question, settled
from kdstudio.teachers.wire import Answered


class HandLedger(NoLedger):
    """The ledger of one process in which a person asks. There is no ceiling: each question is the person's own."""

    def __init__(self, project_folder: Path) -> None:
        """The project keeps the journal, and the pictures of prompts."""
        super().__init__()
        self.run, self.project_folder = f"by-hand-{secrets.token_hex(4)}", project_folder
        self._path = project_folder / ASKED_NAME / JOURNAL_NAME
        self._asked, self._written = 0, set[int]()

    async def begin(self, question: Question, reserved: float) -> int:
        """As `Ledger.begin`; what costs nothing is not written."""
        self._asked += 1
        number = self._asked
        if reserved:
            await asyncio.to_thread(self._append, Attempt(question[0], self.run, number, reserved))
            self._written.add(number)
        return number

    def settle(self, question: Question, number: int, answered: Answered | None) -> None:
        """As `Ledger.settle`."""
        if number in self._written:
            self._written.discard(number)
            self._append(settled((question[0], self.run), number, answered))

    def _append(self, event: Attempt | Settled) -> None:
        """One line, on the disk. What a killed process left half-written becomes a line of its own, which says nothing.

        Raises `KnownError` when the disk is full.
        """
        with disk_errors(self._path):
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("ab+", buffering=0) as stream:
                end = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, end - 1))
                torn = end > 0 and stream.read(1) != b"\n"
                stream.write(b"\n" * torn + encode(event, event.number))
                os.fsync(stream.fileno())
