"""Reading the raw body of an Anthropic message: a stream of server-sent events, or one piece of JSON.

https://docs.claude.com/en/docs/build-with-claude/streaming
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from kdstudio.teachers.base import Completion, FinishReason
from kdstudio.teachers.openai_body import (
    MAXIMUM_CHARACTERS,
    UnreadableError,
    count,
    event_of,
    hear,
)
from kdstudio.teachers.wire import Answered

FORM_TOOL = "answer"
"""The tool whose input is the answer, where a form is asked for in this way."""
_FINISHED: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}
_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


@dataclass
class Heard:
    """What came of an answer so far. `pieces` counts the tokens where the server does not."""

    parts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    finish_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    pieces: int = 0
    characters: int = 0
    formed: bool = False

    def event(self, event: dict[str, Any]) -> str:
        """Take in one event of a stream; returns the new text."""
        match event.get("type"):
            case "message_start":
                self._message(_mapping(event.get("message")))
            case "content_block_start":
                return self._block(_mapping(event.get("content_block")))
            case "content_block_delta":
                return self._delta(_mapping(event.get("delta")))
            case "message_delta":
                self._end(_mapping(event.get("delta")), _mapping(event.get("usage")))
        return ""

    def whole(self, message: dict[str, Any]) -> None:
        """Take in an answer that came in one piece."""
        content = message.get("content")
        for block in map(_mapping, content if isinstance(content, list) else ()):
            self._block(block)
            if block.get("type") == "tool_use" and self.formed:
                self._say(json.dumps(block.get("input"), ensure_ascii=False))
        self._message(message)
        self._end(message, {})
        self.pieces = 0

    def _message(self, message: dict[str, Any]) -> None:
        self.model = str(message.get("model") or self.model)
        self.usage |= _mapping(message.get("usage"))

    def _block(self, block: dict[str, Any]) -> str:
        """A block's beginning, which in a stream is empty, or all of it."""
        if block.get("type") == "tool_use":
            self.formed = self.formed or block.get("name") == FORM_TOOL
            return ""
        return self._delta(block)

    def _delta(self, delta: dict[str, Any]) -> str:
        text, thought = delta.get("text"), delta.get("thinking")
        if text is None and self.formed:
            text = delta.get("partial_json")
        if isinstance(thought, str) and thought:
            self.reasoning.append(thought)
            self.characters += len(thought)
            self.pieces += 1
        return self._say(text) if isinstance(text, str) else ""

    def _say(self, text: str) -> str:
        self.parts.append(text)
        self.characters += len(text)
        self.pieces += bool(text)
        return text

    def _end(self, delta: dict[str, Any], usage: dict[str, Any]) -> None:
        self.finish_reason = str(delta.get("stop_reason") or self.finish_reason)
        self.usage |= {name: value for name, value in usage.items() if value is not None}

    def completion(self, key: str) -> Completion:
        """The answer. Raises `UnreadableError` when nothing at all came."""
        if not self.finish_reason and not self.characters:
            raise UnreadableError("it holds no answer")
        whole = self.characters <= MAXIMUM_CHARACTERS
        return Completion(
            key,
            "".join(self.parts)[:MAXIMUM_CHARACTERS],
            self._finished() if whole else "length",
            prompt_tokens=sum(count(self.usage, name) for name in _INPUT),
            tokens=count(self.usage, "output_tokens") if self.finish_reason else self.pieces,
            reasoning="".join(self.reasoning)[:MAXIMUM_CHARACTERS],
        )

    def _finished(self) -> FinishReason:
        if self.finish_reason == "tool_use" and self.formed:
            return "stop"
        return _FINISHED.get(self.finish_reason, "incomplete")


def read_body(raw: str, key: str) -> Answered:
    """Read an answer. Raises `UnreadableError` for what is none, and `ReportedError` for an error in its place."""
    heard = Heard()
    if raw.lstrip().startswith(("{", "[")):
        message = event_of(raw)
        if not isinstance(message.get("content"), list):
            raise UnreadableError("it has no content")
        heard.whole(message)
    else:
        hear(raw, heard)
    return Answered(heard.completion(key), heard.model, count(heard.usage, "cache_read_input_tokens"))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
