"""What one API's dialect must offer: send a question once, read what came, and say what a failure means.

Tries, waiting, limits, spend and the ledger belong to the loop that asks (`asking`); a dialect knows none of them, and
its SDK's own retries are off. Sending and reading are apart, so that the raw body is on the disk before it is parsed,
and a body that an earlier process journalled is read without being asked for again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from kdstudio.errors import KnownError
from kdstudio.teachers.base import Completion, Request

Show = Callable[[str], None]
FailureKind = Literal["ends_run", "transient", "permanent", "cut"]


@dataclass(frozen=True)
class Failure:
    """What an attempt's failure means.

    `kind`: "ends_run" (no further request could succeed; `error` says it to the person), "transient" (try again),
    "permanent" (this request alone cannot succeed), "cut" (the answer broke off; `partial` is what came of it).
    `retry_after`: seconds that the server asks for. `may_be_billed`: the request may have reached the server, which
    did not refuse it. `overloaded`: fewer requests at once would help. `unreachable`, `timed_out`: nobody was met, or
    nobody spoke in time. `unless_answered`: it ends the run only while nothing was answered; later it may pass, as a
    gateway's web page does.
    """

    kind: FailureKind
    words: str
    error: KnownError | None = None
    retry_after: float | None = None
    may_be_billed: bool = False
    unreachable: bool = False
    timed_out: bool = False
    overloaded: bool = False
    unless_answered: bool = False
    partial: Completion | None = None


@dataclass(frozen=True)
class Answered:
    """A raw body, read. `model` is who the body says answered ("" if it does not say).

    `cached_tokens` are those of `completion.prompt_tokens` that the provider had cached and bills at a lower price.
    """

    completion: Completion
    model: str = ""
    cached_tokens: int = 0


class Provider(Protocol):
    """One API's dialect, over its SDK's asynchronous client."""

    async def attempt(self, request: Request, name: str, show: Show | None = None) -> str:
        """Send once; return the whole raw body, unparsed (of a stream, its text as it came over the wire).

        `name` is the attempt's own, and goes into a header where the API has one for that. `show(text)` gets new text
        as it comes. Raises whatever the SDK raises, and an error of the dialect's own for an answer that broke off.
        """
        ...

    def read(self, raw: str, request: Request) -> Answered:
        """Parse a raw body: one that just came, or one that an earlier process kept. Raises when it cannot be read."""
        ...

    def failure(self, error: BaseException) -> Failure:
        """Sort what `attempt` or `read` raised. An error that is not the endpoint's is raised again."""
        ...

    def adapted(self, error: BaseException, request: Request) -> bool:
        """Leave out an optional parameter that the endpoint refuses; true if the question can be put anew."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
