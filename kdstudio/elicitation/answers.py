"""Answers on their way into the journal and back: what is journalled is what is read on, now or when continued."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any, cast

from kdstudio.elicitation.parsing import clean
from kdstudio.jobs.events import MAXIMUM_LINE_BYTES, Answer
from kdstudio.teachers.base import Completion, FinishReason, TokenLogProb

# An answer may reach its row twice, as text and as reasoning, and both must fit a journal line.
MAXIMUM_ANSWER_BYTES = MAXIMUM_LINE_BYTES * 2 // 5
_WEIGHED_TOKENS = 512  # of an answer whose log-probs were asked for: a judge's, which is short
_TELLING = re.compile(r"[\W_]{0,3}[^\W_][\W_]{0,3}")  # a letter or a digit, with signs around it: what a verdict is
_LEAST = -1e4  # stands for the log-prob of what a model holds impossible: JSON has no infinity


def bounded(completion: Completion) -> Completion:
    """The answer as the journal can hold it: encodable, and cut, as by a token limit, where a line ends."""
    text, reasoning = clean(completion.text), clean(completion.reasoning)
    room = MAXIMUM_ANSWER_BYTES
    kept_text = _cut(text, room)
    kept_reasoning = _cut(reasoning, room - _size(kept_text))
    whole = kept_text == text and kept_reasoning == reasoning
    error = clean(completion.error)[:2000]
    reason: FinishReason = completion.finish_reason if whole else "length"
    weighed = tuple(map(_telling, completion.log_probs)) if len(completion.log_probs) <= _WEIGHED_TOKENS else ()
    return replace(
        completion, text=kept_text, reasoning=kept_reasoning, error=error, finish_reason=reason, log_probs=weighed
    )


def _telling(token: TokenLogProb) -> TokenLogProb:
    """The token as JSON can hold it; its alternatives only where they may be a verdict, and the last."""
    others = [pair for pair in token.alternatives if math.isfinite(pair[1])] if _TELLING.fullmatch(token.text) else []
    kept = tuple(
        (clean(text), value) for text, value in others if _TELLING.fullmatch(text) or (text, value) == others[-1]
    )
    return TokenLogProb(clean(token.text), max(token.log_prob, _LEAST), kept)


def _size(text: str) -> int:
    """Bytes that a text takes in a journal line."""
    if len(text) * 6 < MAXIMUM_ANSWER_BYTES // 8:
        return len(text) * 6  # an upper bound, for the many short ones
    return len(json.dumps(text, ensure_ascii=False).encode())


def _cut(text: str, room: int) -> str:
    while text and (size := _size(text)) > room:
        text = text[: min(len(text) - 1, len(text) * room // size)]
    return text


def to_event(completion: Completion, request: str = "") -> Answer:
    """What the journal keeps of an answer; `request` is the question's digest where it is wanted later."""
    return Answer(
        completion.key,
        completion.text,
        completion.finish_reason,
        completion.prompt_tokens,
        completion.tokens,
        completion.error,
        completion.reasoning,
        completion.teacher,
        request,
        [[token.text, token.log_prob, [list(other) for other in token.alternatives]] for token in completion.log_probs],
    )


def from_event(answer: Answer) -> Completion:
    """The answer as it was when it was journalled."""
    known = answer.finish_reason in ("stop", "length", "incomplete", "error")
    reason = cast("FinishReason", answer.finish_reason if known else "incomplete")
    return Completion(
        answer.key,
        answer.text,
        reason,
        answer.prompt_tokens,
        answer.tokens,
        answer.error,
        answer.reasoning,
        log_probs=_log_probs(answer.log_probs),
        teacher=answer.teacher,
    )


def _log_probs(listed: list[Any]) -> tuple[TokenLogProb, ...]:
    """None where another program wrote something else there."""
    try:
        return tuple(
            TokenLogProb(str(text), float(value), tuple((str(other), float(its)) for other, its in others))
            for text, value, others in listed
        )
    except (TypeError, ValueError):
        return ()
