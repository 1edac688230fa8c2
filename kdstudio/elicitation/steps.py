"""What each step of a recipe does to one row. A row is a dictionary of columns; a step reads and adds some."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdstudio.catalogue.steps import EmitStep, FilterStep, ParseStep, PromptStep, SampleStep
from kdstudio.elicitation.parsing import PARSERS, UnparsableError
from kdstudio.elicitation.sandbox import Template, compile_template
from kdstudio.elicitation.time_limit import TimeLimitError, time_limit
from kdstudio.errors import BadInput, KnownError
from kdstudio.models.chat_template import TemplateStopped
from kdstudio.registry import Params

START_COLUMNS = ("messages", "prompt", "reference", "tags")
PATTERN_SECONDS = 2.0


@dataclass
class Passage:
    """One row on its way through the steps. `key` names it: the prompt's id and the index of each sample drawn."""

    prompt_id: int
    key: str
    columns: dict[str, Any] = field(default_factory=dict)
    finish_reason: str = ""
    reasoning: str = ""
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
        if user is not None:
            turn = next((message for message in reversed(messages) if message.get("role") == "user"), None)
            if turn is None:
                messages.append(turn := {"role": "user"})
            turn["content"] = _rendered(user, known)
        if system is not None:
            others = [message for message in messages if message.get("role") != "system"]
            messages = [{"role": "system", "content": _rendered(system, known)}, *others]
        passage.columns[step.into] = messages

    return execute


def _rendered(template: Template, values: Mapping[str, Any]) -> str:
    """A template that fails on this row's values lets the row fall; one that goes over its limits ends the run."""
    try:
        return template.render(values)
    except TemplateStopped:
        raise
    except BadInput as error:
        raise FallenError(error.detail) from error


def require_question(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise `FallenError` when no user's turn says anything."""
    if not any(_says_something(message.get("content")) for message in messages if message.get("role") == "user"):
        raise FallenError("the prompt is empty")


def _says_something(content: Any) -> bool:
    if isinstance(content, list):  # parts: an image says something without a text
        return any(isinstance(part, dict) and bool(str(part.get("text", "image")).strip()) for part in content)
    return bool(str(content or "").strip())


def bind_parse(step: ParseStep, values: Mapping[str, Any], where: str) -> Executor:
    """Split an answer into columns; one that does not parse falls, with the reason."""
    del values, where
    parse = PARSERS[step.format]

    def execute(passage: Passage) -> None:
        try:
            passage.columns.update(parse(str(passage.columns.get(step.source, "")), step.into))
        except UnparsableError as error:
            cut = " (it was cut off by the token limit)" if passage.finish_reason == "length" else ""
            raise FallenError(f"{error}{cut}") from error

    return execute


def bind_filter(step: FilterStep, values: Mapping[str, Any], where: str) -> Executor:
    """Mark a row as rejected, with the reason; it is still written, so that a person can look and disagree."""
    del values
    refuse, require = _pattern(step.refuse_pattern, where), _pattern(step.require_pattern, where)

    def execute(passage: Passage) -> None:
        if passage.rejected:
            return
        text = str(passage.columns.get(step.column, ""))
        passage.rejected = _unfit(step, text, passage.finish_reason)
        if not passage.rejected and refuse is not None and _found(refuse, text, where):
            passage.rejected = "matches the refusing pattern"
        if not passage.rejected and require is not None and not _found(require, text, where):
            passage.rejected = "lacks the required pattern"

    return execute


def _unfit(step: FilterStep, text: str, finish_reason: str) -> str:
    if step.finished and finish_reason == "length":
        return "cut off by the token limit"
    if step.finished and finish_reason not in ("stop", ""):
        return f"did not end by itself ({finish_reason})"
    if len(text) < step.minimum_characters:
        return f"shorter than {step.minimum_characters} characters"
    if len(text) > step.maximum_characters:
        return f"longer than {step.maximum_characters:,} characters"
    return ""


def _pattern(text: str, where: str) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except (re.error, RecursionError, OverflowError) as error:
        raise BadInput("A pattern cannot be read", f"{where}: {text!r}: {error}.", "Correct the expression.") from error


def _found(pattern: re.Pattern[str], text: str, where: str) -> bool:
    """Search, but not for ever: some patterns take exponential time on some texts."""
    try:
        with time_limit(PATTERN_SECONDS):
            return pattern.search(text) is not None
    except TimeLimitError as error:
        raise KnownError(
            "A pattern takes too long",
            f"{where}: {pattern.pattern!r} was not done with a text of {len(text):,} characters after "
            f"{PATTERN_SECONDS:g} s.",
            "Avoid repetitions inside repetitions, such as (a+)+.",
        ) from error


def emit_row(step: EmitStep, passage: Passage, *, teacher: str, recipe_hash: str) -> dict[str, Any]:
    """The response row that the journal carries to the project. Raises `FallenError` when it has no text.

    Reasoning comes from the column that the recipe names, else from the teacher if it gave some apart.
    """
    text = str(passage.columns.get(step.text, ""))
    if not text.strip():
        raise FallenError("the response is empty")
    return {
        "prompt_id": passage.prompt_id,
        "text": text,
        "reasoning": str(passage.columns.get(step.reasoning, "")) if step.reasoning else passage.reasoning,
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
