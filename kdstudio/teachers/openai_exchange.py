"""One question to a chat endpoint, with its tries.

The SDK's own retries are off: one call whose answer is late would be sent three times, and billed three times. Ours
obey Retry-After, wait with full jitter, and never repeat what cannot succeed. Answers are streamed, so that a slow
server has to say something in time rather than everything, and an answer that broke off is known as such.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai

from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import openai_failures as failures
from kdstudio.teachers.base import Completion, FinishReason, Request, Sampling
from kdstudio.teachers.openai_failures import CutError, Failed, UnreadableError, WebPageError

MAXIMUM_CHARACTERS = 400_000
_BASE_WAIT, _LONGEST_BACKOFF = 0.5, 30.0
_FINISHED: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
_ESSENTIAL = {"model", "messages", "stream", "max_completion_tokens"}

Show = Callable[[str], None]


@dataclass
class _Heard:
    """What came of an answer so far. `pieces` counts the tokens where the server does not."""

    parts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    finish_reason: str = ""
    usage: Any = None
    pieces: int = 0
    characters: int = 0

    def take(self, choice: Any, *, delta: Any) -> str:
        """Note a choice's message or delta; returns the new text."""
        text = getattr(delta, "content", None)
        thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
        self.finish_reason = str(getattr(choice, "finish_reason", None) or self.finish_reason)
        text, thought = (value if isinstance(value, str) else "" for value in (text, thought))
        self.parts.append(text)
        self.reasoning.append(thought)
        self.pieces += bool(text or thought)
        self.characters += len(text) + len(thought)
        return text

    def completion(self, key: str) -> Completion:
        """The answer. Raises `UnreadableError` when nothing at all came."""
        if not self.finish_reason and not self.characters:
            raise UnreadableError("it was empty")
        return Completion(
            key,
            "".join(self.parts),
            _FINISHED.get(self.finish_reason, "incomplete"),
            prompt_tokens=_count(self.usage, "prompt_tokens"),
            tokens=_count(self.usage, "completion_tokens") or self.pieces,
            reasoning="".join(self.reasoning),
        )

    def cut(self) -> CutError:
        """The same as a failure, for an answer that broke off."""
        return CutError("".join(self.parts), "".join(self.reasoning), self.pieces)


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else getattr(usage, name, None)
    return value if isinstance(value, int) else 0


