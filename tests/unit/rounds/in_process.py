"""A chain of rounds whose jobs, the real ones, run in this process and can be killed at any event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdstudio.jobs.child import Job, job_function
from kdstudio.jobs.events import Event
from kdstudio.jobs.supervisor import Supervisor
from kdstudio.project import Project
from kdstudio.recipe import RoundsRecipe, load_recipe
from kdstudio.rounds.chain import Chain, Part
from kdstudio.rounds.plan import Plan, planned
from tests.unit.distillation.setting import forget_device
from tests.unit.distillation.setting import teacher as tiny_teacher

Moment = tuple[int, Part, int]
"""(round, part, event): with event 0 the run was entered and nothing more."""


class KilledError(BaseException):
    """The process is gone: nothing of ours may catch it."""


def plan_of(project: Project, recipe: Path, **options: Any) -> Plan:
    """The plan that the command line would make."""
    return planned(project, load_recipe(recipe, RoundsRecipe), teacher_table(), **options)


def teacher_table() -> dict[str, Any]:
    """The teacher `tiny` as a whole spec."""
    return {**tiny_teacher(), "url": "", "model": "", "key_name": "", "options": {}}


def go(
    project: Project,
    recipe: Path,
    *,
    kill: Moment | None = None,
    teacher: dict[str, Any] | None = None,
    reason: str = "",
) -> dict[str, Any]:
    """Begin the rounds, or go on with them, until they end or are killed at a moment."""

    plan = planned(project, load_recipe(recipe, RoundsRecipe), teacher or teacher_table())
    return lead(project, plan, kill=kill, reason=reason)


def lead(project: Project, plan: Plan, *, kill: Moment | None = None, reason: str = "") -> dict[str, Any]:
    """Go through the rounds of a plan until they end or are killed at a moment."""

    def finish(run_id: str, number: int, part: Part) -> None:
        forget_device()
        at = kill[2] if kill is not None and kill[:2] == (number, part) else -1
        if at == 0:
            raise KilledError
        job = Job(project.runs_folder / run_id)
        _kill_at(job, at)
        try:
            job.run(job_function(job.kind))
        finally:
            job._ended.set()
            job._journal.close()
        Supervisor(project).poll()

    return Chain(project, plan, finish, reason=reason).run()


def _kill_at(job: Job, at: int) -> None:
    emit, count = job.emit, 0

    def counted(event: Event, *, durable: bool = False) -> None:
        nonlocal count
        count += 1
        emit(event, durable=durable)
        if count == at:
            raise KilledError

    job.emit = counted  # type: ignore[method-assign]
