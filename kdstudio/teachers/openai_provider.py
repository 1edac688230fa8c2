"""OpenAI's dialect: what is sent, which of it an endpoint may refuse, and the raw answer as it came over the wire."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx2
import openai

from kdstudio.models.spec import TeacherSpec
from kdstudio.models.tool_calls import apart
from kdstudio.teachers import openai_failures as failures
from kdstudio.teachers.base import Request, Sampling
from kdstudio.teachers.hosted_clients import Turns
from kdstudio.teachers.listening import heard_body, whole_body
from kdstudio.teachers.openai_body import Heard, read_body
from kdstudio.teachers.openai_failures import WebPageError
from kdstudio.teachers.pictures import refuse_pictures, with_data_urls
from kdstudio.teachers.wire import Answered, Failure, Show

_ESSENTIAL = {"model", "messages", "stream", "max_completion_tokens"}
_TOGETHER = {"logprobs": "top_logprobs", "top_logprobs": "logprobs"}
_MOST_LOG_PROBS = 20


class OpenAIProvider:
    """One endpoint; remembers which optional parameters it does not take (`notes` say so)."""

    def __init__(
        self,
        connect: Callable[[], openai.AsyncOpenAI],
        most: int,
        spec: TeacherSpec,
        key: str,
        notes: list[str],
        pictures: Path | None = None,
    ) -> None:
        """`connect` makes a client, `most` is how many there may be; `pictures` is the project that keeps them."""
        self._pictures = pictures
        self._turns = Turns(connect, most)
        self._spec, self._key, self._notes = spec, key, notes
        self._left_out: set[str] = set()

    async def attempt(self, request: Request, name: str, show: Show | None = None) -> str:
        """As `Provider.attempt`. `name` goes into X-Client-Request-Id, by which OpenAI finds a request again.

        Raises `BadInput` for a picture that cannot be sent, `CutError` for an answer that broke off, `WebPageError`,
        `ReportedError`, `UnreadableError` for nothing.
        """
        response = await self._sent({"model": self._spec.model, "stream": True, **self.fields(request)}, name)
        try:
            kind = response.headers.get("content-type", "").lower()
            if "html" in kind:
                raise WebPageError
            if "json" in kind:  # a server that does not stream
                return whole_body((await response.aread()).decode("utf-8", "replace"))
            return await heard_body(response.aiter_bytes(), request.key, Heard, show)
        finally:
            await response.aclose()

    async def _sent(self, body: dict[str, Any], name: str) -> httpx2.Response:
        """Send a body as it is; returns the response, unread. Raises what the SDK raises.

        The SDK's own `create` walks through each message looking for its types, and wraps the response in two of them:
        a third of what a request costs the processor.
        """
        client = self._turns.client()
        return cast(
            "httpx2.Response",
            await client.post(
                f"{client.base_url}chat/completions",  # whole: the SDK takes long to join the two
                body=body,
                options={"headers": {"X-Client-Request-Id": name}},
                cast_to=httpx2.Response,
                stream=True,
                stream_cls=openai.AsyncStream[object],
            ),
        )

    def fields(self, request: Request) -> dict[str, Any]:
        """The request's own fields beside model and stream. Raises `BadInput` for a picture that cannot be sent."""
        sampling, messages = request.sampling, with_data_urls(apart(request.messages)[0], self._pictures)
        if not self._spec.options.get("images", True):
            refuse_pictures(messages)
        return {"messages": messages, **self._parameters(sampling), **self._extra(sampling)}

    def read(self, raw: str, request: Request) -> Answered:
        """As `Provider.read`."""
        return read_body(raw, request.key)

    def failure(self, error: BaseException) -> Failure:
        """As `Provider.failure`."""
        return failures.failure_of(error, self._spec, self._key)

    def adapted(self, error: BaseException, request: Request) -> bool:
        """As `Provider.adapted`; a server that does not know seeds or log-probs is asked without."""
        sampling = request.sampling
        optional = (set(self._parameters(sampling)) | set(self._extra(sampling))) - _ESSENTIAL
        optional |= self._left_out  # several requests under way may learn it at once
        name = failures.refused_parameter(error, optional)
        if name and name not in self._left_out:
            self._left_out |= {name, _TOGETHER.get(name, name)}
            if name not in ("max_tokens", "stream_options"):
                words = f"{self._spec.url} does not take {name}: it is left out, and the server's own applies."
                self._notes.append(words)
        return bool(name)

    async def close(self) -> None:
        """As `Provider.close`."""
        await self._turns.close()

    def _extra(self, sampling: Sampling) -> dict[str, Any]:
        """Fields that are not OpenAI's own; vLLM, llama-server and LM Studio know `top_k`."""
        extra = dict(self._spec.options.get("extra_body") or {})
        if sampling.top_k and "top_k" not in self._left_out:
            extra["top_k"] = sampling.top_k
        return extra

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
        if sampling.json_schema:
            wanted["response_format"] = _response_format(sampling.json_schema)
        if sampling.log_probs:
            wanted |= {"logprobs": True, "top_logprobs": min(_MOST_LOG_PROBS, sampling.log_probs)}
        return {name: value for name, value in wanted.items() if name not in self._left_out}


def _response_format(text: str) -> dict[str, Any]:
    schema = json.loads(text)
    named = {"name": "answer", "schema": schema, "strict": is_strict(schema)}
    return {"type": "json_schema", "json_schema": named}


def is_strict(schema: Any) -> bool:
    """Whether a schema is one that OpenAI can hold an answer to: closed objects whose fields are all required."""
    if isinstance(schema, list):
        return all(is_strict(item) for item in schema)
    if not isinstance(schema, dict):
        return True
    fields = schema.get("properties")
    if schema.get("type") == "object" or fields:
        named = set(fields) if isinstance(fields, dict) else set()
        if schema.get("additionalProperties") is not False or set(schema.get("required") or ()) != named:
            return False
    return all(is_strict(value) for value in schema.values())
