"""Anthropic's dialect: what is sent, which of it a model may refuse, and the raw answer as it came over the wire."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic

from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import anthropic_failures as failures
from kdstudio.teachers.anthropic_body import FORM_TOOL, Heard, read_body
from kdstudio.teachers.anthropic_messages import conversation
from kdstudio.teachers.base import Request, Sampling
from kdstudio.teachers.hosted_clients import Turns
from kdstudio.teachers.listening import heard_body, whole_body
from kdstudio.teachers.openai_failures import WebPageError
from kdstudio.teachers.openai_provider import is_strict
from kdstudio.teachers.pictures import refuse_pictures
from kdstudio.teachers.wire import Answered, Failure, Show

_SAMPLED = ("temperature", "top_p", "top_k")
_FORMAT, _TOOL, _WORDS = 0, 1, 2
_FORMAT_REFUSED = ("output_config", "output_format", "output format", "structured output", "schema")
_TOOL_REFUSED = ("tool_choice", "input_schema", "tool use", "tools")
_IN_WORDS = "Answer with nothing but JSON that fits this JSON Schema, without a code fence:\n"
_ITS_OWN = "its own way of choosing tokens applies."


class AnthropicProvider:
    """One model; remembers which optional parameters it does not take (`notes` say so).

    A form is asked for by the API's own output format where the schema is one that it takes, else by a tool that has
    to be called, else in words.
    """

    def __init__(
        self,
        connect: Callable[[], anthropic.AsyncAnthropic],
        most: int,
        spec: TeacherSpec,
        key: str,
        notes: list[str],
        pictures: Path | None = None,
    ) -> None:
        """As `OpenAIProvider`."""
        self._pictures = pictures
        self._turns = Turns(connect, most)
        self._spec, self._key, self._notes = spec, key, notes
        self._left_out: set[str] = set()
        self._form = _FORMAT

    async def attempt(self, request: Request, name: str, show: Show | None = None) -> str:
        """As `Provider.attempt`. `name` goes into X-Client-Request-Id, for gateways that keep it.

        Raises `BadInput` for a prompt that has no form here, `CutError` for an answer that broke off, `WebPageError`,
        `ReportedError`, `UnreadableError` for nothing.
        """
        # What goes into extra_body is sent as it is; the SDK would walk through each message looking for its own types.
        call = self._turns.client().messages.with_streaming_response.create(
            model=self._spec.model,
            max_tokens=request.sampling.max_tokens,
            messages=(),
            stream=True,
            extra_body=self.fields(request),
            extra_headers={"X-Client-Request-Id": name},
        )
        async with call as response:
            kind = response.headers.get("content-type", "").lower()
            if "html" in kind:
                raise WebPageError
            if "json" in kind:  # a gateway that does not stream
                return whole_body((await response.read()).decode("utf-8", "replace"))
            return await heard_body(response.iter_bytes(), request.key, Heard, show)

    def fields(self, request: Request) -> dict[str, Any]:
        """The request's own fields beside model, max_tokens and stream. Raises `BadInput`, as `attempt`."""
        sampling = request.sampling
        if not self._spec.options.get("images", True):
            refuse_pictures(request.messages)
        fields = {**conversation(request.messages, self._pictures), **self._parameters(sampling)}
        if sampling.json_schema:
            self._ask_for_form(fields, sampling.json_schema)
        return fields

    def _parameters(self, sampling: Sampling) -> dict[str, Any]:
        """How tokens are chosen. There is no seed, and a thinking model's choice is its own."""
        extra = dict(self._spec.options.get("extra_body") or {})
        wanted: dict[str, Any] = {"temperature": min(1.0, sampling.temperature)}
        if sampling.top_p < 1:
            wanted["top_p"] = sampling.top_p
        if sampling.top_k:
            wanted["top_k"] = sampling.top_k
        if (extra.get("thinking") or {"type": "disabled"}).get("type") != "disabled":
            wanted = {}
        if stops := [text for text in sampling.stop if text.strip()]:  # the API refuses blank ones
            wanted["stop_sequences"] = stops
        return {name: value for name, value in wanted.items() if name not in self._left_out} | extra

    def _ask_for_form(self, fields: dict[str, Any], text: str) -> None:
        schema = json.loads(text)
        form = max(self._form, _FORMAT if is_strict(schema) else _TOOL)
        if form == _TOOL and (fields.get("tools") or not _is_object(schema) or fields.get("thinking")):
            form = _WORDS  # a forced tool goes neither with others nor with thinking, and its input is an object
        if form == _FORMAT:
            fields["output_config"] = {
                **(fields.get("output_config") or {}),
                "format": {"type": "json_schema", "schema": schema},
            }
        elif form == _TOOL:
            fields["tools"] = [{"name": FORM_TOOL, "description": "Give the answer.", "input_schema": schema}]
            fields["tool_choice"] = {"type": "tool", "name": FORM_TOOL}
        else:
            fields["system"] = "\n\n".join(filter(None, (fields.get("system"), _IN_WORDS + text)))

    def read(self, raw: str, request: Request) -> Answered:
        """As `Provider.read`."""
        return read_body(raw, request.key)

    def failure(self, error: BaseException) -> Failure:
        """As `Provider.failure`."""
        return failures.failure_of(error, self._spec, self._key)

    def adapted(self, error: BaseException, request: Request) -> bool:
        """As `Provider.adapted`; newer models choose their tokens themselves, older ones know no output format."""
        optional = {name for name in _SAMPLED if name in self._parameters(request.sampling)} | self._left_out
        name = failures.refused_parameter(error, optional)
        if name and name not in self._left_out:
            self._left_out.add(name)
            self._notes.append(f"{self._spec.model} does not take {name}: it is left out, and {_ITS_OWN}")
        return bool(name) or (bool(request.sampling.json_schema) and self._other_form(error))

    def _other_form(self, error: BaseException) -> bool:
        """Whether a refusal is one of the way in which the form was asked for; then the next way is taken.

        Several requests under way may learn it at once, so that it may be taken already.
        """
        if failures.status_of(error) not in (400, 422):
            return False
        words = failures.message_of(error).lower()
        if any(part in words for part in _TOOL_REFUSED):
            self._form = _WORDS
        elif any(part in words for part in _FORMAT_REFUSED):
            self._form = max(self._form, _TOOL)
        else:
            return False
        way = "by a tool" if self._form == _TOOL else "in words"
        note = f"{self._spec.model} is asked for the form of its answers {way}: the API refused the usual way."
        if note not in self._notes:
            self._notes.append(note)
        return True

    async def close(self) -> None:
        """As `Provider.close`."""
        await self._turns.close()


def _is_object(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "object"
