"""The terms of use that a training run's rows carry, and the reasons that people gave for training on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdstudio.catalogue.objectives import OBJECTIVES, Signal
from kdstudio.models.spec import TeacherSpec
from kdstudio.models.terms_stamp import terms_stamp
from kdstudio.models.terms_summary import (
    REASON,
    RESTRICTED_NAMES,
    TermsSummary,
    covers,
    recorded,
    summary_of,
)
from kdstudio.project.content import Kind
from kdstudio.project.project import Project
from kdstudio.recipe import TrainingRecipe

_OPEN_STATES = ("starting", "running", "paused", "stopping", "not responding", "interrupted", "stopped", "failed")


def terms_of_rows(
    project: Project,
    *,
    kind: Kind = "response",
    status: str = "accepted",
    ids: Sequence[int] | None = None,
    teacher: Mapping[str, Any] | None = None,
) -> TermsSummary:
    """What a run on these rows would learn from, by terms, with counts.

    `ids` asks about these rows alone. `teacher` is the spec, as a dictionary, of one whose signals or weights take part
    too. A row from before rows were stamped counts under what its teacher states today. Reads every row's entry: call
    it beside the window, not in it.
    """
    known = {stored.spec.name: terms_stamp(stored.spec, stored.capabilities) for stored in project.teachers.list()}
    counted: list[tuple[list[str], str, int]] = [
        ([stamp or known.get(name, ""), prompt], name, number)
        for stamp, name, prompt, number in project.rows.terms(kind, status=status, ids=ids)
    ]
    if teacher and (stamp := _stamp_of(teacher, known)):
        counted.append(([stamp], str(teacher.get("name", "")), 0))
    return summary_of(counted)


def _stamp_of(teacher: Mapping[str, Any], known: Mapping[str, str]) -> str:
    name = str(teacher.get("name", ""))
    return known[name] if name in known else terms_stamp(TeacherSpec(**dict(teacher)))


def terms_of_training(project: Project, recipe: TrainingRecipe, teacher: Mapping[str, Any]) -> TermsSummary:
    """`terms_of_rows` of what this recipe would be trained on in this project."""
    kind: Kind = "preference" if reads_preferences(recipe) else "response"
    return terms_of_rows(project, kind=kind, status=recipe.data.status, teacher=teacher)


def reads_preferences(recipe: TrainingRecipe) -> bool:
    """Whether it learns from the project's preferences, not from its responses."""
    needs = {signal for table in recipe.objective for signal in OBJECTIVES[table.name].needs}
    own = recipe.rollout.share > 0 or recipe.rollout.replay != "off" or Signal.ROLLOUTS in needs
    return Signal.PREFERENCES in needs and not own


def recorded_terms(
    project: Project, parameters: Mapping[str, Any], summary: TermsSummary, reason: str
) -> dict[str, Any]:
    """What to add to a training job's parameters so that the reason is kept with the run; {} on free terms alone.

    Without a new reason, that of an unfinished run of the same recipe stands, so that the same work can go on. Raises
    `BadInput` when a reason is needed and none was given.
    """
    if summary.restricted and not reason.strip():
        for run in project.runs.list("train"):
            same = run.recipe_hash == parameters.get("recipe_hash") and run.state in _OPEN_STATES
            if same and covers(run.parameters, summary):
                return {name: run.parameters[name] for name in (REASON, RESTRICTED_NAMES)}
    return recorded(summary, reason)
