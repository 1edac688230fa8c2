"""Many questions to a hosted teacher at once: requests are read in the caller's thread, asked on a background loop."""

from __future__ import annotations

import asyncio
import itertools
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.endpoint import is_local
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.asking import Asking, Failed, Terms, TooDear
from kdstudio.teachers.background_loop import BackgroundLoop, StopWatch
from kdstudio.teachers.base import Completion, Request
from kdstudio.teachers.ledger import Ledger
from kdstudio.teachers.limits import Limits
from kdstudio.teachers.prices import price_of
from kdstudio.teachers.wire import Failure, Provider

TRIES, TIMEOUT_SECONDS, BATCH_SECONDS = 6, 300.0, 15.0
LOCAL_AT_ONCE, HOSTED_AT_ONCE = 4, 64
REACH_HINT = "Check that the server runs, and its URL: for Ollama http://localhost:11434/v1"
_LOOK_SECONDS, _DRAIN_SECONDS = 0.1, 5.0
_BEGUN_TOGETHER = 8
OnText = Callable[[str, str], None]


@dataclass(frozen=True)
class Manners:
    """How a hosted teacher is asked, from its spec's options.

    `requests_at_once`: the most in flight (4 on this machine, else 64; fewer while the server is overloaded).
    `requests_per_minute`, `tokens_per_minute`: 0 is no limit. `tries`: attempts for each question.
    `timeout_seconds`: the longest silence before and within an answer. `batch`: in batches, answered within a day at a
    lower price; `batch_requests`: the most in one of them (0: as many as the provider takes); `batch_seconds`: how long
    questions are gathered after the last one came, and the first wait between two looks at a batch.
    """

    requests_at_once: int
    tries: int
    timeout_seconds: float
    requests_per_minute: float
    tokens_per_minute: float
    batch: bool = False
    batch_requests: int = 0
    batch_seconds: float = BATCH_SECONDS

    def limits(self) -> Limits:
        """A gate for one event loop."""
        return Limits(
            self.requests_at_once,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
        )


def manners_of(spec: TeacherSpec) -> Manners:
    """Read them. Raises `BadInput` for options that are no numbers."""
    at_once = LOCAL_AT_ONCE if is_local(spec.url) else HOSTED_AT_ONCE
    return Manners(
        int(_option(spec, "requests_at_once", at_once)),
        int(_option(spec, "tries", TRIES)),
        _option(spec, "timeout_seconds", TIMEOUT_SECONDS),
        _option(spec, "requests_per_minute", 500) if "requests_per_minute" in spec.options else 0.0,
        _option(spec, "tokens_per_minute", 200_000) if "tokens_per_minute" in spec.options else 0.0,
        bool(spec.options.get("batch")),
        int(_option(spec, "batch_requests", 1000)) if "batch_requests" in spec.options else 0,
        _option(spec, "batch_seconds", BATCH_SECONDS),
    )


