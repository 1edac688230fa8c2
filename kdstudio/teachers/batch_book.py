"""Which of a run's batches are on their way, as its journal tells it."""

from __future__ import annotations

from kdstudio.jobs.events import Attempt, Batch, Body, Line, Settled
from kdstudio.teachers.batch_wire import OpenBatch

Place = tuple[tuple[str, str], int]
"""A question and the number of an attempt at it."""


class BatchBook:
    """The open batches of one run by their marks, of earlier processes and of this one."""

    def __init__(self) -> None:
        self._open: dict[str, OpenBatch] = {}
        self._marks: dict[Place, str] = {}

    def read(self, line: Line) -> None:
        """Take in a line of the journal."""
        match line.event:
            case Attempt(batch=mark) as event if mark:
                batch = self._open.setdefault(mark, OpenBatch(event.teacher, mark))
                batch.numbers[event.teacher, event.key] = event.number
                self._marks[(event.teacher, event.key), event.number] = mark
            case Settled() as event:
                self.resolved(((event.teacher, event.key), event.number))
            case Body() as event if event.part == event.parts:
                self.resolved(((event.teacher, event.key), event.number))
            case Batch() as event:
                self._stands(event, line.t)

    def _stands(self, event: Batch, t: str) -> None:
        if event.state in ("ended", "refused"):
            self.ended(event.mark)
        elif (batch := self._open.get(event.mark)) is not None:
            batch.id, batch.after, batch.since = event.id, event.after, batch.since or t

    def never_sent(self) -> list[Place]:
        """Attempts of batches whose plan was not wholly written, so that they were not sent: they are forgotten."""
        torn = [batch for batch in self._open.values() if not batch.since]
        for batch in torn:
            self.ended(batch.mark)
        return [(question, number) for batch in torn for question, number in batch.numbers.items()]

    def add(self, batch: OpenBatch) -> None:
        """A batch of this process."""
        self._open[batch.mark] = batch
        self._marks |= dict.fromkeys(batch.numbers.items(), batch.mark)

    def resolved(self, place: Place) -> None:
        """Something is known of an attempt: its body, or that it was refused."""
        batch = self._open.get(self._marks.get(place, ""))
        if batch is not None:
            batch.done.add(place[0])

    def ended(self, mark: str) -> None:
        """Nothing more comes of a batch."""
        batch = self._open.pop(mark, None)
        for place in batch.numbers.items() if batch else ():
            self._marks.pop(place, None)

    def open(self, teacher: str = "") -> list[OpenBatch]:
        """Those of a teacher, or of all."""
        return [batch for batch in self._open.values() if teacher in ("", batch.teacher)]
