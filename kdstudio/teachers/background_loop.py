"""What lets a generator in one thread talk to a network in another: an event loop, and a watch on the wish to stop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

ResultT = TypeVar("ResultT")
_POLL_SECONDS, _FRESH_SECONDS, _CLOSE_SECONDS = 0.1, 1.0, 5.0


class BackgroundLoop:
    """An asyncio loop that runs in a thread of its own while the `with` block lasts; leaving it cancels its tasks."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()
        return self

    def submit(self, coroutine: Coroutine[Any, Any, ResultT]) -> concurrent.futures.Future[ResultT]:
        """Begin a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def soon(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function on the loop."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def finish(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Cancel whatever runs, then run a last coroutine (closing a client), and wait a few seconds for both."""
        for last in (_cancel_others(), coroutine):
            concurrent.futures.wait([self.submit(last)], timeout=_CLOSE_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=_CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class StopWatch:
    """Asks `stop` in a thread of its own while the `with` block lasts.

    The call blocks while a job is paused, and answers under way, which may be paid for, must not wait for that.
    """

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop
        self._left = threading.Event()
        self._stopped = threading.Event()
        self._asked = 0.0
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="stop-watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()

    def _watch(self) -> None:
        try:
            while not self._left.is_set():
                if self._stop():
                    break
                self._asked = time.monotonic()
                self._left.wait(_POLL_SECONDS)
        except BaseException as error:  # noqa: BLE001 -- raised again in the caller's thread
            self._error = error
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether a stop was asked for. Raises what `stop` itself raised."""
        if self._error is not None:
            raise self._error
        return self._stopped.is_set()

    @property
    def may_begin(self) -> bool:
        """Whether something new may be begun: neither stopped nor, for a second already, waiting for a pause to end."""
        return not self.stopped and time.monotonic() - self._asked < _FRESH_SECONDS
