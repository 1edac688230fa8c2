"""What a chain of rounds does, frozen at its first start: recipes, speakers, and the rows that measure it.

The same command again finds the plan that is not done yet, and goes on with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdstudio import files
from kdstudio.errors import BadInput, KnownError
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.recipe import (
    ElicitationRecipe,
    RoundsRecipe,
    TrainingRecipe,
    find_elicitation_recipe,
    find_training_recipe,
    override,
    validate_recipe,
)
from kdstudio.rounds.rows import RowTable, held_out_rows
from kdstudio.rounds.speakers import as_table, starting_speaker, student_table

FOLDER_NAME, PLAN_NAME, RESULT_NAME = "rounds", "plan.json", "result.json"


@dataclass(frozen=True)
class Changed:
    """The recipes that a person changed for these rounds, in place of those that the rounds name."""

    elicitation: ElicitationRecipe | None = None
    training: TrainingRecipe | None = None


@dataclass(frozen=True)
class Plan:
    """A chain by its `id`, which is its folder's name. `start`: the model that the first student is, if it is one."""

    folder: Path
    recipe: RoundsRecipe
    elicitation: ElicitationRecipe
    training: TrainingRecipe
    teacher: dict[str, Any]
    judge: dict[str, Any] | None
    start: TeacherSpec | None
    held_out: list[RowTable]
    seed: int

    @property
    def id(self) -> str:
        """Its name among the project's rounds."""
        return self.folder.name

    @property
    def held_out_prompts(self) -> frozenset[int]:
        """Prompts that no round asks or trains on."""
        return frozenset(int(row["prompt_id"]) for row in self.held_out)

    @property
    def elicits_from_teacher(self) -> bool:
        """Whether the teacher itself is asked anything in a round."""
        named = self.recipe.elicit.teacher == "student"
        return not named and any(getattr(step, "speaker", "") == "teacher" for step in self.elicitation.step)


def planned(
    project: Project,
    recipe: RoundsRecipe,
    teacher: Mapping[str, Any],
    *,
    judge: Mapping[str, Any] | None = None,
    student: str = "",
    seed: int = 0,
    changed: Changed | None = None,
) -> Plan:
    """The plan of this work: the one that was broken off, or a new one.

    Raises `BadInput` when a recipe or the student cannot be found, or there is nothing to measure on.
    """
    folder, work = _described(project, recipe, teacher, judge, student, seed, changed or Changed())
    if not (folder / PLAN_NAME).is_file():
        work["held_out"] = _held_out(project, work)
        files.write_text(folder / PLAN_NAME, json.dumps(work))
    return read_plan(folder)


def foreseen(
    project: Project,
    recipe: RoundsRecipe,
    teacher: Mapping[str, Any],
    *,
    judge: Mapping[str, Any] | None = None,
    student: str = "",
    seed: int = 0,
    changed: Changed | None = None,
) -> Plan:
    """What `planned` would come to, without a trace in the project. Raises as it does."""
    folder, work = _described(project, recipe, teacher, judge, student, seed, changed or Changed())
    if (folder / PLAN_NAME).is_file():
        return read_plan(folder)
    return _plan(folder, {**work, "held_out": _held_out(project, work)})


def _described(
    project: Project,
    recipe: RoundsRecipe,
    teacher: Mapping[str, Any],
    judge: Mapping[str, Any] | None,
    student: str,
    seed: int,
    changed: Changed,
) -> tuple[Path, dict[str, Any]]:
    """Where the plan belongs, and all of it but the held-out rows."""
    elicitation = changed.elicitation or override(find_elicitation_recipe(recipe.elicit.recipe), recipe.elicit.set)
    training = changed.training or override(find_training_recipe(recipe.train.recipe), recipe.train.set)
    training = training.model_copy(update={"student": student_table(project, training.student, student)})
    start = starting_speaker(training.student, teacher)
    work: dict[str, Any] = {
        "version": 1,
        "recipe": recipe.model_dump(mode="json"),
        "elicitation": elicitation.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "teacher": dict(teacher),
        "judge": dict(judge) if judge else None,
        "start": as_table(start) if start else None,
        "seed": seed,
    }
    digest = hashlib.blake2b(json.dumps(work, sort_keys=True).encode(), digest_size=6).hexdigest()
    parent, number = project.folder / FOLDER_NAME, 1
    while (parent / f"{digest}-{number}" / RESULT_NAME).is_file():
        number += 1
    return parent / f"{digest}-{number}", work


def _held_out(project: Project, work: Mapping[str, Any]) -> list[RowTable]:
    recipe, training = validate_recipe(work["recipe"], RoundsRecipe), validate_recipe(work["training"], TrainingRecipe)
    return held_out_rows(project, recipe, training, int(work["seed"]))


def read_plan(folder: Path) -> Plan:
    """The plan in a folder. Raises `KnownError` when it cannot be read."""
    try:
        return _plan(folder, json.loads((folder / PLAN_NAME).read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError, BadInput) as error:
        hint = f"Remove the folder {folder} to begin these rounds anew."
        raise KnownError("The rounds' plan cannot be read", f"{folder / PLAN_NAME}: {error}.", hint) from error


def _plan(folder: Path, kept: Mapping[str, Any]) -> Plan:
    return Plan(
        folder,
        validate_recipe(kept["recipe"], RoundsRecipe),
        validate_recipe(kept["elicitation"], ElicitationRecipe),
        validate_recipe(kept["training"], TrainingRecipe),
        kept["teacher"],
        kept["judge"],
        TeacherSpec(**kept["start"]) if kept["start"] else None,
        kept["held_out"],
        int(kept["seed"]),
    )
