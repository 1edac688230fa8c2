"""The rows that a run writes: responses, prompts, preferences and labels, each with where it came from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdstudio.catalogue.columns import PROMPT_COLUMNS
from kdstudio.catalogue.steps import EmitStep, LoopStep
from kdstudio.elicitation.passage import FallenError, Passage, Written
from kdstudio.elicitation.steps import entries_of, messages_of
from kdstudio.elicitation.tool_rows import called, tools_for
from kdstudio.models.tool_calls import text_of
from kdstudio.project.content import last_user_text
from kdstudio.project.journal_rows import UnusableRowError, prompt_fingerprint

_MOST_TAG = 100  # characters


@dataclass(frozen=True)
class Provenance:
    """What all rows of a run share. `terms`: teacher -> the stamp of its terms of use."""

    teacher: str
    recipe_hash: str
    recipe: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    terms: Mapping[str, str] = field(default_factory=dict)

    def teacher_of(self, passage: Passage) -> str:
        """Who answered this row's questions."""
        return passage.teacher or self.teacher


def emit_row(step: EmitStep, passage: Passage, *, teacher: str, recipe_hash: str) -> dict[str, Any]:
    """The response row that the journal carries to the project. Raises `FallenError` when it has no text.

    Reasoning comes from the column that the recipe names, else from the teacher if it gave some apart.
    """
    text = _text(step.text, passage)
    message = (
        called(text, passage.columns.get(step.tool_calls), passage.columns.get("tools")) if step.tool_calls else {}
    )
    text = text_of(message) if message else text
    if not text.strip():
        raise FallenError(passage.rejected or "the response is empty")
    return {
        "prompt_id": passage.prompt_id,
        "text": text,
        **({"message": message} if message else {}),
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


def written(step: EmitStep, passage: Passage, key: str, origin: Provenance) -> Written:
    """What an emit step writes of a row. A prompt that is written becomes the row's own. Raises `FallenError`."""
    if step.kind != "prompt" and not passage.prompt and not passage.prompt_id:
        raise FallenError(passage.rejected or "there is no prompt that it belongs to")
    match step.kind:
        case "prompt":
            row = _prompt_row(step, passage, origin)
        case "preference":
            row = _preference_row(step, passage)
        case _:
            row = emit_row(step, passage, teacher=origin.teacher_of(passage), recipe_hash=origin.recipe_hash)
            if step.kind == "label":
                row |= _labelled(step, passage, str(row["text"]), origin.values)
            if extras := _extras(step, passage) | row.pop("extras", {}):
                row["extras"] = extras
    if step.kind != "prompt" and passage.prompt:
        row |= {"prompt_id": 0, "prompt": passage.prompt}
    if terms := origin.terms.get(origin.teacher_of(passage), ""):
        row["terms"] = terms
    row["key"] = key
    if step.kind == "prompt":
        _becomes_its_own(passage, row)
    return Written(row, "response" if step.kind == "label" else step.kind)


def _text(column: str, passage: Passage) -> str:
    value = passage.columns.get(column, "") if column else ""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)


def _extras(step: EmitStep, passage: Passage) -> dict[str, Any]:
    kept = {name: passage.columns[name] for name in step.extras if name in passage.columns}
    return kept | ({"passage": passage.place} if passage.place else {})


def _prompt_row(step: EmitStep, passage: Passage, origin: Provenance) -> dict[str, Any]:
    provenance = {
        "recipe": origin.recipe,
        "recipe_hash": origin.recipe_hash,
        "key": passage.key,
        "teacher": origin.teacher_of(passage),
        "seed": passage.seed,
        "sampling": passage.sampling,
        "prompt_tokens": passage.prompt_tokens,
        "tokens": passage.tokens,
        "parent": passage.prompt or passage.prompt_id,
        **({"passage": passage.place} if passage.place else {}),
    }
    kept = {name: passage.columns[name] for name in step.extras if name in passage.columns}
    messages = _messages(step, passage)
    kept |= tools_for(messages, passage.columns.get(step.tools) if step.tools else kept.get("tools"))
    return {
        "messages": messages,
        "tags": _tags(step, passage),
        "reference": _text(step.reference, passage),
        "status": "rejected" if passage.rejected else step.status,
        "reason": passage.rejected,
        "source": "teacher",
        "extras": {**kept, "provenance": provenance},
    }


