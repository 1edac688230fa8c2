"""What each teacher has cost this project so far, in its runs and asked by hand; for a background task."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from kdstudio.jobs.folder import ASKED_NAME

if TYPE_CHECKING:
    from kdstudio.project import Project, Run


def teachers_of(run: Run) -> tuple[str, ...]:
    """The names of the teachers that a run asks, by its parameters."""
    several = run.parameters.get("teachers")
    specs = several if isinstance(several, list) and several else [run.parameters.get("teacher")]
    return tuple(str(spec["name"]) for spec in specs if isinstance(spec, dict) and spec.get("name"))


def spent_by_teacher(project: Project) -> dict[str, float]:
    """US dollars by teacher's name, with what may have been billed without an answer."""
    totals: defaultdict[str, float] = defaultdict(float)
    for run in project.runs.list():
        names = teachers_of(run)
        spent = _spent(project, run)
        if len(names) == 1:
            totals[names[0]] += spent
        elif names and spent:
            _add(totals, project.runs_folder / run.id)
    _add(totals, project.folder / ASKED_NAME)
    return dict(totals)


def _add(totals: defaultdict[str, float], folder: Path) -> None:
    for name, amount in _by_journal(folder, _journal_bytes(folder)):
        totals[name] += amount


def _spent(project: Project, run: Run) -> float:
    """A run's own figure: its result's, or the last that its journal told while it was under way."""
    stated = run.result.get("spend")
    if isinstance(stated, int | float):
        return float(stated)
    if "spend" not in project.runs.metric_names(run.id):
        return 0.0
    return max(project.runs.metrics(run.id, "spend")[1], default=0.0)


def _journal_bytes(folder: Path) -> int:
    from kdstudio.jobs.journal import JOURNAL_NAME

    try:
        return (folder / JOURNAL_NAME).stat().st_size
    except OSError:
        return 0


@lru_cache(maxsize=64)
def _by_journal(folder: Path, _size: int) -> tuple[tuple[str, float], ...]:
    """What each of several teachers was paid, and what it may have billed; read anew when the journal grew."""
    from kdstudio.jobs.events import Attempt, Settled
    from kdstudio.jobs.journal import read_journal

    costs: dict[tuple[str, str, int], float] = {}
    for line in read_journal(folder):
        event = line.event
        if isinstance(event, Attempt | Settled):
            cost = event.reserved if isinstance(event, Attempt) else event.cost
            costs[event.teacher, event.key, event.number] = cost
    totals: defaultdict[str, float] = defaultdict(float)
    for (teacher, _, _), cost in costs.items():
        totals[teacher] += cost
    return tuple(totals.items())
