"""Group commit: whoever waits for the disk at the same time shares one fsync, so that hundreds a second can wait."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence

from kdstudio.jobs.events import Event

_IDLE_SECONDS = 1.0


class GroupCommit:
    """Writes batches in a thread of its own, which ends after a second without work; safe from any thread.

    While one batch is on its way to the disk the next gathers: the slower the disk, the larger the batches.
    """

    def __init__(self, write: Callable[[list[Event]], None]) -> None:
        """`write` puts events on the disk, all of them before it returns."""
        self._write = write
        self._waiting: list[tuple[Sequence[Event], asyncio.Future[None] | None]] = []
        self._changed = threading.Condition()
        self._running = False

    async def written(self, events: Sequence[Event]) -> None:
        """Write events that belong together and wait until they are on the disk. Raises what went wrong with that."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue(events, future)
        await future

    def write(self, events: Sequence[Event]) -> None:
        """Write events without waiting for it."""
        self._queue(events, None)

    def _queue(self, events: Sequence[Event], future: asyncio.Future[None] | None) -> None:
        with self._changed:
            self._waiting.append((events, future))
            if not self._running:
                self._running = True
                threading.Thread(target=self._serve, name="ledger", daemon=True).start()
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._waiting and not self._changed.wait_for(lambda: bool(self._waiting), _IDLE_SECONDS):
                    self._running = False
                    return
                batch, self._waiting = self._waiting, []
            self._commit(batch)

    def _commit(self, batch: Sequence[tuple[Sequence[Event], asyncio.Future[None] | None]]) -> None:
        error: BaseException | None = None
        try:
            self._write([event for events, _ in batch for event in events])
        except BaseException as caught:  # noqa: BLE001 -- raised where it is waited for
            error = caught
        ended: defaultdict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = defaultdict(list)
        for _, future in batch:
            if future is not None:
                ended[future.get_loop()].append(future)
        for loop, futures in ended.items():
            with contextlib.suppress(RuntimeError):  # a loop that was closed: nobody waits any more
                loop.call_soon_threadsafe(_end, futures, error)  # once for all: each call wakes the loop


def _end(futures: Sequence[asyncio.Future[None]], error: BaseException | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
