"""What each step of a recipe does to one row. A row is a dictionary of columns; a step reads and adds some."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdstudio.catalogue.steps import EmitStep, FilterStep, ParseStep, PromptStep, SampleStep
from kdstudio.elicitation.parsing import PARSERS, UnparsableError
from kdstudio.elicitation.sandbox import compile_template, render
from kdstudio.errors import BadInput
from kdstudio.registry import Params


@dataclass
class Passage:
    """One row on its way through the steps. `key` names it: the prompt's id and the index of each sample drawn."""

    prompt_id: int
    key: str
    columns: dict[str, Any] = field(default_factory=dict)
    finish_reason: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    seed: int = 0
    sampling: dict[str, Any] = field(default_factory=dict)
    rejected: str = ""


class FallenError(Exception):
    """The row goes no further; the message is the reason."""


Executor = Callable[[Passage], None]


def bind_prompt(step: PromptStep, values: Mapping[str, Any], where: str) -> Executor:
    """Build the messages to send: templates see the row's columns and the recipe's parameters."""
    system = compile_template(step.system, f"{where}, system") if step.system else None
    user = compile_template(step.user, f"{where}, user") if step.user else None

    def execute(passage: Passage) -> None:
        known = {**values, **passage.columns}
        messages = [dict(message) for message in passage.columns["messages"]]
        if system is not None:
            rendered = render(system, known, f"{where}, system")
            messages = [{"role": "system", "content": rendered}, *(m for m in messages if m.get("role") != "system")]
        if user is not None:
            rendered = render(user, known, f"{where}, user")
            before = [message for message in messages if message.get("role") != "user"]
            earlier = messages[:-1] if messages and messages[-1].get("role") == "user" else before
            messages = [*earlier, {"role": "user", "content": rendered}]
        if not any(str(message.get("content") or "").strip() for message in messages if message.get("role") == "user"):
            raise FallenError("the prompt is empty")
        passage.columns[step.into] = messages

    return execute


def bind_parse(step: ParseStep, values: Mapping[str, Any], where: str) -> Executor:
    """Split an answer into columns; one that does not parse falls, with the reason."""
    del values, where
    parse = PARSERS[step.format]

    def execute(passage: Passage) -> None:
        try:
            passage.columns.update(parse(str(passage.columns.get(step.source, "")), step.into))
        except UnparsableError as error:
            raise FallenError(str(error)) from error

    return execute


def bind_filter(step: FilterStep, values: Mapping[str, Any], where: str) -> Executor:
    """Mark a row as rejected, with the reason; it is still written, so that a person can look and disagree."""
    del values
    refuse, require = _pattern(step.refuse_pattern, where), _pattern(step.require_pattern, where)

    def reason(text: str, finish_reason: str) -> str:
        if step.finished and finish_reason == "length":
            return "cut off by the token limit"
        if step.finished and finish_reason not in ("stop", ""):
            return f"did not end by itself ({finish_reason})"
        if len(text) < step.minimum_characters:
            return f"shorter than {step.minimum_characters} characters"
        if len(text) > step.maximum_characters:
            return f"longer than {step.maximum_characters:,} characters"
        if refuse is not None and refuse.search(text):
            return "matches the refusing pattern"
        if require is not None and not require.search(text):
            return "lacks the required pattern"
        return ""

    def execute(passage: Passage) -> None:
        text = str(passage.columns.get(step.column, ""))
        passage.rejected = passage.rejected or reason(text, passage.finish_reason)

    return execute


def _pattern(text: str, where: str) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise BadInput("A pattern cannot be read", f"{where}: {text!r}: {error}.", "Correct the expression.") from error


def emit_row(step: EmitStep, passage: Passage, *, teacher: str, recipe_hash: str) -> dict[str, Any]:
    """The response row that the journal carries to the project."""
    return {
        "prompt_id": passage.prompt_id,
        "text": str(passage.columns.get(step.text, "")),
        "reasoning": str(passage.columns.get(step.reasoning, "")) if step.reasoning else "",
        "finish_reason": passage.finish_reason,
        "teacher": teacher,
        "recipe_hash": recipe_hash,
        "key": passage.key,
        "seed": passage.seed,
        "sampling": passage.sampling,
        "prompt_tokens": passage.prompt_tokens,
        "tokens": passage.tokens,
        "status": "rejected" if passage.rejected else step.status,
        "reason": passage.rejected,
        "source": "teacher",
    }


BINDERS: dict[type[Params], Callable[..., Executor]] = {
    PromptStep: bind_prompt,
    ParseStep: bind_parse,
    FilterStep: bind_filter,
}
ASKING: tuple[type[Params], ...] = (SampleStep,)
ENDING: tuple[type[Params], ...] = (EmitStep,)
