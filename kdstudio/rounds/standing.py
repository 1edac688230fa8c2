"""How far rounds have come, read from their runs: what a person is shown of each round, live or long over."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kdstudio.errors import KnownError
from kdstudio.jobs.supervisor import ACTIVE
from kdstudio.project import Project, Run
from kdstudio.rounds.chain import PARTS, Part
from kdstudio.rounds.plan import FOLDER_NAME, PLAN_NAME, RESULT_NAME, Plan, read_plan
from kdstudio.rounds.wish import Wish, read_wish

_ORDER: dict[Part, int] = {part: place for place, part in enumerate(PARTS)}


@dataclass(frozen=True)
class RoundStanding:
    """One round. `asked` rows went in, `made` came out, `learnt` were trained on; figures are None until measured.

    `before` is the figure of the round before, or of the start.
    """

    number: int
    runs: Mapping[Part, Run]
    asked: int | None = None
    made: int | None = None
    learnt: int | None = None
    before: float | None = None
    after: float | None = None

    @property
    def current(self) -> tuple[Part, Run]:
        """The part that was entered last."""
        part = max(self.runs, key=lambda part: _ORDER[part])
        return part, self.runs[part]

    @property
    def finished(self) -> bool:
        """Whether it has been measured."""
        return self.after is not None

    @property
    def seconds(self) -> float:
        """How long its finished parts took, one by one."""
        return sum(_seconds(run) for run in self.runs.values() if run.state == "finished")


@dataclass(frozen=True)
class Standing:
    """All rounds of a plan. `result` is what came of them, None while they are not over."""

    plan: Plan
    wish: Wish
    start: float | None = None
    rounds: tuple[RoundStanding, ...] = ()
    result: Mapping[str, Any] | None = field(default=None)

    @property
    def begun(self) -> str:
        """When the first run was entered; "" before."""
        return min((run.created for item in self.rounds for run in item.runs.values()), default="")

    @property
    def active(self) -> bool:
        """Whether a part runs now."""
        return any(run.state in ACTIVE for item in self.rounds for run in item.runs.values())

    @property
    def state(self) -> str:
        """finished, running, failed, interrupted or stopped, as far as the runs tell."""
        if self.result is not None:
            return "finished"
        if self.active:
            return "running"
        if self.wish.error:
            return "failed"
        last = self.rounds[-1].current[1].state if self.rounds else ""
        return last if last in ("failed", "interrupted") else "stopped"

    def seconds_left(self) -> float | None:
        """At most so many more, as long as each round takes as the finished ones did; None before one has finished."""
        done = [item for item in self.rounds if item.finished]
        if not done or self.result is not None:
            return None
        each = sum(item.seconds for item in done) / len(done)
        under_way = sum(item.seconds for item in self.rounds if not item.finished)
        return max(0.0, (self.plan.recipe.rounds.count - len(done)) * each - under_way)


def read_standing(project: Project, plan: Plan) -> Standing:
    """Where the rounds of a plan stand."""
    return _standing(plan, project.runs.list()[::-1])


def read_standings(project: Project) -> list[Standing]:
    """All rounds of a project, the newest plan first; for a background task."""
    runs = project.runs.list()[::-1]
    return [_standing(plan, runs) for plan in plans(project)]


def _standing(plan: Plan, all_runs: Sequence[Run]) -> Standing:
    parts: dict[int, dict[Part, Run]] = {}
    for run in all_runs:
        own = run.parameters.get("rounds") or {}
        if own.get("id") == plan.id and own.get("part") in PARTS:
            parts.setdefault(int(own["round"]), {})[own["part"]] = run
    figure = plan.recipe.stop.figure
    start = _figure(parts.get(1, {}).get("start"), figure)
    before, rounds = start, list[RoundStanding]()
    for number in sorted(parts):
        runs = parts[number]
        after = _figure(runs.get("evaluate"), figure)
        rounds.append(RoundStanding(number, runs, *_rows(runs), before=before, after=after))
        before = after
    return Standing(plan, read_wish(plan.folder), start, tuple(rounds), read_result(plan))


def read_result(plan: Plan) -> dict[str, Any] | None:
    """What came of the rounds; None while they are not over."""
    with suppress(OSError, ValueError):
        found = json.loads((plan.folder / RESULT_NAME).read_text("utf-8"))
        return found if isinstance(found, dict) else None
    return None


def plans(project: Project) -> list[Plan]:
    """All plans of a project, the newest first; one that cannot be read is left out."""
    found = sorted(
        (project.folder / FOLDER_NAME).glob(f"*/{PLAN_NAME}"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    read: list[Plan] = []
    for path in found:
        with suppress(KnownError):
            read.append(read_plan(path.parent))
    return read


def plans_under_way(project: Project) -> list[Plan]:
    """Those that shall run and are not over."""
    return [plan for plan in plans(project) if read_wish(plan.folder).go and read_result(plan) is None]


def _rows(runs: Mapping[Part, Run]) -> tuple[int | None, int | None, int | None]:
    """(asked, made, learnt) as far as it is known."""
    asked = made = learnt = None
    if (elicit := runs.get("elicit")) is not None and elicit.state == "finished":
        funnel: Sequence[Mapping[str, Any]] = elicit.result.get("funnel") or ()
        asked = int(funnel[0]["entered"]) if funnel else None
        made = int(elicit.result.get("rows") or 0)
    if (train := runs.get("train")) is not None:
        learnt = int(train.parameters["rounds"]["rows"])
    return asked, made, learnt


def _figure(run: Run | None, figure: str) -> float | None:
    value = run.result.get(figure) if run is not None and run.state == "finished" else None
    return None if value is None else float(value)


def _seconds(run: Run) -> float:
    try:
        return (datetime.fromisoformat(run.finished) - datetime.fromisoformat(run.created)).total_seconds()
    except ValueError:
        return 0.0
