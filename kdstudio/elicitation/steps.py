"""What each step of a recipe does to one row at once. A row is a dictionary of columns; a step reads and adds some.

An executor changes the row it is given, or returns the rows that come out of it. Steps that ask, and steps that need
the samples of a row together, are in `judged` and `company`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdstudio.catalogue.steps import (
    ChunkStep,
    DeduplicateStep,
    DrawStep,
    EmitStep,
    ExecuteStep,
    ExpandStep,
    FilterStep,
    LoopStep,
    ParseStep,
    PromptStep,
    RankStep,
    SampleStep,
    ScoreStep,
    VoteStep,
)
from kdstudio.elicitation.filters import bind_deduplicate, bind_filter
from kdstudio.elicitation.parsing import PARSERS, UnparsableError
from kdstudio.elicitation.passage import FallenError, Passage
from kdstudio.elicitation.pools import Pools
from kdstudio.elicitation.sandbox import Template, compile_template
from kdstudio.errors import BadInput
from kdstudio.models.chat_template import TemplateStopped
from kdstudio.registry import Params

if TYPE_CHECKING:
    from kdstudio.elicitation.documents import Chunk

_LARGE = 100_000  # characters of a row's texts, over which a template that was stopped is not blamed
Executor = Callable[[Passage], Sequence[Passage] | None]


def bind_prompt(
    step: PromptStep, values: Mapping[str, Any], where: str, *, index: int = 0, pools: Pools | None = None
) -> Executor:
    """Build the messages to send: templates see the row's columns and the recipe's parameters."""
    del index, pools
    texts = {name: str(getattr(step, name)) for name in ("system", "user", "assistant", "text")}
    made = {name: compile_template(text, f"{where}, {name}") for name, text in texts.items() if text}
    given = frozenset(name for template in made.values() for name in template.lookups)
    constant = {name: value for name, value in values.items() if name in given}

    def execute(passage: Passage) -> None:
        known = {**constant, **passage.columns}
        if "text" in made:
            passage.columns[step.into] = _rendered(made["text"], known)
            return
        messages = messages_of(step.start, passage.columns) if step.start else []
        if "assistant" in made:
            messages.append({"role": "assistant", "content": _rendered(made["assistant"], known)})
        if "user" in made:
            _say(messages, _rendered(made["user"], known), append=step.append)
        if "system" in made:
            others = [message for message in messages if message.get("role") != "system"]
            messages = [{"role": "system", "content": _rendered(made["system"], known)}, *others]
        passage.columns[step.into] = messages

    return execute


def _say(messages: list[dict[str, Any]], text: str, *, append: bool) -> None:
    """Put a text in the place of the last user turn's; pictures of that turn stay."""
    turn = None if append else next((item for item in reversed(messages) if item.get("role") == "user"), None)
    if turn is None:
        messages.append(turn := {"role": "user"})
    content = turn.get("content")
    pictures = [part for part in content if "text" not in part] if isinstance(content, list) else []
    turn["content"] = [{"type": "text", "text": text}, *pictures] if pictures else text


def _rendered(template: Template, values: Mapping[str, Any]) -> str:
    """A template that fails on this row's values lets the row fall; one that goes over its limits ends the run."""
    try:
        return template.render(values)
    except TemplateStopped as error:
        size = sum(len(value) for name in template.lookups if isinstance(value := values.get(name), str))
        if size > _LARGE:  # no template's fault: the other rows may be fine
            raise FallenError(f"{error.detail} (the row's texts have {size:,} characters)") from error
        raise
    except BadInput as error:
        raise FallenError(error.detail) from error


