"""Money: what a run has spent, what is reserved for what is under way, and the ceiling that neither may pass."""

from __future__ import annotations

import asyncio
import threading

from kdstudio.teachers.base import Request
from kdstudio.teachers.prices import Price

_LOOK_SECONDS = 0.02
_TOKENS_A_MESSAGE, _TOKENS_AN_IMAGE = 16, 2048


class Spend:
    """The purse of one run, shared by all its teachers; safe from any thread. US dollars; a `ceiling` of 0 is none.

    The most that a request can cost is reserved before it is sent. What may have been billed without an answer stays
    counted at its reservation, so that the ceiling also holds if all of it was.
    """

    def __init__(self, ceiling: float = 0.0, spent: float = 0.0) -> None:
        self.ceiling, self._spent, self._reserved = ceiling, spent, 0.0
        self._held = 0
        self._lock = threading.Lock()

    @property
    def spent(self) -> float:
        """US dollars so far, with what may have been billed without an answer."""
        return self._spent

    async def reserve(self, amount: float) -> bool:
        """Hold an amount, waiting for what is under way to cost less than it may; False: the ceiling is reached."""
        while True:
            held = self._held
            if self.reserve_now(amount):
                return True
            if not held:
                return False
            await asyncio.sleep(_LOOK_SECONDS)

    @property
    def holds(self) -> bool:
        """Whether anything is under way, which may cost less than it may."""
        return self._held > 0

    def reserve_now(self, amount: float) -> bool:
        """Hold an amount if it fits below the ceiling as things stand."""
        with self._lock:
            fits = not self.ceiling or self._spent + self._reserved + amount <= self.ceiling
            if fits:
                self._reserved += amount
                self._held += 1
            return fits

    def settle(self, reserved: float, cost: float) -> float:
        """Let a reservation go and count what it cost instead; returns what is spent in all."""
        with self._lock:
            self._held -= 1
            self._reserved -= reserved
            self._spent += cost
            return self._spent

    def correct(self, amount: float) -> None:
        """Change what is spent, when an answer of an earlier process turns out to cost less than its reservation."""
        with self._lock:
            self._spent += amount


def most_tokens(request: Request) -> tuple[int, int]:
    """The most that a request can take: tokens of its prompt and of its answer.

    A byte-level tokenizer makes no more tokens than there are bytes; a template adds a few around each message.
    """
    return sum(_bytes(message.get("content")) + _TOKENS_A_MESSAGE for message in request.messages), (
        request.sampling.max_tokens
    )


def _bytes(content: object) -> int:
    if isinstance(content, str):
        return len(content.encode("utf-8", "replace"))
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") if isinstance(part, dict) else None for part in parts)
    return sum(_bytes(text) if isinstance(text, str) else _TOKENS_AN_IMAGE for text in texts)


def most_cost(request: Request, price: Price | None) -> float:
    """The most that a request can cost, in US dollars; 0 where the price is not known."""
    return price.cost(*most_tokens(request)) if price else 0.0
