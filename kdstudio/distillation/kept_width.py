"""Which channels, neurons and heads a width-pruned run keeps: chosen at its first start, and the same ever after."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from kdstudio import files
from kdstudio.distillation.randomness import stream_seed
from kdstudio.distillation.reporter import Reporter
from kdstudio.distillation.rows import TrainingRows
from kdstudio.errors import KnownError
from kdstudio.recipe import TrainingRecipe
from kdstudio.students.build import Student, narrowed
from kdstudio.students.narrow import ROWS, Kept, wanted_width

CHOICE_NAME = "kept_width.json"


def narrowed_student(job: Reporter, recipe: TrainingRecipe, student: Student, rows: TrainingRows) -> Student:
    """The student at the recipe's width: the busiest parts on training rows, an even choice of them.

    The choice is kept in the run's folder: what a GPU computes differs in its last digits, and a run that goes on must
    find its weights where they were. Raises `KnownError` where that file is damaged.
    """
    if wanted_width(recipe.student, student.config) is None:
        return student
    path, seed = job.run_folder / CHOICE_NAME, stream_seed(recipe.run.seed, "student")
    chosen = [rows.examples[place * rows.count // min(ROWS, rows.count)] for place in range(min(ROWS, rows.count))]
    ids = [[*example.prompt_ids.tolist(), *example.response_ids.tolist()] for example in chosen]
    before = _before(path)
    made, kept = narrowed(student, recipe.student, before, ids, seed)
    if before is None:
        files.write_text(path, json.dumps(asdict(kept)))
    return made


def _before(path: Path) -> Kept | None:
    if not path.exists():
        return None
    try:
        return Kept(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise KnownError(
            "What the student keeps cannot be read",
            f"{path}: {error}",
            "Start the training anew: this run cannot go on.",
        ) from error
