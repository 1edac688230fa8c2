"""Questions to a hosted teacher in batches: at a lower price, answered within a day.

Questions are gathered until no more come for a while; then they go off together, and what comes meanwhile waits for the
next batch, unless there is enough to fill one. A recipe with several questions for each row so takes a batch for each
of its waves. The first question of a wave is asked by itself, at the full price: what the endpoint refuses, a parameter
or a key, is known before thousands of questions come back with it a day later.

Nothing is paid twice: a batch and its attempts are on the disk before it is sent, its id right after, each line of its
results before it is read; a batch of an earlier process is found again and followed to its end. Stopping leaves it
with the provider.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from kdstudio.errors import BadInput, KnownError
from kdstudio.teachers.asking import Asking, Failed, Terms, TooDear
from kdstudio.teachers.background_loop import BackgroundLoop, StopWatch
from kdstudio.teachers.base import Completion, Request
from kdstudio.teachers.batch_courier import Courier, Ended, Newest, News, NotTaken, Seen, Trouble
from kdstudio.teachers.batch_taking import Again, Taking
from kdstudio.teachers.batch_wire import BatchDialect, BatchState, OpenBatch, mark_of, name_of
from kdstudio.teachers.conversing import Manners, gave_up
from kdstudio.teachers.ledger import JournalLedger, Question
from kdstudio.teachers.openai_failures import unfit
from kdstudio.teachers.spend import most_cost
from kdstudio.teachers.wire import Provider

_LOOK_SECONDS, _CROWDED_SECONDS, _LONGEST_REST = 0.1, 60.0, 900.0
_FIRST_TRIES = 3


@dataclass(frozen=True)
class _Alone:
    """What came of a question that was asked by itself."""

    request: Request
    outcome: Completion | Failed | TooDear


class BatchConversation:
    """As `Conversation`, in batches."""

    def __init__(
        self,
        dialect: BatchDialect,
        provider: Provider,
        terms: Terms,
        manners: Manners,
        ledger: JournalLedger,
        notes: list[str],
    ) -> None:
        self._dialect, self._terms, self._ledger, self._pause = dialect, terms, ledger, manners.batch_seconds
        self._price = terms.price.in_batch() if terms.price else None
        self._alone = Asking(provider, terms, ledger, manners.limits(), notes)
        batched = Asking(provider, replace(terms, price=self._price), ledger, manners.limits(), notes)
        self._taking = Taking(dialect, provider, self._alone, batched, terms, ledger)
        self._items: queue.SimpleQueue[News | _Alone | BaseException] = queue.SimpleQueue()
        self._courier = Courier(dialect, provider, manners, ledger, self._items.put)
        self._most = min(manners.batch_requests or dialect.most_requests, dialect.most_requests)
        self._pending: deque[Request] = deque()
        self._out: dict[str, tuple[OpenBatch, BatchState]] = {}
        self._met, self._first_tries, self._asking, self._listing, self._overflows = False, 0, False, False, False
        self._crowded, self._came_at, self._rests_until = 0, time.monotonic(), 0.0
        self._too_dear = 0.0

    def answers(self, requests: Iterable[Request], *, stop: Callable[[], bool]) -> Iterator[Completion]:
        """Yield completions as they come. Raises `KnownError` as soon as no further request could succeed.

        After a stop nothing more is asked; what is with the provider is left there.
        """
        source = iter(requests)
        with StopWatch(stop) as watch, BackgroundLoop() as loop:
            try:
                for batch in self._ledger.batches(self._terms.teacher):
                    self._out[batch.mark] = batch, BatchState(batch.id, total=len(batch.numbers))
                    loop.submit(self._courier.pick_up(batch))
                while not watch.stopped:
                    yield from self._gathered(source, watch)
                    if not (self._out or self._asking or self._listing or (self._pending and not self._too_dear)):
                        break
                    if watch.may_begin:
                        self._send_off(loop)
                    yield from self._received(loop)
            finally:
                self._taking.leave()
                loop.finish(self._closed())
        if self._too_dear:
            self._ledger.ceiling_reached(self._too_dear)

    async def _closed(self) -> None:
        await self._dialect.close()
        await self._alone.provider.close()

    def _gathered(self, source: Iterator[Request], watch: StopWatch) -> Iterator[Completion]:
        """Take in what the source has now; what is answered already is handed on."""
        while watch.may_begin and len(self._pending) < self._most:
            request = next(source, None)
            if request is None:
                return
            self._came_at = time.monotonic()
            if (found := self._taking.taken_in(request)) is Again.ASK:
                self._pending.append(request)
            elif isinstance(found, Completion):
                yield found

    def _send_off(self, loop: BackgroundLoop) -> None:
        """Ask the first question by itself; later begin a batch as soon as its time has come."""
        busy = self._asking or self._listing or time.monotonic() < self._rests_until
        if not self._pending or self._too_dear or busy:
            return
        if not self._met:
            self._asking = True
            loop.submit(self._ask_alone(self._pending.popleft()))
        elif self._is_time():
            self._listing = True
            loop.submit(self._courier.newest())

    def _is_time(self) -> bool:
        if self._crowded and self._out:
            return False
        full = len(self._pending) >= self._most or self._overflows
        return full or (not self._out and time.monotonic() - self._came_at >= self._pause)

    async def _ask_alone(self, request: Request) -> None:
        try:
            self._items.put(_Alone(request, await self._alone.ask(request)))
        except Exception as error:  # noqa: BLE001 -- raised in the caller's thread
            self._items.put(error)

    def _received(self, loop: BackgroundLoop) -> Iterator[Completion]:
        """What became known, waiting for a moment at most. Raises what ends the run."""
        try:
            item = self._items.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            return
        match item:
            case _Alone():
                yield from self._heard_alone(item)
            case Newest():
                self._listing = False
                yield from self._begun(item.id, loop)
            case Seen():
                self._out[item.batch.mark] = item.batch, item.state
                self._ledger.waiting(self._words())
            case Trouble():
                self._ledger.waiting(f"{item.words}; it is asked again")
            case NotTaken():
                del self._out[item.batch.mark]
                self._pending += self._taking.not_taken(item.batch)
                if item.failure is not None:
                    raise item.failure.error or _refused(item.failure.words)
            case Ended():
                del self._out[item.batch.mark]
                with item.file:
                    yield from self._ended(item)
            case _:
                raise item

    def _heard_alone(self, alone: _Alone) -> Iterator[Completion]:
        self._asking = False
        outcome = alone.outcome
        if isinstance(outcome, TooDear):
            self._pending.appendleft(alone.request)
            self._is_dear(outcome.least)
        elif isinstance(outcome, Failed):
            if outcome.failure.kind != "permanent":
                raise gave_up(outcome.failure)
            self._first_tries += 1
            self._met = self._first_tries >= _FIRST_TRIES
            yield Completion(outcome.key, "", "error", error=outcome.failure.words)
        else:
            self._met = True
            yield outcome

    def _begun(self, after: str, loop: BackgroundLoop) -> Iterator[Completion]:
        """Plan a batch of what is pending, as much of it as one takes and the ceiling allows, and send it off."""
        batch, lines = OpenBatch(self._terms.teacher, after=after, resumed=False), list[bytes]()
        requests, reserved, room = dict[Question, Request](), dict[Question, float](), self._dialect.most_bytes
        self._overflows = False
        while self._pending and not self._overflows:
            request = self._pending[0]
            question, cost = (self._terms.teacher, request.key), most_cost(request, self._price)
            number = self._ledger.next_number(question)
            try:
                line = self._dialect.line(request, name_of(self._ledger.run, question, number))
                if len(line) > self._dialect.most_bytes:
                    raise BadInput("The prompt is too large", f"It takes {len(line):,} bytes.")
            except BadInput as error:
                self._pending.popleft()
                yield Completion(request.key, "", "error", error=unfit(error).words)
                continue
            self._overflows = len(lines) >= self._most or len(line) > room
            if self._overflows or not self._ledger.spend.reserve_now(cost):
                break
            self._pending.popleft()
            lines.append(line)
            room -= len(line)
            batch.numbers[question], requests[question], reserved[question] = number, request, cost
        if lines:
            batch.mark = mark_of(lines)
            self._taking.planned(batch, requests, reserved)
            self._out[batch.mark] = batch, BatchState("", total=len(lines))
            loop.submit(self._courier.send(batch, lines))
        elif self._pending:
            self._is_dear(most_cost(self._pending[0], self._price))

    def _is_dear(self, least: float) -> None:
        """The ceiling leaves no room: wait for what is under way, which may cost less than it may; else end."""
        if self._out or self._ledger.spend.holds:
            self._rests_until = time.monotonic() + self._pause
        else:
            self._too_dear = least

    def _ended(self, ended: Ended) -> Iterator[Completion]:
        """Take what came of a batch; what has no answer is pending again."""
        if ended.state.outcome == "failed":
            self._pending += self._taking.not_taken(ended.batch, "ended")
            self._crowded += 1
            if not ended.state.crowded or self._crowded > self._taking.tries:
                raise _refused(ended.state.words or "It does not say why.")
            self._most = max(1, len(ended.batch.numbers) // 2)
            rest = min(_LONGEST_REST, self._pause * 2**self._crowded, _CROWDED_SECONDS * 2**self._crowded)
            self._rests_until = time.monotonic() + rest
            self._ledger.waiting(f"{ended.state.words}; a smaller batch is sent in a while")
            return
        self._crowded = 0
        for found in self._taking.results(ended):
            if isinstance(found, Completion):
                yield found
            else:
                self._pending.append(found)
        if self._taking.ends_run is not None:
            raise self._taking.ends_run

    def _words(self) -> str:
        """Where the batches stand, what matters first: a narrow window cuts off the rest."""
        states = [state for _, state in self._out.values()]
        done, total = sum(state.answered for state in states), sum(state.total for state in states)
        named = states[0].id if len(states) == 1 else f"{len(states)} batches"
        since = min(batch.since for batch, _ in self._out.values())
        when = datetime.fromisoformat(since).astimezone().strftime("%d %b %H:%M")
        return f"{done:,} of {total:,} answered, at the provider since {when} ({named})"


def _refused(words: str) -> KnownError:
    return KnownError(
        "The provider refused the batch", words, "Mend that, then resume the run, or ask without batches in a new one."
    )
