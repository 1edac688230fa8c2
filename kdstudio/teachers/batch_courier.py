"""A batch's way to its provider and back: sent once, found again when its id was lost, looked at until it has ended.

Whatever can be waited for is waited for: an answer may take a day, and a network that is gone for an hour comes back.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TypeVar

from kdstudio.errors import KnownError
from kdstudio.teachers.batch_wire import BatchDialect, BatchState, OpenBatch
from kdstudio.teachers.conversing import Manners, gave_up
from kdstudio.teachers.ledger import JournalLedger
from kdstudio.teachers.wire import Failure, Provider

ResultT = TypeVar("ResultT")
_LONGEST_WAIT, _GROWTH, _LOOKS, _GONE = 300.0, 1.5, 3, 404


@dataclass(frozen=True)
class Newest:
    """The newest batch that the provider has: what comes after it may be ours."""

    id: str


@dataclass(frozen=True)
class Seen:
    """How a batch stands."""

    batch: OpenBatch
    state: BatchState


@dataclass(frozen=True)
class Ended:
    """A batch has ended; `file` holds the lines of its results."""

    batch: OpenBatch
    state: BatchState
    file: IO[bytes]


@dataclass(frozen=True)
class NotTaken:
    """The provider has no such batch: it refused it (`failure` says why), or was never asked for it."""

    batch: OpenBatch
    failure: Failure | None = None


@dataclass(frozen=True)
class Trouble:
    """The provider cannot be asked now; it is asked again."""

    words: str


News = Newest | Seen | Ended | NotTaken | Trouble


class Courier:
    """Its coroutines run on one event loop, and put what they find out into `tell`, errors among it."""

    def __init__(
        self,
        dialect: BatchDialect,
        provider: Provider,
        manners: Manners,
        ledger: JournalLedger,
        tell: Callable[[News | BaseException], None],
    ) -> None:
        self._dialect, self._provider, self._ledger, self._tell = dialect, provider, ledger, tell
        self._seconds, self._tries = manners.batch_seconds, manners.tries

    async def newest(self) -> None:
        """Find out which batch is the newest."""
        await self._telling(self._newest())

    async def send(self, batch: OpenBatch, lines: Sequence[bytes]) -> None:
        """Send a batch that is planned, and follow it to its end."""
        await self._telling(self._sent(batch, lines))

    async def pick_up(self, batch: OpenBatch) -> None:
        """Follow a batch that an earlier process planned."""
        await self._telling(self._picked_up(batch))

    async def _telling(self, work: Awaitable[None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 -- raised in the caller's thread
            self._tell(error)

    async def _newest(self) -> None:
        self._tell(Newest(await self._patient(self._dialect.newest, self._tries)))

    async def _sent(self, batch: OpenBatch, lines: Sequence[bytes]) -> None:
        failure = await self._created(batch, lines)
        if failure is None:
            await self._followed(batch)
        else:
            self._tell(NotTaken(batch, failure))

    async def _created(self, batch: OpenBatch, lines: Sequence[bytes]) -> Failure | None:
        """Create it; returns why the provider does not take it. Its id is on the disk before anything else happens.

        One that failed may have been created all the same, so that it is looked for before it is sent again.
        Raises `KnownError` when the tries are used up: then the journal says that it may have been sent.
        """
        tried = 0
        while not batch.id:
            try:
                batch.id = await self._dialect.create(lines, batch.mark, self._ledger.run)
            except Exception as error:  # sorted by the provider, which raises what is not the endpoint's
                failure = self._provider.failure(error)
                tried += 1
                if _is_final(failure):
                    return failure
                self._tell(Trouble(failure.words))
                await asyncio.sleep(self._wait(failure, tried))
                if not await self._found(batch) and tried >= self._tries:
                    raise gave_up(failure) from error
        self._ledger.note(batch, "sent")
        return None

    async def _picked_up(self, batch: OpenBatch) -> None:
        if not batch.id:
            if not await self._found(batch):
                self._tell(NotTaken(batch))
                return
            self._ledger.note(batch, "sent")
        await self._followed(batch)

    async def _found(self, batch: OpenBatch) -> bool:
        """Look for a batch whose id was lost, several times: it may be about to appear."""
        names = batch.names(self._ledger.run)

        async def pause() -> None:
            await asyncio.sleep(self._seconds)

        for look in range(_LOOKS):
            if look:
                await pause()
            batch.id = await self._patient(lambda: self._dialect.find(batch, names, pause))
            if batch.id:
                return True
        return False

    async def _followed(self, batch: OpenBatch) -> None:
        """Look at a batch, less and less often, until it has ended, and fetch its results."""
        seconds = self._seconds
        try:
            while not (state := await self._patient(lambda: self._dialect.state(batch.id))).ended:
                self._tell(Seen(batch, state))
                await asyncio.sleep(seconds * random.uniform(0.8, 1.2))
                seconds = min(max(_LONGEST_WAIT, self._seconds), seconds * _GROWTH)
            self._tell(Ended(batch, state, await self._patient(lambda: self._fetched(state))))
        except KnownError as error:
            if getattr(error.__cause__, "status_code", 0) == _GONE:
                raise _is_gone(batch) from error
            raise

    async def _fetched(self, state: BatchState) -> IO[bytes]:
        """All results, in a file: nothing of them is taken before all are here."""
        with ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile())
            await self._dialect.fetch(state, file)
            stack.pop_all()
            return file

    async def _patient(self, call: Callable[[], Awaitable[ResultT]], tries: int = 0) -> ResultT:
        """Try again what may go better, with 0 `tries` for ever. Raises `KnownError` for what will not."""
        tried = 0
        while True:
            try:
                return await call()
            except KnownError:
                raise
            except Exception as error:
                failure = self._provider.failure(error)
                tried += 1
                if _is_final(failure) or tried == tries:
                    raise gave_up(failure) from error
            self._tell(Trouble(failure.words))
            await asyncio.sleep(self._wait(failure, tried))

    def _wait(self, failure: Failure, tried: int) -> float:
        """Seconds before the next try: full jitter above what the endpoint asks for."""
        longest = min(_LONGEST_WAIT, self._seconds * 2 ** min(tried - 1, 16))
        return (failure.retry_after or 0.0) + random.uniform(0, longest)


def _is_final(failure: Failure) -> bool:
    return failure.kind in ("ends_run", "permanent") and not failure.unless_answered


def _is_gone(batch: OpenBatch) -> KnownError:
    return KnownError(
        "The provider no longer has a batch",
        f"{batch.id}, with {len(batch.left):,} questions. What it answered may be billed, and cannot be fetched.",
        "Look for it in the provider's list of batches. If it is gone, ask what is missing in a new run.",
    )
