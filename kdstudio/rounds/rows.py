"""The rows of rounds: those that are held out from all of them, and those that one round trains on.

Both are written into a training run's folder before it starts, in the form that `distillation.frozen_rows` reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kdstudio.catalogue.rounds import AcceptTable
from kdstudio.errors import BadInput
from kdstudio.project import Project
from kdstudio.project.content import Prompt, Response
from kdstudio.recipe import RoundsRecipe, TrainingRecipe

ROWS_NAME = "rows.jsonl"
HELD_OUT_TAG = "held-out-of-rounds"
RowTable = dict[str, Any]
"""The fields of a `SourceRow`."""


def held_out_rows(project: Project, recipe: RoundsRecipe, training: TrainingRecipe, seed: int) -> list[RowTable]:
    """What every round is measured on. Raises `BadInput` when the project has nothing to measure on."""
    table = recipe.measure
    found = _measurable(project, training, references=recipe.stop.figure == "accuracy")
    if table.held_out_tag:
        chosen = [row for row in found.values() if table.held_out_tag in row["tags"]]
    else:
        chosen = list(found.values())
    chosen.sort(key=lambda row: _chance(seed, row["prompt_id"]))
    count = len(chosen) if table.held_out_tag else round(table.held_out * len(chosen))
    if not chosen:
        raise _nothing(recipe)
    kept = chosen[: min(max(1, count), table.maximum_rows)]
    return [{**row, "tags": [*row["tags"], HELD_OUT_TAG]} for row in sorted(kept, key=lambda row: row["prompt_id"])]


def _nothing(recipe: RoundsRecipe) -> BadInput:
    tag = f" with the tag {recipe.measure.held_out_tag!r}" if recipe.measure.held_out_tag else ""
    if recipe.stop.figure == "accuracy":
        what, hint = "prompt with a reference", "Import prompts with references, or watch another figure (stop.figure)."
    else:
        what, hint = "accepted response", "Accept some responses, or set stop.figure to accuracy and have references."
    return BadInput("There is nothing to measure the rounds on", f"The project has no {what}{tag}.", hint)


def _measurable(project: Project, training: TrainingRecipe, *, references: bool) -> dict[int, RowTable]:
    """By prompt: its last accepted response; with `references` only prompts that have one, which also stands in."""
    found: dict[int, RowTable] = {}
    for prompt, response in project.rows.pairs(status="accepted"):
        if prompt.reference or not references:
            found[prompt.id] = _row(prompt, response, training)
    if references:
        for prompt in project.rows.prompts(status="any"):
            if prompt.reference and prompt.status != "rejected" and prompt.id not in found:
                found[prompt.id] = _plain(prompt, -prompt.id, prompt.reference)
    return found


def _chance(seed: int, prompt_id: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{prompt_id}".encode(), digest_size=8).digest()


def training_rows(
    project: Project,
    recipe: RoundsRecipe,
    training: TrainingRecipe,
    runs: Collection[str],
    held_out: Collection[int],
    *,
    preferences: bool,
) -> list[RowTable]:
    """What these elicitation runs made and the recipe accepts; nothing of a held-out prompt."""
    read = _preferences if preferences else _responses
    excluded = set(training.data.exclude_tags)
    rows = list(read(project, recipe, training, runs))
    return [row for row in rows if row["prompt_id"] not in held_out and not excluded & set(row["tags"])]


def _responses(
    project: Project, recipe: RoundsRecipe, training: TrainingRecipe, runs: Collection[str]
) -> Iterator[RowTable]:
    seen: set[tuple[int, str, str]] = set()
    for prompt, response in project.rows.pairs(status="any"):
        own = response.run in runs and response.status != "rejected" and _accepted(recipe.accept, response.extras)
        if not own and not (recipe.train.with_accepted and response.status == "accepted"):
            continue
        if (same := (prompt.id, response.text, response.reasoning)) not in seen:
            seen.add(same)
            yield _row(prompt, response, training)


def _preferences(
    project: Project, recipe: RoundsRecipe, training: TrainingRecipe, runs: Collection[str]
) -> Iterator[RowTable]:
    del training
    for row in project.rows.preferences(status="any"):
        own = row.run in runs and row.status != "rejected" and _accepted(recipe.accept, row.extras)
        usable = len(set(row.scores)) > 1 and all(text.strip() for text in row.candidates)
        if not usable or (not own and not (recipe.train.with_accepted and row.status == "accepted")):
            continue
        prompt = project.rows.prompt(row.prompt_id)
        if prompt.status != "rejected":
            for text, score in zip(row.candidates, row.scores, strict=True):
                yield {**_plain(prompt, row.id, text), "group": row.id, "score": score}


def _accepted(table: AcceptTable, extras: Mapping[str, Any]) -> bool:
    """Whether a row has the score that is asked for; of several numbers the best one counts."""
    if not table.column:
        return True
    value = extras.get(table.column)
    numbers = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int | float)]
    return bool(numbers) and max(numbers) >= table.minimum


def _row(prompt: Prompt, response: Response, training: TrainingRecipe) -> RowTable:
    reasoning = response.reasoning if training.data.reasoning == "think_tags" else ""
    return {**_plain(prompt, response.id, response.text), "reasoning": reasoning}


def _plain(prompt: Prompt, row_id: int, text: str) -> RowTable:
    return {
        "prompt_id": prompt.id,
        "response_id": row_id,
        "messages": [dict(message) for message in prompt.messages],
        "text": text,
        "tags": list(prompt.tags),
        "reference": prompt.reference,
    }