class Exchange:
    """Asks one endpoint; remembers which optional parameters it does not take (`notes` say so)."""

    def __init__(self, client: openai.AsyncOpenAI, spec: TeacherSpec, key: str, tries: int, notes: list[str]) -> None:
        self._client, self._spec, self._key, self._tries, self._notes = client, spec, key, tries, notes
        self._left_out: set[str] = set()

    async def ask(self, request: Request, show: Show | None = None) -> Completion | Failed:
        """Ask until there is an answer or the tries are used up. Raises `KnownError` for what ends the whole run.

        An answer that broke off each time is returned as "incomplete" with the text that came: it may be paid for.
        """
        error: BaseException = UnreadableError("no try was made")
        attempt = 0
        while attempt < self._tries:
            sent = self._optional(request.sampling)
            try:
                return await self._attempt(request, show)
            except Exception as failure:  # noqa: BLE001 -- sorted below; what is not the endpoint's is raised
                error = failure
            if (refusal := failures.refusal(error, self._spec, self._key)) is not None:
                raise refusal from error
            if self._adapted(error, sent):
                continue
            if not failures.is_transient(error):
                break
            if isinstance(error, CutError) and show is not None and error.text:
                break  # what was shown cannot be taken back
            attempt += 1
            if attempt < self._tries:
                await asyncio.sleep(self._wait(error, attempt))
        if isinstance(error, CutError) and (error.text or error.reasoning):
            return Completion(request.key, error.text, "incomplete", 0, error.tokens, reasoning=error.reasoning)
        return self._failed(request.key, error)

    def _failed(self, key: str, error: BaseException) -> Failed:
        if not (failures.status_of(error) or failures.is_transient(error) or isinstance(error, openai.APIError)):
            raise error
        words = failures.words_of(error, self._spec, self._key)
        unreachable = failures.is_transport(error)
        return Failed(key, words, failures.is_transient(error), unreachable, unreachable and "in time" in words)

    @staticmethod
    def _wait(error: BaseException, attempt: int) -> float:
        """Seconds before the next try: what the endpoint asks for, or full jitter below a doubling bound."""
        asked = failures.retry_after(error)
        jitter = random.uniform(0, min(_LONGEST_BACKOFF, _BASE_WAIT * 2 ** (attempt - 1)))
        return jitter if asked is None else min(failures.MAXIMUM_WAIT, asked + min(jitter, 1.0))

    def _optional(self, sampling: Sampling) -> set[str]:
        """The parameters of the next try that it could do without."""
        extra = {"top_k"} if sampling.top_k and "top_k" not in self._left_out else set()
        return (set(self._parameters(sampling)) - _ESSENTIAL) | extra

    def _adapted(self, error: BaseException, sent: set[str]) -> bool:
        """Leave out a parameter that the endpoint refuses; True if the question can be put anew without it."""
        name = failures.refused_parameter(error, sent)
        if name and name not in self._left_out:  # several requests under way may learn it at once
            self._left_out.add(name)
            if name not in ("max_tokens", "stream_options"):
                words = f"{self._spec.url} does not take {name}: it is left out, and the server's own applies."
                self._notes.append(words)
        return bool(name)

    def _parameters(self, sampling: Sampling) -> dict[str, Any]:
        limit = "max_completion_tokens" if "max_tokens" in self._left_out else "max_tokens"
        wanted: dict[str, Any] = {
            limit: sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "stream_options": {"include_usage": True},
        }
        if sampling.top_p < 1:
            wanted["top_p"] = sampling.top_p
        if sampling.stop:
            wanted["stop"] = list(sampling.stop)
        return {name: value for name, value in wanted.items() if name not in self._left_out}

    async def _attempt(self, request: Request, show: Show | None) -> Completion:
        sampling = request.sampling
        extra = dict(self._spec.options.get("extra_body") or {})
        if sampling.top_k and "top_k" not in self._left_out:
            extra["top_k"] = sampling.top_k  # not OpenAI's own, but vLLM, llama-server and LM Studio know it
        stream: Any = await self._client.chat.completions.create(
            model=self._spec.model,
            messages=list(request.messages),  # type: ignore[arg-type]
            stream=True,
            extra_body=extra or None,
            **self._parameters(sampling),
        )
        try:
            kind = stream.response.headers.get("content-type", "").lower()
            if "html" in kind:
                raise WebPageError
            if "json" in kind:  # a server that does not stream
                return _whole(json.loads(await stream.response.aread()), request.key)
            return await _heard(stream, request.key, show)
        finally:
            await stream.close()


async def _heard(stream: Any, key: str, show: Show | None) -> Completion:
    heard = _Heard()
    try:
        async for chunk in stream:
            heard.usage = getattr(chunk, "usage", None) or heard.usage
            for choice in getattr(chunk, "choices", None) or ():
                text = heard.take(choice, delta=getattr(choice, "delta", None))
                if text and show is not None:
                    show(text)
            if heard.characters > MAXIMUM_CHARACTERS:
                heard.finish_reason = "length"
                break
    except Exception as error:
        if heard.finish_reason:  # the answer is whole; only what follows it was lost
            return heard.completion(key)
        if isinstance(error, ValueError | TypeError | AttributeError):
            error = UnreadableError(f"{type(error).__name__}: {error}")
        raise (heard.cut() if heard.characters else error) from error
    return heard.completion(key)


def _whole(body: Any, key: str) -> Completion:
    """Read an answer that came in one piece."""
    if not isinstance(body, dict):
        raise UnreadableError(f"it was JSON of another shape: {type(body).__name__}")
    if body.get("error"):
        raise UnreadableError(f"it reported {json.dumps(body['error'])[:300]}")
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise UnreadableError("it has no choices with a message")
    heard = _Heard(usage=body.get("usage"))
    heard.take(_Fields(choice), delta=_Fields(message))
    heard.pieces = 0
    return heard.completion(key)


class _Fields:
    """Reads a dictionary's keys as attributes, as the SDK's objects are read."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.__dict__.update({str(name): value for name, value in fields.items()})
