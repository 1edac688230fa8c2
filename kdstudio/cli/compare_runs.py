"""The runs of a comparison: one after the other, ordinary training runs of the project, each done once.

Its rows are frozen at the first start. A comparison that was broken off goes on with them, run by run, and one that is
done is done again only when the rows have changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdstudio import files
from kdstudio.catalogue.training import RunTable
from kdstudio.cli.output import counted, follow, say
from kdstudio.cli.run_verbs import training_parameters
from kdstudio.errors import KnownError
from kdstudio.evaluation.comparison_report import FOLDER_NAME, ROWS_NAME, Side, make_report, report_path
from kdstudio.evaluation.fair_recipes import Entry, fair_entries, work_of
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.events import now
from kdstudio.jobs.supervisor import Supervisor
from kdstudio.project import Project, Run
from kdstudio.recipe import TrainingRecipe, recipe_hash

Finish = Callable[[Project, str, Mapping[str, str]], None]
"""Starts or continues a run of the project, with its secrets, and returns when it is over."""


def compare_recipes(
    project: Project,
    recipes: Sequence[TrainingRecipe],
    *,
    seeds: int,
    limit_tokens: int = 0,
    finish: Finish | None = None,
) -> dict[str, Any]:
    """Train every recipe and the baseline with each seed on the same rows and tokens; returns the report.

    Raises `BadInput` when the comparison would not be fair, `KnownError` when a run failed or was stopped.
    """
    entries = fair_entries(recipes, lambda recipe: dict(training_parameters(project, recipe)[0]["teacher"]))
    parameters, keys = training_parameters(project, entries[0].recipe)
    frozen = _frozen(project, entries, parameters["teacher"], limit_tokens)
    planned, budget, step = _planned(project, frozen, entries, parameters["teacher"], seeds, limit_tokens)
    say(f"Comparing {counted(len(entries), 'recipe')}, {counted(seeds, 'seed')} each, on {budget:,} tokens a run")
    done: dict[str, list[Run]] = {}
    for number, one in enumerate(planned, start=1):
        say(f"{number} of {len(planned)}: {one.entry.name}, seed {one.recipe.run.seed}")
        run_id = _run_of(project, frozen, one, parameters["teacher"], tuple(keys))
        if project.runs.get(run_id).state != "finished":
            (finish or finish_run)(project, run_id, keys)
        run = project.runs.get(run_id)
        if run.state != "finished":
            hint = "Run the same command again: it goes on where it stopped."
            raise KnownError("The comparison was stopped", f"{number - 1} of {len(planned)} runs are done.", hint)
        done.setdefault(one.entry.name, []).append(run)
    sides = [Side(entry.name, tuple(done[entry.name]), entry.baseline) for entry in entries]
    return make_report(frozen.name, project.folder, sides, budget=budget, step=step)


def finish_run(project: Project, run_id: str, keys: Mapping[str, str]) -> None:
    """Start or continue a run and follow it on stderr to its end. Raises with the job's words when it failed."""
    supervisor = Supervisor(project)
    supervisor.resume(run_id, secrets=dict(keys), attached=True)
    follow(supervisor, project, run_id, as_json=False)


@dataclass(frozen=True)
class _Planned:
    entry: Entry
    recipe: TrainingRecipe


def _planned(
    project: Project, frozen: Path, entries: Sequence[Entry], teacher: Mapping[str, Any], seeds: int, limit: int
) -> tuple[list[_Planned], int, int]:
    """Every run in order, all recipes of a seed before the next; the budget in tokens, and the largest step's."""
    from kdstudio.evaluation.fair_budget import Budget, pinned  # reads tokenizers: not needed for picked runs

    fixed = [pinned(entry.recipe) for entry in entries]
    budget = Budget(frozen, project.folder, fixed[0], teacher)
    tokens = min(budget.own(recipe) for recipe in fixed)
    tokens = min(tokens, limit) if limit else tokens
    planned, largest = [], 0
    for seed in range(seeds):
        for entry, recipe in zip(entries, fixed, strict=True):
            plan = budget.plan(recipe, seed, tokens)
            steps = {"steps": plan.steps, "epochs": RunTable().epochs}  # epochs, now without a meaning, alike for all
            run = recipe.run.model_copy(update={"seed": seed, **steps})
            planned.append(_Planned(entry, recipe.model_copy(update={"run": run})))
            largest = max(largest, plan.largest)
    return planned, tokens, largest


def _frozen(project: Project, entries: Sequence[Entry], teacher: Mapping[str, Any], limit: int) -> Path:
    """The comparison's folder with its rows: that of one which was broken off, or a new one. Its name is the id."""
    from kdstudio.evaluation.fair_budget import rows_text

    work = [work_of(entry.recipe.model_dump(mode="json")) for entry in entries]
    plan = _digest(json.dumps([work, dict(teacher), limit], sort_keys=True))
    parent = project.folder / FOLDER_NAME
    broken = [
        path.parent
        for path in parent.glob(f"{plan}-*/{ROWS_NAME}")
        if not report_path(project.folder, path.parent.name).exists()
    ]
    if broken:
        return max(broken, key=lambda path: path.stat().st_mtime)
    text = rows_text(project.folder, entries[0].recipe, teacher)
    folder = parent / f"{plan}-{_digest(text)}"
    files.write_text(folder / ROWS_NAME, text)
    return folder


def _run_of(
    project: Project, frozen: Path, one: _Planned, teacher: Mapping[str, Any], secret_names: tuple[str, ...]
) -> str:
    """The id of this run: the one that was begun, or a new one, with the comparison's rows already in its folder."""
    tables = one.recipe.model_dump(mode="json")
    run_id = _begun(project, frozen.name, tables)
    title = f"{one.entry.name}, seed {one.recipe.run.seed}"
    parameters = {
        "recipe": tables,
        "recipe_hash": recipe_hash(one.recipe),
        "teacher": dict(teacher),
        "comparison": {"id": frozen.name, "name": one.entry.name},
    }
    run_id = run_id or project.runs.add("train", title, parameters)
    folder = project.runs_folder / run_id
    if not (folder / run_files.JOB_NAME).is_file():
        files.write_text(folder / ROWS_NAME, (frozen / ROWS_NAME).read_text("utf-8"))
        run_files.write_job(folder, run_files.JobFile("train", parameters, now(), title, secret_names))
    return run_id


def _begun(project: Project, comparison: str, tables: Mapping[str, Any]) -> str:
    wanted = (work_of(tables), tables["run"]["seed"])
    for run in project.runs.list("train"):
        found = run.parameters.get("recipe") or {}
        same = (run.parameters.get("comparison") or {}).get("id") == comparison
        if same and (work_of(found), found["run"]["seed"]) == wanted:
            return run.id
    return ""


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
