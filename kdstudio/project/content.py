"""What a row holds: chat messages, their plain text, and the fingerprint that names the content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kdstudio.models.tool_calls import with_tools

Status = Literal["pending", "accepted", "rejected"]
Kind = Literal["prompt", "response", "preference"]
STATUSES: tuple[Status, ...] = ("pending", "accepted", "rejected")
KINDS: tuple[Kind, ...] = ("prompt", "response", "preference")

Message = dict[str, Any]


@dataclass(slots=True)
class NewPrompt:
    """Messages up to the turn that is to be answered. `terms`: the stamp of the teacher that wrote it, if one did."""

    messages: Sequence[Message]
    tags: Sequence[str] = ()
    reference: str = ""
    source: str = ""
    status: Status = "pending"
    reason: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)
    terms: str = ""


@dataclass(slots=True)
class NewResponse:
    """An answer to a prompt of this project, with who made it and how. `key` tells equal texts of one run apart.

    `terms` is the stamp of its teacher's terms of use (`models.terms`); "" where nobody stated any. `extras`: what the
    recipe kept beside it, such as the passage that it rests on or the set of labels.
    """

    prompt_id: int
    text: str
    reasoning: str = ""
    message: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str = ""
    teacher: str = ""
    recipe_hash: str = ""
    run: str = ""
    key: str = ""
    seed: int = 0
    sampling: Mapping[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0
    tokens: int = 0
    status: Status = "pending"
    reason: str = ""
    source: str = ""
    terms: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class NewPreference:
    """Two or more responses to a prompt with a score each; higher is better. A chosen/rejected pair scores 1 and 0."""

    prompt_id: int
    candidates: Sequence[str]
    scores: Sequence[float]
    run: str = ""
    status: Status = "pending"
    reason: str = ""
    source: str = ""
    terms: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """A prompt as it stands in the project."""

    id: int
    messages: tuple[Message, ...]
    text: str
    tags: tuple[str, ...]
    reference: str
    extras: dict[str, Any]
    status: Status
    reason: str
    source: str
    created: str
    fingerprint: bytes
    terms: str = ""

    @property
    def conversation(self) -> tuple[Message, ...]:
        """Its messages, with the tools that are declared for them, as whatever trains or scores reads them."""
        return with_tools(self.messages, self.extras.get("tools"))


@dataclass(frozen=True)
class Response:
    """A response as it stands in the project."""

    id: int
    prompt_id: int
    text: str
    reasoning: str
    message: dict[str, Any]
    finish_reason: str
    teacher: str
    recipe_hash: str
    run: str
    seed: int
    sampling: dict[str, Any]
    prompt_tokens: int
    tokens: int
    status: Status
    reason: str
    source: str
    created: str
    fingerprint: bytes
    terms: str = ""
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preference:
    """A preference as it stands in the project."""

    id: int
    prompt_id: int
    candidates: tuple[str, ...]
    scores: tuple[float, ...]
    run: str
    status: Status
    reason: str
    source: str
    created: str
    fingerprint: bytes
    terms: str = ""
    extras: dict[str, Any] = field(default_factory=dict)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical(value: Any) -> str:
    """JSON with one spelling for each value: sorted keys, no spaces."""
    return _ENCODER.encode(value)


def canonical_messages(messages: Sequence[Message]) -> str:
    """`canonical` of a list of messages; the usual single turn of plain text is spelt by hand, which is much faster."""
    if len(messages) == 1:
        message = messages[0]
        if len(message) == 2 and isinstance(content := message.get("content"), str) and "role" in message:
            return f'[{{"content":{_ENCODER.encode(content)},"role":{_ENCODER.encode(message["role"])}}}]'
    return _ENCODER.encode(list(messages))


def digest(text: str) -> bytes:
    """blake2b-128 of a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def fingerprint(*parts: Any) -> bytes:
    """The digest of the canonical JSON of what makes a row the same row."""
    return digest(_ENCODER.encode(parts))


def text_fault(text: str) -> str:
    """Why a text cannot be kept; "" if it can."""
    if "\x00" in text:
        return "it holds a NUL character"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return "it is not valid text in the file's encoding, or holds half a character (a lone surrogate)"
    return ""


def plain_text(content: Any) -> str:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict) and "text" in part)
    return "" if content is None else str(content)


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """What a table shows for a prompt: its last user turn (or its last turn, if there is none)."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return plain_text(message.get("content"))
    return plain_text(messages[-1].get("content")) if messages else ""