def _option(spec: TeacherSpec, name: str, default: float) -> float:
    value = spec.options.get(name, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < 1e9:
        raise BadInput(
            "A teacher's option cannot be used", f"{name} of {spec.name!r} is {value!r}.", f"For example {default:g}."
        )
    return number


def terms_of(spec: TeacherSpec, key: str, manners: Manners, ledger: Ledger) -> Terms:
    """On what terms a teacher is asked. Raises `BadInput` when there is a ceiling but no price to hold against it."""
    price = price_of(spec)
    if price is None and ledger.spend.ceiling:
        raise BadInput(
            "The ceiling needs a price",
            f"What {spec.model!r} costs is not known.",
            "Give the teacher the option price = { input = DOLLARS, output = DOLLARS } (a million tokens), or enter it"
            " in prices.toml in the settings folder.",
        )
    return Terms(spec.name, spec.model, key, manners.tries, price)


@dataclass(frozen=True)
class _Piece:
    """New text of the answer to request `key`."""

    key: str
    text: str


_Item = Completion | Failed | TooDear | _Piece | BaseException


class Conversation:
    """One run of questions through one provider; `answers` is what a teacher's `generate` hands on."""

    def __init__(self, provider: Provider, terms: Terms, manners: Manners, ledger: Ledger, notes: list[str]) -> None:
        self._asking = Asking(provider, terms, ledger, manners.limits(), notes)
        self._ledger, self._most = ledger, manners.requests_at_once + manners.requests_at_once // 2
        self._patience = _Patience(manners.requests_at_once)
        self._items: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way, self._more = 0, True
        self._too_dear: TooDear | None = None

    def answers(
        self, requests: Iterable[Request], *, stop: Callable[[], bool], on_text: OnText | None = None
    ) -> Iterator[Completion]:
        """Yield completions as they finish. Raises `KnownError` as soon as no further request could succeed.

        What is under way then is waited for a few seconds: it may be paid for. At the ceiling all of it is waited for.
        """
        source = iter(requests)
        with StopWatch(stop) as watch, BackgroundLoop() as loop:
            try:
                while (self._under_way or self._more) and not watch.stopped:
                    self._begin(source, watch, loop, streams=on_text is not None)
                    item = self._next(on_text)
                    if item is not None and (completion := self._completion(item)) is not None:
                        yield completion
            except KnownError as error:
                yield from self._last_answers(on_text, watch)
                raise error
            finally:
                loop.finish(self._asking.provider.close())
        if self._too_dear is not None:
            self._ledger.ceiling_reached(self._too_dear.least)

    def _begin(self, source: Iterator[Request], watch: StopWatch, loop: BackgroundLoop, *, streams: bool) -> None:
        """Send off what there is room for, several at a time while answers wait: each time wakes the loop."""
        if self._most - self._under_way < min(_BEGUN_TOGETHER, self._most) and not self._items.empty():
            return
        while self._more and self._under_way < self._most and watch.may_begin:
            requests = list(itertools.islice(source, min(_BEGUN_TOGETHER, self._most - self._under_way)))
            self._more = bool(requests)
            self._under_way += len(requests)
            loop.soon(self._start, requests, streams)

    def _start(self, requests: Sequence[Request], streams: bool) -> None:
        """On the loop: begin to ask these."""
        for request in requests:
            task = asyncio.get_running_loop().create_task(self._serve(request, streams=streams))
            self._tasks.add(task)  # a loop keeps no hold of its tasks
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, request: Request, *, streams: bool) -> None:
        def show(text: str) -> None:
            self._items.put(_Piece(request.key, text))

        try:
            self._items.put(await self._asking.ask(request, show if streams else None))
        except Exception as error:  # noqa: BLE001 -- raised in the caller's thread
            self._items.put(error)

    def _next(self, on_text: OnText | None) -> Completion | Failed | TooDear | BaseException | None:
        """What ended next; None if nothing did for a moment."""
        try:
            item = self._items.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            return None
        if not isinstance(item, _Piece):
            self._under_way -= 1
            return item
        if on_text is not None:
            on_text(item.key, item.text)
        return None

    def _completion(self, item: Completion | Failed | TooDear | BaseException) -> Completion | None:
        """What the caller gets. Raises what ends the run."""
        if isinstance(item, TooDear):
            self._too_dear, self._more = item, False
            return None
        return self._patience.completion(item)

    def _last_answers(self, on_text: OnText | None, watch: StopWatch) -> Iterator[Completion]:
        until = time.monotonic() + _DRAIN_SECONDS
        while self._under_way and time.monotonic() < until and not watch.stopped:
            if isinstance(item := self._next(on_text), Completion):
                yield item


class _Patience:
    """Tells a request that failed from an endpoint that is gone: asking on would fail row after row, for hours."""

    def __init__(self, at_once: int) -> None:
        self._limit = max(4, 2 * at_once)
        self._answered = False
        self._failures = 0

    def completion(self, item: Completion | Failed | BaseException) -> Completion:
        """What the caller gets. Raises `KnownError` when there is no point in going on."""
        if isinstance(item, BaseException):
            raise item
        if isinstance(item, Completion):
            self._answered, self._failures = True, 0
            return item
        self._failures += item.failure.kind != "permanent"
        if (item.failure.unreachable and not self._answered) or self._failures >= self._limit:
            raise gave_up(item.failure)
        return Completion(item.key, "", "error", error=item.failure.words)


def gave_up(failure: Failure) -> KnownError:
    """Why the run ends after a request whose tries are used up."""
    if failure.error is not None:
        return failure.error
    if failure.timed_out:
        return KnownError(
            "The endpoint did not answer in time",
            failure.words,
            "A local server may still load its model: try again, or raise the teacher's timeout.",
        )
    title = "The endpoint cannot be reached" if failure.unreachable else "The endpoint keeps failing"
    return KnownError(title, failure.words, f"{REACH_HINT}. Resume the run later: what was answered is kept.")
