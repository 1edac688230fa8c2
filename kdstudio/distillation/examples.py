"""Rows of the project as token examples: what is read, what is learnt, and what is left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdstudio.errors import BadInput
from kdstudio.models.conversation import Tokenizer, encode_conversation

Ids = npt.NDArray[np.int32]
_WEIGHT = re.compile(r"weight:\d+(\.\d+)?")


@dataclass(frozen=True)
class Example:
    """One conversation in tokens: `prompt_ids` are read, `response_ids` (with the end of the turn) are learnt.

    `group` and `score` belong to a preference: the responses of one group are compared. `rationale` counts the tokens
    of the response that are reasoning. `own`: the student wrote it. `spans` are the bytes of each response token.
    """

    prompt_id: int
    response_id: int
    prompt_ids: Ids
    response_ids: Ids
    prompt: str
    response: str
    tags: tuple[str, ...] = ()
    group: int = 0
    score: float = 0.0
    rationale: int = 0
    own: bool = False
    spans: tuple[tuple[int, int], ...] = ()
    reference: str = ""

    @property
    def weight(self) -> float:
        """What a `weight:0.5` tag says; 1 without one."""
        return next((float(tag[7:]) for tag in self.tags if _WEIGHT.fullmatch(tag)), 1.0)

    @property
    def tokens(self) -> int:
        """Prompt and response together."""
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class SourceRow:
    """What an example is made from."""

    prompt_id: int
    response_id: int
    messages: tuple[dict[str, Any], ...]
    text: str
    tags: tuple[str, ...] = ()
    reasoning: str = ""
    group: int = 0
    score: float = 0.0
    reference: str = ""

    @property
    def learnt(self) -> str:
        """The text to be learnt: the reasoning between tags, where there is any, and the answer."""
        return f"{self.thought}{self.text}"

    @property
    def thought(self) -> str:
        """The reasoning as it is written in front of the answer; "" without any."""
        return f"<think>\n{self.reasoning}\n</think>\n\n" if self.reasoning else ""


def encode_rows(
    tokenizer: Tokenizer, rows: Iterable[SourceRow], maximum_tokens: int
) -> tuple[list[Example], list[int]]:
    """The rows as examples, and the ids of responses left out because prompt and response pass `maximum_tokens`.

    Raises `BadInput` for a row with nothing to learn: a silent zero in the loss helps nobody.
    """
    examples: list[Example] = []
    too_long: list[int] = []
    for row in rows:
        conversation = encode_conversation(tokenizer, row.messages, row.learnt)
        if not conversation.response_ids or not conversation.prompt_ids:
            raise BadInput(
                "A row has nothing to learn",
                f"Response {row.response_id} gives no tokens between the prompt and the end of the turn.",
                "Reject or correct that row.",
            )
        if len(conversation.prompt_ids) + len(conversation.response_ids) > maximum_tokens:
            too_long.append(row.response_id)
            continue
        examples.append(
            Example(
                row.prompt_id,
                row.response_id,
                np.asarray(conversation.prompt_ids, np.int32),
                np.asarray(conversation.response_ids, np.int32),
                last_user_text(row.messages),
                row.text,
                row.tags,
                row.group,
                row.score,
                _rationale(conversation.spans, row.thought),
                spans=tuple(conversation.spans),
                reference=row.reference,
            )
        )
    return examples, too_long


def _rationale(spans: Sequence[tuple[int, int]], thought: str) -> int:
    """How many tokens end within the reasoning in front of the answer."""
    end = len(thought.encode())
    return sum(stop <= end for _, stop in spans) if end else 0


def last_user_text(messages: Sequence[dict[str, Any]]) -> str:
    """What the user last said, for showing."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content", "")
            if isinstance(content, str):
                return content
            return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict)).strip()
    return ""