def messages_of(column: str, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Copies of the messages in a column; none where it is not there. Raises `FallenError` for anything else."""
    found = columns.get(column) or ()
    if not isinstance(found, list | tuple) or not all(
        isinstance(message, Mapping) and isinstance(message.get("role"), str) for message in found
    ):
        raise FallenError(f"{column} holds no messages")
    return [dict(message) for message in found]


def require_question(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise `FallenError` when no user's turn says anything."""
    if not any(_says_something(message.get("content")) for message in messages if message.get("role") == "user"):
        raise FallenError("the prompt is empty")


def _says_something(content: Any) -> bool:
    if isinstance(content, list):  # parts: an image says something without a text
        return any(isinstance(part, dict) and bool(str(part.get("text", "image")).strip()) for part in content)
    return bool(str(content or "").strip())


def entries_of(name: str, columns: Mapping[str, Any], values: Mapping[str, Any]) -> list[Any]:
    """The entries of a list column, or of a parameter or text with one a line. Raises `FallenError` for none."""
    found = columns[name] if name in columns else values.get(name, "")
    if isinstance(found, str) and found.lstrip().startswith("["):  # a list inside a JSON answer comes as its text
        found = _read(found)
    entries = list(found) if isinstance(found, list | tuple) else [line.strip() for line in str(found).splitlines()]
    kept = [entry for entry in entries if entry not in ("", None)]
    if not kept:
        raise FallenError(f"{name} is empty")
    return kept


def _read(text: str) -> Any:
    """What a JSON text holds; the text itself if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def choices_of(step: SampleStep | ParseStep, columns: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[str, ...]:
    """The answers that a step allows; none when it allows any."""
    if step.choices_from:
        return tuple(str(entry) for entry in entries_of(step.choices_from, columns, values))
    return step.choices


def bind_parse(
    step: ParseStep, values: Mapping[str, Any], where: str, *, index: int = 0, pools: Pools | None = None
) -> Executor:
    """Split an answer into columns; one that does not parse falls, with the reason."""
    del where, index, pools
    parse = PARSERS[step.format]

    def execute(passage: Passage) -> None:
        finished = passage.finish_reason != "length"
        answer = str(passage.columns.get(step.source, ""))
        try:
            if step.format == "choice":
                found = parse(answer, choices_of(step, passage.columns, values), finished)
                passage.columns[step.into[0]] = found["choice"]
            else:
                passage.columns.update(parse(answer, step.into, finished))
        except UnparsableError as error:
            raise FallenError(f"{error}{'' if finished else ' (it was cut off by the token limit)'}") from error

    return execute


def bind_expand(
    step: ExpandStep, values: Mapping[str, Any], where: str, *, index: int = 0, pools: Pools | None = None
) -> Executor:
    """One row for each entry."""
    del where, pools

    def execute(passage: Passage) -> list[Passage]:
        entries = entries_of(step.source, passage.columns, values)
        kept = entries[: step.at_most or None]
        return [_entry_row(step, passage.split(index, number), entry) for number, entry in enumerate(kept)]

    return execute


def _entry_row(step: ExpandStep, row: Passage, entry: Any) -> Passage:
    row.columns[step.into] = entry
    entry = _read(entry) if step.fields and isinstance(entry, str) else entry
    for name in step.fields:
        value = entry.get(name) if isinstance(entry, Mapping) else None
        if value is None:
            row.fallen = f"an entry has no {name}"
        row.columns[name] = value if isinstance(value, str | list) else json.dumps(value, ensure_ascii=False)
    return row


def bind_chunk(
    step: ChunkStep, values: Mapping[str, Any], where: str, *, index: int = 0, pools: Pools | None = None
) -> Executor:
    """One row for each passage of a document or text; where it stands is kept with the row."""
    del values, where, pools

    def execute(passage: Passage) -> list[Passage]:
        rows = []
        for number, chunk in enumerate(_cut(passage.columns.get(step.source), step)):
            row = passage.split(index, number)
            row.columns |= {step.into: chunk.text, "heading": chunk.heading, "start": chunk.start, "end": chunk.end}
            row.place = {
                "passage": chunk.text,
                "source": chunk.source or str(passage.columns.get("path", "")),
                "heading": chunk.heading,
                "start": chunk.start,
                "end": chunk.end,
            }
            rows.append(row)
        if not rows:
            raise FallenError("it holds no text")
        return rows

    return execute


def _cut(source: Any, step: ChunkStep) -> Sequence[Chunk]:
    """The passages of a document, or of a text that stands in a column."""
    from kdstudio.elicitation.documents import Document, Part, chunks

    if not isinstance(source, Document):
        text = str(source or "")
        source = Document("", "", text, (Part(0, len(text), "", 0),))
    return chunks(source, step.words, step.overlap)[: step.at_most or None]


def bind_draw(
    step: DrawStep, values: Mapping[str, Any], where: str, *, index: int = 0, pools: Pools | None = None
) -> Executor:
    """Rows of the project, or of earlier rounds, as a column."""
    del values, where
    deck = (pools or Pools()).deck(index, step)

    def execute(passage: Passage) -> None:
        found = deck.draw(f"{passage.key}:{index}", (passage.prompt_id, passage.prompt))
        if len(found) < step.minimum:
            raise FallenError(f"only {len(found)} rows to draw from, {step.minimum} are needed")
        passage.columns[step.into] = found

    return execute


BINDERS: dict[type[Params], Callable[..., Executor]] = {
    PromptStep: bind_prompt,
    ParseStep: bind_parse,
    DrawStep: bind_draw,
    ExpandStep: bind_expand,
    FilterStep: bind_filter,
    DeduplicateStep: bind_deduplicate,
    ChunkStep: bind_chunk,
}
ASKING: tuple[type[Params], ...] = (SampleStep, ScoreStep, RankStep, ExecuteStep)
COMPANY: tuple[type[Params], ...] = (VoteStep,)
ENDING: tuple[type[Params], ...] = (EmitStep, LoopStep)
