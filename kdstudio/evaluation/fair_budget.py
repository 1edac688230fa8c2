"""The rows that all runs of a comparison share, and how many steps give each of them the same number of tokens.

Both are found with the trainer's own functions: the same rows, the same split, the same batches.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdstudio.distillation.batches import BatchPlan
from kdstudio.distillation.examples import encode_rows
from kdstudio.distillation.frozen_rows import ROWS_NAME, frozen_rows
from kdstudio.distillation.planning import planned_steps
from kdstudio.distillation.rows import TrainingRows, split_rows
from kdstudio.errors import BadInput, BugError
from kdstudio.evaluation.fair_recipes import writes_answers
from kdstudio.recipe import TrainingRecipe
from kdstudio.students.build import source_config
from kdstudio.students.save import open_tokenizer

HELD_OUT_TAG = "kdstudio:held_out"
"""Put on the rows that a comparison holds out, so that the split does not change with a run's seed."""
FIRST_SEED = 0


def rows_text(project_folder: Path, recipe: TrainingRecipe, teacher: Mapping[str, Any]) -> str:
    """The project's rows as `recipe` takes them, as the lines of a run's `rows.jsonl`.

    Held-out rows are tagged (see `HELD_OUT_TAG`) unless the recipe names a tag itself. Raises `BadInput` when there is
    no row to learn from, or none is held out.
    """
    with tempfile.TemporaryDirectory() as folder:
        frozen_rows(Path(folder), project_folder, recipe.data, preferences=False)
        lines = (Path(folder) / ROWS_NAME).read_text("utf-8").splitlines()
        rows = _split(Path(folder), project_folder, recipe, teacher)
    held = {rows.examples[row].prompt_id for row in rows.held_out}
    if not held:
        raise BadInput(
            "Nothing is held out",
            "A comparison measures on rows that no run trained on.",
            "Set data.held_out or data.held_out_tag in the recipe.",
        )
    if not recipe.data.held_out_tag:
        lines = [_tagged(line, held) for line in lines]
    return "".join(f"{line}\n" for line in lines)


def _tagged(line: str, held: set[int]) -> str:
    row = json.loads(line)
    return json.dumps({**row, "tags": [*row["tags"], HELD_OUT_TAG]}) if row["prompt_id"] in held else line


def pinned(recipe: TrainingRecipe) -> TrainingRecipe:
    """`recipe` with the split that `rows_text` tagged, whatever its seed."""
    tag = recipe.data.held_out_tag or HELD_OUT_TAG
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"held_out_tag": tag})})


def _split(rows_folder: Path, project_folder: Path, recipe: TrainingRecipe, teacher: Mapping[str, Any]) -> TrainingRows:
    """The rows frozen in `rows_folder`, in tokens of the student, divided as the trainer will."""
    sources = frozen_rows(rows_folder, project_folder, recipe.data, preferences=False)
    path = recipe.student.path or str(teacher.get("path") or "")
    if not path:
        raise BadInput(
            "The student has no source",
            "The recipes name no model file or folder, and their teacher is not a local one.",
            "Set student.path to a GGUF file or to a Hugging Face folder.",
        )
    source = Path(path).expanduser()
    config = source_config(source)
    limit = min(recipe.data.maximum_tokens, config.get("max_position_embeddings", recipe.data.maximum_tokens))
    examples, _ = encode_rows(open_tokenizer(source, config["vocab_size"]), sources, limit)
    return split_rows(examples, recipe.data, FIRST_SEED)


@dataclass(frozen=True)
class Plan:
    """How long one run is: `steps`, the `tokens` they train on, and the tokens of its `largest` step."""

    steps: int
    tokens: int
    largest: int


class Budget:
    """Steps and tokens of recipes over the rows frozen in a comparison's folder."""

    def __init__(
        self, rows_folder: Path, project_folder: Path, recipe: TrainingRecipe, teacher: Mapping[str, Any]
    ) -> None:
        self._rows = _split(rows_folder, project_folder, recipe, teacher)

    def own(self, recipe: TrainingRecipe) -> int:
        """The tokens that a recipe trains on by itself, with the first seed."""
        steps = planned_steps(recipe, len(self._rows.units))
        return sum(itertools.islice(self._steps(recipe, FIRST_SEED), steps))

    def plan(self, recipe: TrainingRecipe, seed: int, tokens: int) -> Plan:
        """The number of steps, at least one, whose tokens come nearest to `tokens`: nearer than half of a step."""
        total, largest = 0, 0
        for steps, step in enumerate(self._steps(recipe, seed)):
            if steps and total + step - tokens > tokens - total:
                return Plan(steps, total, largest)
            total, largest = total + step, max(largest, step)
        raise BugError("steps have no end")

    def _steps(self, recipe: TrainingRecipe, seed: int) -> Iterator[int]:
        """Tokens of each step, without end. Own answers are expected to be as long as the stored ones."""
        run = recipe.run
        lengths = [self._rows.tokens(unit) for unit in self._rows.units]
        plan = BatchPlan(lengths, rows_per_batch=run.rows_per_batch, accumulation=run.accumulation, seed=seed)
        expected = [self._expected(recipe, unit[0]) for unit in self._rows.units]
        for step in itertools.count():
            yield round(sum(expected[unit] for units in plan.step(step) for unit in units))

    def _expected(self, recipe: TrainingRecipe, row: int) -> float:
        example = self._rows.examples[row]
        if not writes_answers(recipe):
            return example.tokens
        rollout = recipe.rollout
        share = rollout.share or 1.0
        written = rollout.samples * (len(example.prompt_ids) + min(len(example.response_ids), rollout.max_tokens))
        return share * written + (1 - share) * example.tokens
