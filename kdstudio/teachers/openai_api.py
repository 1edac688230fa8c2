"""Any endpoint that speaks OpenAI's chat completions: Ollama, LM Studio, vLLM, llama-server, hosted ones.

The SDK's own retries are off: one call whose answer is late would be sent three times, and billed three times. Ours
obey Retry-After, wait with full jitter, and never repeat what cannot succeed.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import openai

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Capabilities, Completion, FinishReason, Request
from kdstudio.teachers.signals import SparseSignal

TRIES = 6
MAXIMUM_WAIT = 120.0
_BASE_WAIT, _LONGEST_BACKOFF = 0.5, 30.0
_STOP_SECONDS = 0.2
_RETRIED = (408, 409, 429)
_FINISHED: dict[str, FinishReason] = {"stop": "stop", "length": "length", "content_filter": "incomplete"}


class OpenAITeacher:
    """A teacher behind an OpenAI-compatible URL. `options`: requests_at_once (4), timeout_seconds (120), tries (6)."""

    def __init__(self, spec: TeacherSpec, secrets: dict[str, str]) -> None:
        """Prepare a client; nothing is sent yet. Raises `BadInput` for a URL that is none."""
        if not spec.url.startswith(("http://", "https://")):
            raise BadInput(
                "This is not a URL",
                f"{spec.url!r} has no http:// or https://.",
                "For example http://localhost:11434/v1",
            )
        self._spec = spec
        self._key = secrets.get(spec.key_name, "")
        self._workers = max(1, int(spec.options.get("requests_at_once", 4)))
        self._tries = max(1, int(spec.options.get("tries", TRIES)))
        self._timeout = float(spec.options.get("timeout_seconds", 120))
        self.notes: list[str] = []
        self.capabilities = Capabilities(
            fingerprint=f"{spec.url}#{spec.model}", terms="See the provider's terms of use."
        )

    def client(self) -> openai.AsyncOpenAI:
        """A client of the SDK for this endpoint, without retries of its own."""
        return openai.AsyncOpenAI(
            base_url=base_url(self._spec.url), api_key=self._key or "none", max_retries=0, timeout=self._timeout
        )

    def generate(
        self, requests: Iterable[Request], *, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Completion]:
        """Ask several requests at once; yields answers as they come.

        Raises `KnownError` as soon as the endpoint refuses the key or the model: no further request could succeed.
        """
        answers: queue.Queue[Completion | BaseException | None] = queue.Queue()
        left = threading.Event()

        def work() -> None:
            try:
                asyncio.run(self._ask_all(iter(requests), answers, lambda: left.is_set() or stop()))
                answers.put(None)
            except BaseException as error:  # noqa: BLE001 -- handed to the caller's thread, which raises it
                answers.put(error)

        thread = threading.Thread(target=work, name="openai", daemon=True)
        thread.start()
        try:
            while (answer := answers.get()) is not None:
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
        finally:
            left.set()
            thread.join(timeout=self._timeout)

    async def _ask_all(
        self,
        requests: Iterator[Request],
        answers: queue.Queue[Completion | BaseException | None],
        stop: Callable[[], bool],
    ) -> None:
        async with self.client() as client:
            workers = [asyncio.create_task(self._work(client, requests, answers, stop)) for _ in range(self._workers)]
            watcher = asyncio.create_task(_until(stop))
            try:
                gathered = asyncio.ensure_future(_together(workers))
                await asyncio.wait({watcher, gathered}, return_when=asyncio.FIRST_COMPLETED)
                if gathered.done():
                    gathered.result()
            finally:
                for task in (watcher, *workers):
                    task.cancel()
                await asyncio.gather(watcher, *workers, return_exceptions=True)

    async def _work(
        self,
        client: openai.AsyncOpenAI,
        requests: Iterator[Request],
        answers: queue.Queue[Completion | BaseException | None],
        stop: Callable[[], bool],
    ) -> None:
        for request in requests:
            if await asyncio.to_thread(stop):
                return
            answers.put(await self._ask(client, request))

    async def _ask(self, client: openai.AsyncOpenAI, request: Request) -> Completion:
        """One request with its tries. Raises `KnownError` for what no other request could pass either."""
        failure = ""
        for attempt in range(self._tries):
            try:
                return _completion(request, await self._send(client, request))
            except openai.APIStatusError as error:
                failure = _said(error)
                if error.status_code in (401, 403, 404):
                    raise refusal(error, self._spec) from error
                if error.status_code < 500 and error.status_code not in _RETRIED:
                    break
                wait = _retry_after(error)
            except (openai.APIConnectionError, openai.APIResponseValidationError, ValueError, TypeError) as error:
                failure = _unreachable_words(error, self._spec)
                wait = None
            if attempt + 1 < self._tries:
                backoff = random.uniform(0, min(_LONGEST_BACKOFF, _BASE_WAIT * 2**attempt))
                await asyncio.sleep(backoff if wait is None else min(wait, MAXIMUM_WAIT))
        return Completion(request.key, "", "error", error=failure)

    async def _send(self, client: openai.AsyncOpenAI, request: Request) -> Any:
        sampling = request.sampling
        extras: dict[str, Any] = {"stop": list(sampling.stop)} if sampling.stop else {}
        return await client.chat.completions.create(
            model=self._spec.model,
            messages=list(request.messages),  # type: ignore[arg-type]
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            **extras,
        )

    def models(self) -> list[str]:
        """The models that the endpoint lists. Raises `KnownError` when it cannot be reached or refuses."""

        async def ask() -> list[str]:
            async with self.client() as client:
                return [model.id async for model in client.models.list()]

        try:
            return asyncio.run(ask())
        except openai.APIStatusError as error:
            raise refusal(error, self._spec) from error
        except (openai.APIError, ValueError, TypeError, AttributeError) as error:
            raise KnownError(
                "The endpoint did not answer", _unreachable_words(error, self._spec), _REACH_HINT
            ) from error

    def score(
        self,
        sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
        top_k: int,
        *,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, SparseSignal]]:
        """Chat endpoints do not score given text. Raises `KnownError`."""
        del sequences, top_k, stop
        raise KnownError(
            "This teacher gives no log-probs",
            "A chat endpoint answers, but does not score given text.",
            "Use the objective Imitate (supervised), or a local GGUF teacher.",
        )
        yield

    def close(self) -> None:
        """Every call closed its own connections."""


_REACH_HINT = "Check that the server runs, and its URL: for Ollama http://localhost:11434/v1"


def base_url(url: str) -> str:
    """The URL as the SDK wants it: a bare host gets /v1, a pasted full path loses what the SDK adds itself."""
    trimmed = url.rstrip("/")
    for tail in ("/chat/completions", "/completions", "/models"):
        trimmed = trimmed.removesuffix(tail)
    return trimmed if "/" in trimmed.split("://", 1)[1] else f"{trimmed}/v1"


async def _together(workers: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*workers)


async def _until(stop: Callable[[], bool]) -> None:
    """Return once `stop` is true. Polled: the request comes from a file that another process writes."""
    while not await asyncio.to_thread(stop):  # noqa: ASYNC110
        await asyncio.sleep(_STOP_SECONDS)


def _completion(request: Request, answer: Any) -> Completion:
    """Read an answer. Raises `ValueError` for one that is no chat completion (HTML behind a proxy, an empty body)."""
    choices = getattr(answer, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise ValueError("it sent something that is not a chat completion")
    choice, usage = choices[0], getattr(answer, "usage", None)
    return Completion(
        request.key,
        choice.message.content or "",
        _FINISHED.get(str(choice.finish_reason), "incomplete"),
        int(getattr(usage, "prompt_tokens", 0) or 0),
        int(getattr(usage, "completion_tokens", 0) or 0),
    )


def refusal(error: openai.APIStatusError, spec: TeacherSpec) -> KnownError:
    """What a refusing status means in words."""
    if error.status_code in (401, 403):
        named = f"the key {spec.key_name!r}" if spec.key_name else "a request without a key"
        return KnownError(
            "The endpoint refused the key",
            f"{spec.url} answered {error.status_code} to {named}.",
            "Enter the key again on the Teachers page, or name the environment variable that holds it.",
        )
    if error.status_code == 404:
        return KnownError(
            "The endpoint does not know this",
            f"{spec.url} answered 404 for the model {spec.model!r}: {_said(error)}",
            "Check the model's name, and that the URL ends as the server's documentation says (often /v1).",
        )
    return KnownError("The endpoint refused", _said(error), "See the server's log.")


def _said(error: openai.APIStatusError) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    text = message or error.message
    return f"status {error.status_code}: {' '.join(str(text).split())[:300]}"


def _retry_after(error: openai.APIStatusError) -> float | None:
    value = error.response.headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    return None


def _unreachable_words(error: Exception, spec: TeacherSpec) -> str:
    if isinstance(error, openai.APITimeoutError):
        return f"{spec.url} did not answer in time"
    if isinstance(error, openai.APIConnectionError):
        return f"{spec.url} cannot be reached or broke off ({error.__cause__ or error})"
    return f"{spec.url} answered with something else than a chat completion ({type(error).__name__}: {error})"[:400]
