"""What teachers behind an API share, whatever its dialect: a loop, a ledger, limits, a purse, a list of models."""

from __future__ import annotations

import asyncio
import functools
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from kdstudio.errors import KnownError
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Capabilities, Completion, Request
from kdstudio.teachers.batch_wire import BatchDialect
from kdstudio.teachers.batching import BatchConversation
from kdstudio.teachers.conversing import Conversation, OnText, gave_up, manners_of, terms_of
from kdstudio.teachers.ledger import JournalLedger, Ledger, NoLedger
from kdstudio.teachers.signals import SparseSignal
from kdstudio.teachers.wire import Failure, Provider

_CONNECT_SECONDS, _LIST_SECONDS, _CONNECTIONS = 10.0, 15.0, 8


class HostedTeacher(ABC):
    """A teacher behind an API. `notes` grows when the API turns out not to take a parameter."""

    unscored: ClassVar[str]
    """Why given text cannot be scored."""
    errors: ClassVar[tuple[type[Exception], ...]]
    """What the SDK raises."""

    def __init__(self, spec: TeacherSpec, url: str, secrets: dict[str, str], ledger: Ledger | None) -> None:
        """Prepare; nothing is sent yet. Raises `BadInput` for options of the wrong kind."""
        self._spec, self._url = spec, url
        self._key = secrets.get(spec.key_name, "")
        self._manners = manners_of(spec)
        self._ledger = ledger or NoLedger()
        self._terms = terms_of(spec, self._key, self._manners, self._ledger)
        self.notes: list[str] = []
        self.capabilities = self._capabilities()

    def _capabilities(self, **further: Any) -> Capabilities:
        return Capabilities(
            json_schema=True,
            images=bool(self._spec.options.get("images", True)),
            context_tokens=int(self._spec.options.get("context_tokens") or 0),
            fingerprint=f"{self._url}#{self._spec.model}",
            terms="See the provider's terms of use.",
            **further,
        )

    @abstractmethod
    def _provider(self, most: int) -> Provider:
        """The dialect, over at most so many clients."""

    @abstractmethod
    def _batches(self, provider: Any) -> BatchDialect:
        """The dialect's batches, of what this provider of its would send."""

    @abstractmethod
    def _listed(self, seconds: float) -> Awaitable[list[str]]:
        """Ask for the models."""

    @abstractmethod
    def _refusal(self, error: BaseException) -> KnownError | None:
        """What ends the whole run, in words."""

    @abstractmethod
    def _failure(self, error: BaseException) -> Failure:
        """What an error means."""

    @property
    def _patience(self) -> tuple[float, float]:
        """Seconds: the longest silence, and the longest wait for a connection."""
        seconds = self._manners.timeout_seconds
        return seconds, min(_CONNECT_SECONDS, seconds)

    def generate(
        self, requests: Iterable[Request], *, stop: Callable[[], bool] = lambda: False, on_text: OnText | None = None
    ) -> Iterator[Completion]:
        """As `base.Teacher.generate`; `requests` is read in the caller's thread. `on_text(key, piece)` gets new text.

        Raises `KnownError` as soon as no further request could succeed: a refused key, an unknown model, a server that
        cannot be reached or keeps failing. With the option `batch`, a run's questions are asked in batches.
        """
        provider = self._provider(-(-self._manners.requests_at_once // _CONNECTIONS))
        if self._manners.batch and isinstance(self._ledger, JournalLedger):
            dialect = self._batches(provider)
            batches = BatchConversation(dialect, provider, self._terms, self._manners, self._ledger, self.notes)
            yield from batches.answers(requests, stop=stop)
            return
        conversation = Conversation(provider, self._terms, self._manners, self._ledger, self.notes)
        yield from conversation.answers(requests, stop=stop, on_text=on_text)

    def models(self) -> list[str]:
        """The models that the endpoint lists. Raises `KnownError` when it cannot be reached or refuses."""

        async def ask() -> list[str]:
            return await self._listed(min(self._manners.timeout_seconds, _LIST_SECONDS))

        expected: tuple[type[Exception], ...] = (OSError, ValueError, TypeError, AttributeError, *self.errors)
        try:
            return asyncio.run(ask())
        except expected as error:
            if (refusal := self._refusal(error)) is not None:
                raise refusal from error
            raise gave_up(self._failure(error)) from error

    def score(
        self,
        sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
        top_k: int,
        *,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, SparseSignal]]:
        """An API for chats does not score given text. Raises `KnownError`."""
        del sequences, top_k, stop
        hint = "Use the objective Imitate (supervised), or a local GGUF teacher."
        raise KnownError("This teacher gives no log-probs", self.unscored, hint)

    def close(self) -> None:  # noqa: B027 - nothing to do, for all of them
        """Every call closed its own connections."""


@functools.cache
def system_trust() -> ssl.SSLContext:
    """The certificates that this system trusts; reading them takes longer than a local request."""
    return ssl.create_default_context()
