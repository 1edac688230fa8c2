"""What one API's dialect must offer: send a question once, and say what a failure means. Everything else is shared.

Tries, waiting, limits, spend and the ledger belong to the loop that asks; a dialect knows none of them, and its SDK's
own retries are off.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from kdstudio.errors import KnownError
from kdstudio.teachers.base import Completion, Request

Show = Callable[[str], None]
Keep = Callable[[str], Awaitable[None]]
FailureKind = Literal["ends_run", "transient", "permanent", "cut"]


@dataclass(frozen=True)
class Failure:
    """What an attempt's failure means.

    `kind`: "ends_run" (no further request could succeed; `error` says it to the person), "transient" (try again),
    "permanent" (this request alone cannot succeed), "cut" (the answer broke off; `partial` is what came of it).
    `retry_after`: seconds that the server asks for. `may_be_billed`: the request may have reached the server.
    """

    kind: FailureKind
    words: str
    error: KnownError | None = None
    retry_after: float | None = None
    may_be_billed: bool = False
    unreachable: bool = False
    timed_out: bool = False
    partial: Completion | None = None


class Provider(Protocol):
    """One API's dialect, over its SDK's asynchronous client."""

    async def attempt(self, request: Request, keep: Keep, show: Show | None = None) -> Completion:
        """Send once and read the answer. `keep(raw)` is awaited with the raw body before it is parsed.

        `show(text)` gets new text as it comes. Raises whatever the SDK or the parsing raises.
        """
        ...

    def failure(self, error: BaseException) -> Failure:
        """Sort what `attempt` raised. An error that is not the endpoint's is raised again."""
        ...

    def adapted(self, error: BaseException, request: Request) -> bool:
        """Leave out an optional parameter that the endpoint refuses; true if the question can be put anew."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
