"""Reading the raw body of a chat completion: a stream of server-sent events, or one piece of JSON.

The reading is ours rather than the SDK's, since a body may come from the journal, long after its connection is gone.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from kdstudio.teachers.base import Completion, FinishReason, TokenLogProb
from kdstudio.teachers.wire import Answered

MAXIMUM_CHARACTERS = 400_000
_FINISHED: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
_LEAST_LOG_PROB = -9999.0


class UnreadableError(Exception):
    """What came cannot be read as a chat completion; the message says what it was."""


class ReportedError(Exception):
    """The server reports an error where an answer was expected.

    `code`: the HTTP status that it names, else 0; `type`: what it calls its kind, else "".
    """

    def __init__(self, error: Any) -> None:
        message = error.get("message") if isinstance(error, dict) else None
        super().__init__(str(message or json.dumps(error))[:300])
        code, kind = (error.get("code"), error.get("type")) if isinstance(error, dict) else (None, None)
        self.type = kind if isinstance(kind, str) else ""
        number = int(code) if isinstance(code, int) or (isinstance(code, str) and code.isdigit()) else 0
        self.code = number if 400 <= number < 600 else 0


def data_of(line: bytes | str) -> str | None:
    """The data of one line of an event stream; None for anything else, and for the end."""
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
    if not text.startswith("data:"):
        return None
    data = text[5:].strip()
    return None if data in ("", "[DONE]") else data


def event_of(data: str) -> dict[str, Any]:
    """One event of a stream. Raises `UnreadableError`, or `ReportedError` when it is an error's."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"broken JSON: {error}") from error
    if not isinstance(event, dict):
        raise UnreadableError(f"it was JSON of another shape: {type(event).__name__}")
    if event.get("error"):
        raise ReportedError(event["error"])
    return event


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
    log_probs: list[TokenLogProb] = field(default_factory=list)

    def event(self, event: dict[str, Any], part: str = "delta") -> str:
        """Take in one event, or a whole completion (`part` "message"); returns the new text."""
        if isinstance(event.get("usage"), dict):
            self.usage = event["usage"]
        if isinstance(event.get("model"), str):
            self.model = event["model"] or self.model
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        return self._choice(choice, part) if isinstance(choice, dict) else ""

    def _choice(self, choice: dict[str, Any], part: str) -> str:
        said = choice.get(part)
        said = said if isinstance(said, dict) else {}
        text, thought = said.get("content"), said.get("reasoning_content") or said.get("reasoning")
        text, thought = (value if isinstance(value, str) else "" for value in (text, thought))
        self.finish_reason = str(choice.get("finish_reason") or self.finish_reason)
        self.parts.append(text)
        self.reasoning.append(thought)
        self.pieces += bool(text or thought)
        self.characters += len(text) + len(thought)
        listed = choice.get("logprobs")
        if isinstance(listed, dict) and isinstance(listed.get("content"), list):
            self.log_probs += [found for item in listed["content"] if (found := _log_prob(item)) is not None]
        return text

    def completion(self, key: str) -> Completion:
        """The answer. Raises `UnreadableError` when nothing at all came."""
        if not self.finish_reason and not self.characters:
            raise UnreadableError("it holds no answer")
        text = "".join(self.parts)
        whole = self.characters <= MAXIMUM_CHARACTERS
        return Completion(
            key,
            text[:MAXIMUM_CHARACTERS],
            _FINISHED.get(self.finish_reason, "incomplete") if whole else "length",
            prompt_tokens=count(self.usage, "prompt_tokens"),
            tokens=count(self.usage, "completion_tokens") or self.pieces,
            reasoning="".join(self.reasoning)[:MAXIMUM_CHARACTERS],
            log_probs=self._aligned(text),
        )

    def _aligned(self, text: str) -> tuple[TokenLogProb, ...]:
        """The log-probs, if they are those of this very text; wrong ones are worse than none."""
        return tuple(self.log_probs) if "".join(item.text for item in self.log_probs) == text else ()


def read_body(raw: str, key: str) -> Answered:
    """Read an answer. Raises `UnreadableError` for what is none, and `ReportedError` for an error in its place."""
    heard = Heard()
    if raw.lstrip().startswith(("{", "[")):
        event = event_of(raw)
        choices = event.get("choices")
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict) and "message" in choices[0]):
            raise UnreadableError("it has no choices with a message")
        heard.event(event, "message")
        heard.pieces = 0
    else:
        hear(raw, heard)
    cached = heard.usage.get("prompt_tokens_details")
    return Answered(heard.completion(key), heard.model, count(cached, "cached_tokens"))


class Hearing(Protocol):
    """What came of one answer so far."""

    characters: int
    finish_reason: str

    def event(self, event: dict[str, Any]) -> str:
        """Take in one event; returns the new text."""
        ...

    def completion(self, key: str) -> Completion:
        """The answer. Raises `UnreadableError` when nothing at all came."""
        ...


def hear(raw: str, heard: Hearing) -> None:
    """Take in an event stream, as far as it is an answer. Raises `UnreadableError` and `ReportedError`."""
    try:
        for line in raw.split("\n"):
            if (data := data_of(line)) is not None:
                heard.event(event_of(data))
            if heard.characters > MAXIMUM_CHARACTERS:
                return
    except (UnreadableError, ReportedError):
        if not heard.finish_reason:  # else the answer is whole; only what follows it was lost
            raise


def count(usage: Any, name: str) -> int:
    """A number of tokens that a server states; 0 for anything that is none."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else 0


def _log_prob(item: Any) -> TokenLogProb | None:
    """A token's entry; None for one that makes no sense, which the check of the text finds out."""
    if not isinstance(item, dict) or (own := _pair(item)) is None:
        return None
    listed = item.get("top_logprobs")
    others = [pair for other in (listed if isinstance(listed, list) else ()) if (pair := _pair(other)) is not None]
    return TokenLogProb(*own, tuple(sorted(others, key=lambda pair: -pair[1])))


def _pair(item: Any) -> tuple[str, float] | None:
    token, value = (item.get("token"), item.get("logprob")) if isinstance(item, dict) else (None, None)
    if not isinstance(token, str) or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return (token, max(_LEAST_LOG_PROB, float(value))) if not math.isnan(value) and value <= 1e-6 else None
