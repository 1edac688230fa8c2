"""Anthropic's models, and whatever else speaks the Messages API."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import anthropic

from kdstudio.errors import KnownError
from kdstudio.models.endpoint import anthropic_url, is_local
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import anthropic_failures as failures
from kdstudio.teachers.anthropic_provider import AnthropicProvider
from kdstudio.teachers.base import Capabilities, Completion, Request
from kdstudio.teachers.conversing import Conversation, OnText, gave_up, manners_of, terms_of
from kdstudio.teachers.ledger import Ledger, NoLedger
from kdstudio.teachers.signals import SparseSignal

_CONNECT_SECONDS, _LIST_SECONDS, _CONNECTIONS = 10.0, 15.0, 8
_MOST_LISTED = 1000


def _never() -> bool:
    return False


class AnthropicTeacher:
    """A teacher behind the Messages API.

    `options`: as `OpenAITeacher`'s; `extra_body` may turn thinking on ({"thinking": {"type": "adaptive"}}), whose
    tokens count within max_tokens. There are no seeds: the same run, asked again, gives other answers.
    """

    def __init__(self, spec: TeacherSpec, secrets: dict[str, str], ledger: Ledger | None = None) -> None:
        """Prepare; nothing is sent yet. Raises `BadInput` for a URL that is none, and for options of the wrong kind."""
        self._url = anthropic_url(spec.url)
        self._spec = replace(spec, url=self._url)
        self._key = secrets.get(spec.key_name, "")
        self._manners = manners_of(self._spec)
        self._ledger = ledger or NoLedger()
        self._terms = terms_of(self._spec, self._key, self._manners, self._ledger)
        self.notes: list[str] = []
        self.capabilities = Capabilities(
            json_schema=True,
            images=bool(spec.options.get("images", True)),
            context_tokens=int(spec.options.get("context_tokens") or 0),
            fingerprint=f"{self._url}#{spec.model}",
            terms="See the provider's terms of use.",
        )

    def _client(self) -> anthropic.AsyncAnthropic:
        """A client without retries of its own, and without any key but the one it is given.

        A server on this machine is never asked through a proxy.
        """
        seconds = self._manners.timeout_seconds
        local = is_local(self._url)
        direct = anthropic.DefaultAsyncHttpxClient(trust_env=False, verify=_system_trust()) if local else None
        return anthropic.AsyncAnthropic(
            base_url=self._url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=anthropic.Timeout(seconds, connect=min(_CONNECT_SECONDS, seconds)),
            http_client=direct,
        )

    def generate(
        self, requests: Iterable[Request], *, stop: Callable[[], bool] = _never, on_text: OnText | None = None
    ) -> Iterator[Completion]:
        """As `OpenAITeacher.generate`, with the same loop, ledger, limits and purse."""
        clients = -(-self._manners.requests_at_once // _CONNECTIONS)
        pictures = self._ledger.project_folder
        provider = AnthropicProvider(self._client, clients, self._spec, self._key, self.notes, pictures)
        conversation = Conversation(provider, self._terms, self._manners, self._ledger, self.notes)
        yield from conversation.answers(requests, stop=stop, on_text=on_text)

    def models(self) -> list[str]:
        """The models that the endpoint lists. Raises `KnownError` when it cannot be reached or refuses."""

        async def ask() -> list[str]:
            async with self._client() as client:
                patience = min(self._manners.timeout_seconds, _LIST_SECONDS)
                listed = await client.models.list(limit=_MOST_LISTED, timeout=patience)
                return [str(model.id) for model in listed.data]

        try:
            return asyncio.run(ask())
        except (anthropic.APIError, OSError, ValueError, TypeError, AttributeError) as error:
            if (refusal := failures.refusal(error, self._spec, self._key)) is not None:
                raise refusal from error
            raise gave_up(failures.failure_of(error, self._spec, self._key)) from error

    def score(
        self,
        sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
        top_k: int,
        *,
        stop: Callable[[], bool] = _never,
    ) -> Iterator[tuple[int, SparseSignal]]:
        """The Messages API gives no log-probs. Raises `KnownError`."""
        del sequences, top_k, stop
        raise KnownError(
            "This teacher gives no log-probs",
            "Anthropic's API answers in text alone.",
            "Use the objective Imitate (supervised), or a local GGUF teacher.",
        )

    def close(self) -> None:
        """Every call closed its own connections."""


@functools.cache
def _system_trust() -> ssl.SSLContext:
    """The certificates that this system trusts; reading them takes longer than a local request."""
    return ssl.create_default_context()
