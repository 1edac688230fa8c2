"""What was asked of a teacher that costs money: on the disk before it is sent, and the raw answer before it is read.

A body that was journalled is never asked for again: after a kill it is read from the journal. An attempt that has
neither a body nor a refusal may have been billed, and is listed as such.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs.events import Attempt, Batch, Body, Event, Metric, Settled, now
from kdstudio.teachers.batch_book import BatchBook
from kdstudio.teachers.batch_wire import OpenBatch
from kdstudio.teachers.bodies import pieces, whole
from kdstudio.teachers.group_commit import GroupCommit
from kdstudio.teachers.prices import in_words
from kdstudio.teachers.spend import Spend
from kdstudio.teachers.wire import Answered

if TYPE_CHECKING:
    from kdstudio.jobs.child import Job

Question = tuple[str, str]
"""The teacher's name and the request's key."""
_METRIC_SECONDS, _KEYS_LISTED, _KEYS_NAMED = 1.0, 1000, 12


class Ledger(Protocol):
    """Keeps the attempts of one run. `spend` is the run's purse, `run` its id; the project keeps its pictures."""

    spend: Spend
    run: str
    project_folder: Path | None

    def body(self, question: Question) -> tuple[int, str] | None:
        """The attempt and the raw body that an earlier process of the run kept for a question."""
        ...

    def answered(self, teacher: str) -> bool:
        """Whether a teacher has answered anything in this run."""
        ...

    async def begin(self, question: Question, reserved: float) -> int:
        """Write an attempt and wait for the disk; returns its number. Raises `KnownError` when the disk is full."""
        ...

    async def keep(self, question: Question, number: int, raw: str) -> None:
        """Write a raw body and wait for the disk. Raises `KnownError` when the disk is full."""
        ...

    def settle(self, question: Question, number: int, answered: Answered | None) -> None:
        """Note what became of an attempt: an answer with its cost, or none that could have been billed."""
        ...

    def ceiling_reached(self, least: float) -> None:
        """The ceiling leaves no room for the cheapest of what is left, `least` US dollars: end the run well."""
        ...


class NoLedger:
    """For a question outside of any project: nothing is written, nothing counted."""

    def __init__(self) -> None:
        self.spend, self.run = Spend(), "-"
        self.project_folder: Path | None = None

    def body(self, question: Question) -> tuple[int, str] | None:
        """None was kept."""
        del question
        return None

    def answered(self, teacher: str) -> bool:
        """Not known here: as if not."""
        del teacher
        return False

    async def begin(self, question: Question, reserved: float) -> int:
        """Number one, each time."""
        del question, reserved
        return 1

    async def keep(self, question: Question, number: int, raw: str) -> None:
        """Keep nothing."""

    def settle(self, question: Question, number: int, answered: Answered | None) -> None:
        """Note nothing."""

    def ceiling_reached(self, least: float) -> None:
        """Raise `KnownError`: without a run there is nothing to end well."""
        raise KnownError(
            "The ceiling is reached", f"The next request may cost {in_words(least)}.", "Raise the ceiling."
        )


