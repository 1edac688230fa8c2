"""A project with prompts, and runs of it that tests can begin, break off and continue in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdstudio.elicitation import job as elicitation
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.child import Job
from kdstudio.jobs.events import Answer, Dropped, Event, Line, Row, Warned
from kdstudio.jobs.journal import read_journal
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import NewPrompt, Project
from kdstudio.recipe import ElicitationRecipe, find_elicitation_recipe, override, parse_recipe, recipe_hash


class KilledError(BaseException):
    """The process is gone: nothing of ours may catch it."""


def recipe_of(steps: str) -> ElicitationRecipe:
    """A recipe from its `[[step]]` tables."""
    return parse_recipe(f'version = 1\n[recipe]\nid = "mine"\ntitle = "Mine"\n{steps}', ElicitationRecipe)


def new_project(folder: Path, prompts: Sequence[str]) -> Project:
    """A project with one prompt for each text, in this order."""
    project = Project.create(folder / "p")
    project.rows.add_prompts(NewPrompt([{"role": "user", "content": text}]) for text in prompts)
    return project


def new_run(
    project: Project,
    script: dict[str, Any] | None = None,
    recipe: ElicitationRecipe | str = "answer",
    teacher: TeacherSpec | None = None,
    **parameters: Any,
) -> Path:
    """Enter an elicitation of the project; returns its run folder. `recipe` may name a shipped one."""
    chosen = override(find_elicitation_recipe(recipe), []) if isinstance(recipe, str) else recipe
    teacher = teacher or TeacherSpec("script", "scripted", options={"script": script or {}})
    described = {
        "recipe": chosen.model_dump(mode="json"),
        "recipe_hash": recipe_hash(chosen),
        "teacher": asdict(teacher),
        "status": "any",
        **parameters,
    }
    run_id = project.runs.add("elicit", "Ask", described)
    folder = project.runs_folder / run_id
    run_files.write_job(folder, run_files.JobFile("elicit", described))
    return folder


def attempt(folder: Path, *, kill_at: int = 0, after_writing: bool = True, **secrets: str) -> dict[str, Any]:
    """Run the job in this process; the `kill_at`-th event is the last it ever does (before or after writing it)."""
    job = Job(folder, secrets)
    emit, count = job.emit, 0

    def counted(event: Event, *, durable: bool = False) -> None:
        nonlocal count
        count += 1
        if count == kill_at and not after_writing:
            raise KilledError
        emit(event, durable=durable)
        if count == kill_at:
            raise KilledError

    job.emit = counted  # type: ignore[method-assign]
    return finish(job)


def finish(job: Job) -> dict[str, Any]:
    """Run a job function in this process and close its journal, however it ends."""
    try:
        return elicitation.run(job)
    finally:
        job._journal.close()


def lines(folder: Path) -> list[Line]:
    """The run's journal."""
    return list(read_journal(folder))


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows that were written, by key. A row that was written twice is here twice."""
    found = [line.event.row for line in lines(folder) if isinstance(line.event, Row)]
    return sorted(found, key=lambda row: str(row["key"]))


def drops(folder: Path) -> list[tuple[int, str, str]]:
    """What fell: (prompt, step, reason), sorted."""
    events = [line.event for line in lines(folder)]
    return sorted((item.prompt, item.step, item.reason) for item in events if isinstance(item, Dropped))


def asked(folder: Path) -> list[str]:
    """The keys of all journalled answers, in order."""
    return [line.event.key for line in lines(folder) if isinstance(line.event, Answer)]


def warnings(folder: Path) -> list[Warned]:
    """What the person was told."""
    return [line.event for line in lines(folder) if isinstance(line.event, Warned)]
