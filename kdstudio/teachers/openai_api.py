"""Any endpoint that speaks OpenAI's chat completions: Ollama, LM Studio, vLLM, llama-server, hosted ones."""

from __future__ import annotations

import asyncio
import functools
import queue
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import openai

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.endpoint import base_url, is_local
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import openai_failures as failures
from kdstudio.teachers.background_loop import BackgroundLoop, StopWatch
from kdstudio.teachers.base import Capabilities, Completion, Request
from kdstudio.teachers.openai_exchange import Exchange
from kdstudio.teachers.openai_failures import Failed
from kdstudio.teachers.signals import SparseSignal

TRIES, REQUESTS_AT_ONCE, TIMEOUT_SECONDS = 6, 4, 300.0
_CONNECT_SECONDS, _LIST_SECONDS, _LOOK_SECONDS = 10.0, 15.0, 0.1
OnText = Callable[[str, str], None]


@dataclass(frozen=True)
class _Piece:
    """New text of the answer to request `key`."""

    key: str
    text: str


_Item = Completion | Failed | _Piece | BaseException


def _never() -> bool:
    return False


class OpenAITeacher:
    """A teacher behind an OpenAI-compatible URL.

    `options`: requests_at_once (4), tries (6), timeout_seconds (300: the longest silence before and within an answer),
    context_tokens, extra_body (further fields of each request, such as vLLM's chat_template_kwargs).
    `notes` grows when the endpoint turns out not to take a parameter.
    """

    def __init__(self, spec: TeacherSpec, secrets: dict[str, str]) -> None:
        """Prepare; nothing is sent yet. Raises `BadInput` for a URL that is none or options that are no numbers."""
        self._spec, self._url = spec, base_url(spec.url)
        self._key = secrets.get(spec.key_name, "")
        self._at_once = int(_option(spec, "requests_at_once", REQUESTS_AT_ONCE))
        self._tries = int(_option(spec, "tries", TRIES))
        self._timeout = _option(spec, "timeout_seconds", TIMEOUT_SECONDS)
        self.notes: list[str] = []
        self.capabilities = Capabilities(
            context_tokens=int(spec.options.get("context_tokens") or 0),
            fingerprint=f"{self._url}#{spec.model}",
            terms="See the provider's terms of use.",
        )

    def _client(self) -> openai.AsyncOpenAI:
        """A client without retries of its own. A server on this machine is never asked through a proxy."""
        timeout = openai.Timeout(self._timeout, connect=min(_CONNECT_SECONDS, self._timeout))
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
        source, items = iter(requests), queue.SimpleQueue[_Item]()
        opened, more, patience = 0, True, _Patience(self._at_once)
        with StopWatch(stop) as watch, BackgroundLoop() as loop:
            client = self._client()
            exchange = Exchange(client, self._spec, self._key, self._tries, self.notes)
            try:
                while (opened or more) and not watch.stopped:
                    while more and opened < self._at_once and watch.may_begin:
                        request = next(source, None)
                        more = request is not None
                        if request is not None:
                            loop.submit(_serve(exchange, request, items, streams=on_text is not None))
                            opened += 1
                    try:
                        item = items.get(timeout=_LOOK_SECONDS)
                    except queue.Empty:
                        continue
                    if isinstance(item, _Piece):
                        if on_text is not None:
                            on_text(item.key, item.text)
                        continue
                    opened -= 1
                    yield patience.completion(item)
            finally:
                loop.finish(client.close())

    def models(self) -> list[str]:
        """The models that the endpoint lists. Raises `KnownError` when it cannot be reached or refuses."""

        async def ask() -> list[str]:
            async with self._client() as client:
                listed = await client.models.list(timeout=min(self._timeout, _LIST_SECONDS))
                return [str(model.id) for model in listed.data]

        try:
            return asyncio.run(ask())
        except (openai.APIError, OSError, ValueError, TypeError, AttributeError) as error:
            if (refusal := failures.refusal(error, self._spec, self._key)) is not None:
                raise refusal from error
            words = failures.words_of(error, self._spec, self._key)
            transport = failures.is_transport(error)
            failed = Failed("", words, unreachable=transport, timed_out=transport and "in time" in words)
            raise failures.gave_up(failed) from error

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


class _Patience:
    """Tells a request that failed from an endpoint that is gone: asking on would fail row after row, for hours."""

    def __init__(self, at_once: int) -> None:
        self._limit = max(4, 2 * at_once)
        self._answered = False
        self._failures = 0

    def completion(self, item: Completion | Failed | BaseException) -> Completion:
        """What the caller gets. Raises `KnownError` when there is no point in going on."""
        if isinstance(item, BaseException):
            raise item
        if isinstance(item, Completion):
            self._answered, self._failures = True, 0
            return item
        self._failures += item.transient
        if (item.unreachable and not self._answered) or self._failures >= self._limit:
            raise failures.gave_up(item)
        return Completion(item.key, "", "error", error=item.words)


async def _serve(exchange: Exchange, request: Request, items: queue.SimpleQueue[_Item], *, streams: bool) -> None:
    def show(text: str) -> None:
        items.put(_Piece(request.key, text))

    try:
        items.put(await exchange.ask(request, show if streams else None))
    except Exception as error:  # noqa: BLE001 -- raised in the caller's thread
        items.put(error)


@functools.cache
def _system_trust() -> ssl.SSLContext:
    """The certificates that this system trusts; reading them takes longer than a local request."""
    return ssl.create_default_context()


def _option(spec: TeacherSpec, name: str, default: float) -> float:
    value: Any = spec.options.get(name, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < 1e6:
        raise BadInput(
            "A teacher's option cannot be used", f"{name} of {spec.name!r} is {value!r}.", f"For example {default:g}."
        )
    return number
