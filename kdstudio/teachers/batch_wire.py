"""What an API's batches must offer: many questions sent at once, answered within a day, at a lower price.

As with single questions (`wire`), a dialect knows neither tries nor waiting nor the ledger, and sending and reading are
apart: a line of the results is on the disk before it is parsed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from kdstudio.teachers.base import Request
from kdstudio.teachers.openai_body import UnreadableError

_NAME_BYTES = 16
Pause = Callable[[], Awaitable[None]]


class UnansweredError(Exception):
    """A batch ended before the turn of this question came: it was not asked, and costs nothing."""


@dataclass
class OpenBatch:
    """A batch on its way: `numbers` are its questions' attempts, `done` those of them that are settled or journalled.

    `mark` names its content, `id` is what the provider calls it ("" until that is known), `after` the newest batch that
    the provider had before it, `since` when it was planned (UTC). `resumed`: an earlier process planned it.
    """

    teacher: str
    mark: str = ""
    after: str = ""
    id: str = ""
    since: str = ""
    resumed: bool = True
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    done: set[tuple[str, str]] = field(default_factory=set)

    @property
    def left(self) -> list[tuple[str, str]]:
        """The questions of which nothing is known yet."""
        return [question for question in self.numbers if question not in self.done]

    def names(self, run: str) -> dict[str, tuple[str, str]]:
        """Its questions by the names that their lines carry."""
        return {name_of(run, question, number): question for question, number in self.numbers.items()}


@dataclass(frozen=True)
class BatchState:
    """What the provider says of a batch. `outcome` of one that has ended: completed, expired, cancelled or failed.

    `answered` of `total` are done, as far as the provider says it; `files` are what there is to fetch. For one that
    failed as a whole, `words` say why, and `crowded` that the provider holds too much of ours to take it now.
    """

    id: str
    ended: bool = False
    outcome: str = ""
    answered: int = 0
    total: int = 0
    files: tuple[str, ...] = ()
    words: str = ""
    crowded: bool = False


class BatchDialect(Protocol):
    """One API's batches, over its SDK's asynchronous client. `most_requests` and `most_bytes` go into one batch."""

    most_requests: int
    most_bytes: int

    def line(self, request: Request, name: str) -> bytes:
        """A question as a line of JSON, with its newline. Raises `BadInput` for a prompt that has no form here."""
        ...

    async def newest(self) -> str:
        """The id of the newest batch that the account has, "" for none. Raises `KnownError` without a batch API."""
        ...

    async def create(self, lines: Sequence[bytes], mark: str, run: str) -> str:
        """Send a batch; returns its id."""
        ...

    async def find(self, batch: OpenBatch, names: Collection[str], pause: Pause) -> str:
        """The id of a batch that may have been sent, among those that came after `batch.after`; "" if there is none.

        Where the API keeps no marks, those that could be it are waited for with `pause`, until their results tell.
        """
        ...

    async def state(self, identity: str) -> BatchState:
        """Ask how a batch stands."""
        ...

    async def fetch(self, state: BatchState, target: IO[bytes]) -> None:
        """Write the lines of an ended batch's results to a file, answers and errors alike."""
        ...

    def answer(self, line: dict[str, Any]) -> str:
        """The raw body within a line of the results, as `Provider.read` takes it.

        Raises what a single request would have met, `UnansweredError`, and `UnreadableError` for a line that is none.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def name_of(run: str, question: tuple[str, str], number: int) -> str:
    """What one attempt is called within a batch: 32 letters and digits, as both APIs take them."""
    text = "\0".join((run, *question, str(number)))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_NAME_BYTES).hexdigest()


def mark_of(lines: Sequence[bytes]) -> str:
    """What a batch's content is known by."""
    digest = hashlib.blake2b(digest_size=_NAME_BYTES)
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


def as_line(record: dict[str, Any]) -> bytes:
    """A record as one line of JSON."""
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate: only the escaped form carries it
        return json.dumps(record).encode() + b"\n"


def line_of(raw: bytes | str) -> dict[str, Any]:
    """A line of the results, an empty one for what is no JSON object."""
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def name_in(line: dict[str, Any]) -> str:
    """The name that a line carries, "" for none."""
    name = line.get("custom_id")
    return name if isinstance(name, str) else ""


@contextmanager
def in_shape() -> Iterator[None]:
    """What the SDK stumbles over when a server answers something else entirely is raised as `UnreadableError`."""
    try:
        yield
    except (AttributeError, TypeError, KeyError) as error:
        raise UnreadableError(f"it was no list of batches: {error}") from error
