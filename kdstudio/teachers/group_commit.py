"""Group commit: whoever waits for the disk at the same time shares one fsync, so that hundreds a second can wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from kdstudio.jobs.events import Event

_IDLE_SECONDS = 1.0


class GroupCommit:
    """Writes batches in a thread of its own, which ends after a second without work; safe from any thread.

    While one batch is on its way to the disk the next gathers: the slower the disk, the larger the batches.
    """

    def __init__(self, write: Callable[[list[Event]], None]) -> None:
        """`write` puts events on the disk, all of them before it returns."""
        self._write = write
        self._waiting: list[tuple[Sequence[Event], Future[None]]] = []
        self._changed = threading.Condition()
        self._running = False

    def write(self, events: Sequence[Event]) -> Future[None]:
        """Queue events that belong together; the future ends when they are on the disk, or with what went wrong."""
        future: Future[None] = Future()
        with self._changed:
            self._waiting.append((events, future))
            if not self._running:
                self._running = True
                threading.Thread(target=self._serve, name="ledger", daemon=True).start()
            self._changed.notify()
        return future

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._waiting and not self._changed.wait_for(lambda: bool(self._waiting), _IDLE_SECONDS):
                    self._running = False
                    return
                batch, self._waiting = self._waiting, []
            self._commit(batch)

    def _commit(self, batch: list[tuple[Sequence[Event], Future[None]]]) -> None:
        error: BaseException | None = None
        try:
            self._write([event for events, _ in batch for event in events])
        except BaseException as caught:  # noqa: BLE001 -- raised where it is waited for
            error = caught
        for _, future in batch:
            if not future.set_running_or_notify_cancel():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
