"""How fast a hosted teacher may be asked: so many at once, so many a minute, and not at all while it asks for a rest.

How many at once is found out as TCP finds its window (Jacobson 1988, https://doi.org/10.1145/52324.52356): doubled
until the server first complains, then one more with each round that went well, and fewer by a third when it is
overloaded.
All clocks are monotonic: a system clock that jumps changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

LONGEST_REST = 120.0
_FIRST_AT_ONCE, _DECREASE, _AHEAD = 32, 2 / 3, 1.25
_BURST_SECONDS, _LOOK_SECONDS = 2.0, 0.25


@dataclass
class Bucket:
    """So many units a minute, saved up for two seconds at most; 0 a minute means no limit."""

    per_minute: float
    clock: Callable[[], float]
    _level_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._level_at = self.clock()

    def wait(self) -> float:
        """Seconds until more may be taken."""
        return max(0.0, self._level_at - _BURST_SECONDS - self.clock()) if self.per_minute else 0.0

    def take(self, units: float) -> None:
        """Take units, into debt if need be: what follows waits for it. Fewer than none gives some back."""
        if self.per_minute:
            self._level_at = max(self._level_at, self.clock()) + units * 60 / self.per_minute


class Limits:
    """The gate before one endpoint. Lives on one event loop; `most` is the cap on requests in flight.

    A request passes two doors: `approach`, after which it is written into the ledger, and `enter`, after which it is
    sent. A few more than may be in flight are let through the first, so that the disk costs no time at the server.
    """

    def __init__(
        self,
        most: int,
        *,
        requests_per_minute: float = 0,
        tokens_per_minute: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._clock = most, clock
        self._window = float(min(most, _FIRST_AT_ONCE))
        self._starting = True
        self._near = self._in_flight = 0
        self._rests_until = self._cut_at = clock()
        self._closed: Exception | None = None
        self._requests = Bucket(requests_per_minute, clock)
        self._tokens = Bucket(tokens_per_minute, clock)
        self._before_first, self._before_second = _Queue(), _Queue()

    @property
    def at_once(self) -> int:
        """How many may be in flight now."""
        return max(1, int(self._window))

    @property
    def in_flight(self) -> int:
        """How many were sent and have not ended."""
        return self._in_flight

    async def approach(self, tokens: float) -> None:
        """Wait for a rest to end and for the minute's limits. `tokens`: the most that the request can take.

        Raises what the gate was closed with, as `enter` does.
        """
        while self._closed is None and (seconds := self._wait()) > 0:
            await self._before_first.wait(seconds)
        if self._closed is not None:
            raise self._closed
        self._near += 1
        self._requests.take(1)
        self._tokens.take(tokens)

    async def enter(self) -> float:
        """Wait for a place, and for a rest that began meanwhile to end; returns when it came."""
        while self._closed is None and (seconds := self._hold()) > 0:
            await self._before_second.wait(seconds)
        if self._closed is not None:
            raise self._closed
        self._in_flight += 1
        return self._clock()

    def leave(self, entered: float, *, overloaded: bool = False) -> None:
        """Give the place back. One that came before the last decrease tells nothing new of an overload."""
        self._in_flight -= 1
        self._near -= 1
        if not overloaded:
            self._window = min(self._most, self._window + (1.0 if self._starting else 1.0 / self._window))
        elif entered >= self._cut_at:
            self._window, self._starting = max(1.0, self._window * _DECREASE), False
            self._cut_at = self._clock()
        self._let_through()

    def close(self, error: Exception) -> None:
        """Let nothing more through: whoever comes to a door, or waits before one, gets `error`."""
        self._closed = self._closed or error
        for waiting in (self._before_first, self._before_second):
            waiting.wake(len(waiting))

    def withdraw(self) -> None:
        """What approached will not enter."""
        self._near -= 1
        self._let_through()

    def give_back(self, tokens: float) -> None:
        """Give back the tokens that an answer did not take."""
        self._tokens.take(-tokens)

    def rest(self, seconds: float) -> None:
        """Begin nothing for so long, at most two minutes: the server said so."""
        self._rests_until = max(self._rests_until, self._clock() + min(LONGEST_REST, seconds))

    def _let_through(self) -> None:
        """Wake as many as there is room for: if each change woke all, they would take turns at looking."""
        self._before_second.wake(self.at_once - self._in_flight)
        self._before_first.wake(self._most_near - self._near)

    @property
    def _most_near(self) -> int:
        """How many may be past the first door."""
        return int(self.at_once * _AHEAD)

    def _hold(self) -> float:
        return _LOOK_SECONDS if self._in_flight >= self.at_once else self._rests_until - self._clock()

    def _wait(self) -> float:
        if self._near >= self._most_near:
            return _LOOK_SECONDS
        rest = self._rests_until - self._clock()
        return max(rest, self._requests.wait(), self._tokens.wait(), 0.0)


class _Queue:
    """Who waits before a door, first come first woken. Each looks again after a while, should nobody wake it."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, seconds: float) -> None:
        """Wait to be woken, at most so long."""
        loop = asyncio.get_running_loop()
        place = loop.create_future()
        self._waiting.append(place)
        timer = loop.call_later(seconds, _end, place)
        try:
            await place
        finally:
            timer.cancel()
            if place in self._waiting:
                self._waiting.remove(place)

    def wake(self, count: int) -> None:
        """Wake the first so many of those who wait."""
        while count > 0 and self._waiting:
            count -= _end(self._waiting.popleft())


def _end(place: asyncio.Future[None]) -> bool:
    """Let a wait end; false if it has ended."""
    if ended := not place.done():
        place.set_result(None)
    return ended