class JournalLedger:
    """The ledger of a job, kept in its journal; safe from any thread."""

    def __init__(self, job: Job) -> None:
        """Read what earlier processes wrote. Raises `BadInput` for a ceiling that is no amount of money."""
        self._job, self.run = job, job.run_folder.name
        self.project_folder: Path | None = job.project_folder
        self._numbers: defaultdict[Question, int] = defaultdict(int)
        self._open: dict[tuple[Question, int], float] = {}
        self._unread: dict[Question, tuple[int, list[Body]]] = {}
        self._teachers: set[str] = set()
        self._settled, self._metric_at, self._at_ceiling = 0, 0.0, False
        self._batches = BatchBook()
        self.spend = Spend(_ceiling(job), self._replay())
        self._commit = GroupCommit(lambda events: job.emit_all(events, durable=True))
        for question, number in self._batches.never_sent():
            self.settle(question, number, None)

    def _replay(self) -> float:
        """What is spent already: what answers cost, and the reservations of all others that were not refused."""
        spent, held = 0.0, dict[tuple[Question, int], float]()
        parts: defaultdict[tuple[Question, int], list[Body]] = defaultdict(list)
        for line in self._job.earlier():
            event = line.event
            self._batches.read(line)
            if isinstance(event, Attempt | Body | Settled):
                place = (event.teacher, event.key), event.number
                if isinstance(event, Attempt):
                    self._numbers[place[0]] = max(self._numbers[place[0]], event.number)
                    self._open[place] = held[place] = event.reserved
                elif isinstance(event, Settled):
                    self._open.pop(place, None)
                    held.pop(place, None)
                    self._count(event)
                    spent += event.cost
                    if event.outcome == "refused" and self._unread.get(place[0], (0,))[0] == event.number:
                        del self._unread[place[0]]  # a batch's line that said so
                else:
                    parts[place].append(event)
                    if len(parts[place]) == event.parts:
                        self._open.pop(place, None)
                        self._unread[place[0]] = event.number, parts[place]
        self._held = held
        return spent + sum(held.values())

    def _count(self, event: Settled) -> None:
        self._settled += 1
        if event.outcome == "answered":
            self._teachers.add(event.teacher)

    def body(self, question: Question) -> tuple[int, str] | None:
        """As `Ledger.body`."""
        kept = self._unread.get(question)
        return (kept[0], whole(kept[1])) if kept else None

    def answered(self, teacher: str) -> bool:
        """As `Ledger.answered`."""
        return teacher in self._teachers

    async def begin(self, question: Question, reserved: float) -> int:
        """As `Ledger.begin`; attempts of many requests share one wait for the disk."""
        self._numbers[question] += 1
        number = self._numbers[question]
        self._open[question, number] = reserved
        try:
            await self._commit.written([Attempt(*question, number, reserved)])
        except asyncio.CancelledError:  # it is perhaps written, but will not be sent
            self._open.pop((question, number), None)
            self._commit.write([settled(question, number, None)])
            raise
        return number

    async def keep(self, question: Question, number: int, raw: str) -> None:
        """As `Ledger.keep`."""
        await self._commit.written(pieces(question, number, raw))
        self._open.pop((question, number), None)

    def settle(self, question: Question, number: int, answered: Answered | None) -> None:
        """As `Ledger.settle`. A body of an earlier process takes the place of its reservation in what is spent."""
        self._unread.pop(question, None)
        self._open.pop((question, number), None)
        self._batches.resolved((question, number))
        if (held := self._held.pop((question, number), None)) is not None:
            self.spend.correct((answered.completion.cost if answered else 0.0) - held)
        event = settled(question, number, answered)
        self._count(event)
        self._job.emit_all([event])
        if time.monotonic() - self._metric_at >= _METRIC_SECONDS:
            self._say_spend()

    def batches(self, teacher: str) -> list[OpenBatch]:
        """A teacher's batches that are on their way."""
        return self._batches.open(teacher)

    def next_number(self, question: Question) -> int:
        """The number of an attempt that is about to be planned."""
        self._numbers[question] += 1
        return self._numbers[question]

    def plan(self, batch: OpenBatch, reserved: Mapping[Question, float]) -> None:
        """Write all attempts of a batch, and that it is about to be sent; waits for the disk. Raises `KnownError`."""
        attempts = [Attempt(*one, number, reserved[one], batch.mark) for one, number in batch.numbers.items()]
        batch.since = now()
        self._batches.add(batch)
        for attempt in attempts:
            self._open[(attempt.teacher, attempt.key), attempt.number] = attempt.reserved
        self._job.emit_all([*attempts, _standing(batch, "planned")], durable=True)

    def note(self, batch: OpenBatch, state: str) -> None:
        """Write where a batch stands and wait for the disk: "sent", "ended" or "refused". Raises `KnownError`."""
        self._job.emit_all([_standing(batch, state)], durable=True)
        if state != "sent":
            self._batches.ended(batch.mark)

    def keep_all(self, bodies: Sequence[tuple[Question, int, str]]) -> None:
        """Write raw bodies and wait for the disk, once for all; `body` has them from now on. Raises `KnownError`."""
        written = {(question, number): pieces(question, number, raw) for question, number, raw in bodies}
        self._job.emit_all([piece for parts in written.values() for piece in parts], durable=True)
        for (question, number), parts in written.items():
            if self._open.pop((question, number), None) is not None:  # others are no question's
                self._unread[question] = number, parts
                self._batches.resolved((question, number))

    def waiting(self, words: str) -> None:
        """Say in the run's progress what is waited for."""
        self._job.waiting(words)

    def ceiling_reached(self, least: float) -> None:
        """As `Ledger.ceiling_reached`: say it once, and let the job stop as a person would stop it."""
        if not self._at_ceiling:
            self._at_ceiling = True
            self._job.warn(
                f"The ceiling of {in_words(self.spend.ceiling)} is reached",
                f"{in_words(self.spend.spent)} is spent, and the next question may cost {in_words(least)}.",
                "What was answered is kept. Ask again with a higher ceiling: only what has no answer is asked.",
            )
        self._job.stop()

    def report(self) -> dict[str, Any]:
        """For the job's result: `spend` in US dollars, and `possibly_billed` with its count and its keys.

        Call it when nothing is under way any more; it also warns of what may have been billed without an answer.
        """
        if not self._numbers:
            return {}
        self._say_spend()
        away = self._away()
        lost = {place: reserved for place, reserved in self._open.items() if place not in away}
        keys = sorted({key for (_, key), _ in lost})
        count, dollars = len(lost), sum(lost.values())
        if count:
            named = ", ".join(keys[:_KEYS_NAMED]) + (" and others" if len(keys) > _KEYS_NAMED else "")
            self._job.warn(
                f"{count:,} {'request' if count == 1 else 'requests'} may have been billed without an answer",
                f"Sent, and neither answered nor refused; at most {in_words(dollars)}. Of the questions {named}.",
                "Compare with the provider's list: their X-Client-Request-Id is RUN/TEACHER/QUESTION/NUMBER.",
            )
        listed = {"count": count, "dollars": round(dollars, 6), "keys": keys[:_KEYS_LISTED]}
        result: dict[str, Any] = {"spend": round(self.spend.spent, 6), "possibly_billed": listed}
        result |= {"at_provider": len(away)} if away else {}
        return {**result, "ceiling_reached": True} if self._at_ceiling else result

    def _away(self) -> set[tuple[Question, int]]:
        """Attempts in batches that the provider goes on with after the run's end; says so."""
        batches = self._batches.open()
        away = {(one, batch.numbers[one]) for batch in batches for one in batch.left}
        if away:
            named = ", ".join(batch.id or "one whose name is looked for" for batch in batches)
            self._job.warn(
                f"{len(away):,} {'question is' if len(away) == 1 else 'questions are'} still with the provider",
                f"The provider goes on with {'batch' if len(batches) == 1 else 'batches'} {named}, and bills it.",
                "Resume the run to fetch the answers: nothing is asked twice.",
            )
        return away

    def _say_spend(self) -> None:
        self._metric_at = time.monotonic()
        self._job.emit_all([Metric(self._settled, {"spend": round(self.spend.spent, 6)})])