def _messages(step: EmitStep, passage: Passage) -> list[dict[str, Any]]:
    if step.messages:
        messages = messages_of(step.messages, passage.columns)
    else:
        text = _text(step.text, passage).strip()
        messages = [{"role": "user", "content": text}] if text else []
    system = _text(step.system, passage).strip()
    if not messages:
        raise FallenError(passage.rejected or "the prompt is empty")
    return [{"role": "system", "content": system}, *messages] if system else messages


def _tags(step: EmitStep, passage: Passage) -> list[str]:
    """The step's words; a column's name stands for what it holds. A tag is one word."""
    tags: list[str] = []
    named = [passage.columns.get(name, name) for name in step.tags]
    for value in [*named, *(passage.columns.get(name, "") for name in step.tags_from)]:
        entries = value if isinstance(value, list) else [value]
        if any(isinstance(entry, list | dict) for entry in entries):
            raise FallenError("a tag is no word but a list or an object")
        tags += ["_".join(str(entry).split()) for entry in entries]
    if any(len(tag) > _MOST_TAG for tag in tags):
        raise FallenError(f"a tag is longer than {_MOST_TAG} characters")
    return list(dict.fromkeys(tag for tag in tags if tag))


def _labelled(step: EmitStep, passage: Passage, text: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The label as the set spells it, and the set. Raises `FallenError` for one that is not in it."""
    labels = step.labels
    if step.labels_from:
        labels = tuple(str(entry) for entry in entries_of(step.labels_from, passage.columns, values))
    if not labels:
        return {"text": text.strip()}
    known = {label.strip().casefold(): label for label in labels}
    found = known.get(text.strip().strip(".\"'`").casefold())
    if found is None and not passage.rejected:
        raise FallenError("it is none of the labels")
    return {"text": found or text, "extras": {"labels": list(labels)}}


def _preference_row(step: EmitStep, passage: Passage) -> dict[str, Any]:
    if step.chosen or step.rejected:
        candidates, scores = [_text(step.chosen, passage), _text(step.rejected, passage)], [1.0, 0.0]
        if candidates[0].strip() == candidates[1].strip():
            raise FallenError(passage.rejected or "both answers are the same")
    else:
        candidates = [str(entry) for entry in _list(step.candidates, passage)]
        scores = [_score(entry) for entry in _list(step.scores, passage)]
    if len(candidates) < 2 or len(candidates) != len(scores) or not all(entry.strip() for entry in candidates):
        raise FallenError(passage.rejected or "there are no two answers to prefer one of")
    if max(scores) == min(scores):
        raise FallenError(passage.rejected or "all are equally good")
    extras = _extras(step, passage)
    return {
        "prompt_id": passage.prompt_id,
        "candidates": candidates,
        "scores": scores,
        "status": "rejected" if passage.rejected else step.status,
        "reason": passage.rejected,
        "source": "teacher",
        **({"extras": extras} if extras else {}),
    }


def _list(column: str, passage: Passage) -> list[Any]:
    value = passage.columns.get(column) or []
    if not isinstance(value, list):
        raise FallenError(passage.rejected or f"{column} is no list")
    return value


def _score(value: Any) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise FallenError("a score is no number")
    return score


def _becomes_its_own(passage: Passage, row: Mapping[str, Any]) -> None:
    try:
        passage.prompt = prompt_fingerprint(row)
    except UnusableRowError as error:
        raise FallenError(str(error)) from error
    passage.columns |= {
        "messages": row["messages"],
        "request": row["messages"],
        "prompt": last_user_text(row["messages"]),
        "reference": row["reference"],
        "tags": row["tags"],
        "tools": row["extras"].get("tools", []),
    }


def made_row(step: LoopStep, passage: Passage) -> dict[str, Any]:
    """What the next round, and draws, see of a row that this round made."""
    columns = {name: passage.columns[name] for name in PROMPT_COLUMNS if name in passage.columns}
    text = str(passage.columns.get(step.column, ""))
    response = str(passage.columns.get("response", ""))
    return {"response": response, **columns, "fingerprint": passage.prompt, "id": passage.prompt_id, "watched": text}
