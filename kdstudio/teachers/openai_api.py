"""Any endpoint that speaks OpenAI's chat completions: Ollama, LM Studio, vLLM, llama-server, hosted ones."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence

import openai

from kdstudio.errors import KnownError
from kdstudio.models.endpoint import base_url, is_local
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import openai_failures as failures
from kdstudio.teachers.base import Capabilities, Completion, Request
from kdstudio.teachers.conversing import Conversation, OnText, gave_up, manners_of, terms_of
from kdstudio.teachers.ledger import Ledger, NoLedger
from kdstudio.teachers.openai_provider import OpenAIProvider
from kdstudio.teachers.signals import SparseSignal

_CONNECT_SECONDS, _LIST_SECONDS, _CONNECTIONS = 10.0, 15.0, 8


def _never() -> bool:
    return False


class OpenAITeacher:
    """A teacher behind an OpenAI-compatible URL.

    `options`: those of `conversing.Manners`, price (US dollars for a million tokens: input, output, cached),
    context_tokens, images (false for a model that does not see), extra_body (further fields of each request, such as
    vLLM's chat_template_kwargs). `notes` grows when the endpoint turns out not to take a parameter.
    """

    def __init__(self, spec: TeacherSpec, secrets: dict[str, str], ledger: Ledger | None = None) -> None:
        """Prepare; nothing is sent yet. Raises `BadInput` for a URL that is none, and for options of the wrong kind."""
        self._spec, self._url = spec, base_url(spec.url)
        self._key = secrets.get(spec.key_name, "")
        self._manners = manners_of(spec)
        self._ledger = ledger or NoLedger()
        self._terms = terms_of(spec, self._key, self._manners, self._ledger)
        self.notes: list[str] = []
        self.capabilities = Capabilities(
            answer_log_probs=True,
            json_schema=True,
            images=bool(spec.options.get("images", True)),
            context_tokens=int(spec.options.get("context_tokens") or 0),
            fingerprint=f"{self._url}#{spec.model}",
            terms="See the provider's terms of use.",
        )

    def _client(self) -> openai.AsyncOpenAI:
        """A client without retries of its own. A server on this machine is never asked through a proxy."""
        seconds = self._manners.timeout_seconds
        timeout = openai.Timeout(seconds, connect=min(_CONNECT_SECONDS, seconds))
        local = is_local(self._url)
        direct = openai.DefaultAsyncHttpxClient(trust_env=False, verify=_system_trust()) if local else None
        return openai.AsyncOpenAI(
            base_url=self._url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=timeout,
            http_client=direct,
        )

    def generate(
        self, requests: Iterable[Request], *, stop: Callable[[], bool] = _never, on_text: OnText | None = None
    ) -> Iterator[Completion]:
        """As `base.Teacher.generate`; `requests` is read in the caller's thread. `on_text(key, piece)` gets new text.

        Raises `KnownError` as soon as no further request could succeed: a refused key, an unknown model, a server that
        cannot be reached or keeps failing.
        """
        clients = -(-self._manners.requests_at_once // _CONNECTIONS)
        pictures = self._ledger.project_folder
        provider = OpenAIProvider(self._client, clients, self._spec, self._key, self.notes, pictures)
        conversation = Conversation(provider, self._terms, self._manners, self._ledger, self.notes)
        yield from conversation.answers(requests, stop=stop, on_text=on_text)

    def models(self) -> list[str]:
        """The models that the endpoint lists. Raises `KnownError` when it cannot be reached or refuses."""

        async def ask() -> list[str]:
            async with self._client() as client:
                listed = await client.models.list(timeout=min(self._manners.timeout_seconds, _LIST_SECONDS))
                return [str(model.id) for model in listed.data]

        try:
            return asyncio.run(ask())
        except (openai.APIError, OSError, ValueError, TypeError, AttributeError) as error:
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
        """Chat endpoints do not score given text. Raises `KnownError`."""
        del sequences, top_k, stop
        raise KnownError(
            "This teacher gives no log-probs",
            "A chat endpoint answers, but does not score given text.",
            "Use the objective Imitate (supervised), or a local GGUF teacher.",
        )

    def close(self) -> None:
        """Every call closed its own connections."""


@functools.cache
def _system_trust() -> ssl.SSLContext:
    """The certificates that this system trusts; reading them takes longer than a local request."""
    return ssl.create_default_context()