def settled(question: Question, number: int, answered: Answered | None) -> Settled:
    """The event of what became of an attempt."""
    if answered is None:
        return Settled(*question, number, "refused")
    completion = answered.completion
    return Settled(
        *question,
        number,
        "answered",
        completion.prompt_tokens,
        answered.cached_tokens,
        completion.tokens,
        round(completion.cost, 9),
    )


def _standing(batch: OpenBatch, state: str) -> Event:
    return Batch(batch.teacher, batch.mark, state, batch.id, batch.after, len(batch.numbers))


def _ceiling(job: Job) -> float:
    """The run's own ceiling, else the least that its teachers' options name."""
    specs = job.parameters.get("teachers") or [job.parameters.get("teacher") or {}]
    named = [(spec.get("options") or {}).get("ceiling") or 0 for spec in specs]
    given = job.parameters.get("ceiling") or [one for one in named if one] or 0
    try:
        amount = min(map(float, given)) if isinstance(given, list) else float(given)
    except (TypeError, ValueError):
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise BadInput("The ceiling is no amount of money", f"It is {given!r}.", "Give US dollars, for example 5.")
    return amount


_ledgers: weakref.WeakKeyDictionary[Job, JournalLedger] = weakref.WeakKeyDictionary()


def ledger_of(job: Job) -> JournalLedger:
    """The ledger of a run, with what earlier processes wrote into it; always the same one for a job."""
    if job not in _ledgers:
        _ledgers[job] = JournalLedger(job)
    return _ledgers[job]
