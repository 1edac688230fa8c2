"""Goes through the rounds, run by run: each is an ordinary run of the project, and none that is finished runs again.

Killed anywhere, the same plan goes on with the run that was under way. What is known of the rounds is read from the
runs themselves: their parameters name the rounds, the round and the part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from kdstudio import files
from kdstudio.errors import KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.events import now
from kdstudio.jobs.supervisor import Supervisor
from kdstudio.models.student_copy import FILE_NAME
from kdstudio.project import Project, Run
from kdstudio.project.row_terms import reads_preferences
from kdstudio.recipe import RoundsRecipe
from kdstudio.rounds import parameters
from kdstudio.rounds.plan import RESULT_NAME, Plan
from kdstudio.rounds.rows import ROWS_NAME, RowTable, training_rows
from kdstudio.rounds.speakers import STUDENT_NAME
from kdstudio.rounds.verdict import verdict_of

Part = Literal["elicit", "train", "start", "evaluate"]
PARTS: tuple[Part, ...] = ("elicit", "train", "start", "evaluate")
Finish = Callable[[str, int, Part], None]
"""Brings a run (with its round and part) to its end, as `bring_to_end` does; raises its error if it failed."""
_KINDS: dict[Part, str] = {"elicit": "elicit", "train": "train", "start": "evaluate", "evaluate": "evaluate"}
_TITLES: dict[Part, str] = {"elicit": "ask", "train": "train", "start": "measure the start", "evaluate": "measure"}


class RoundsStoppedError(KnownError):
    """A run of the rounds was stopped: they can go on there."""


def bring_to_end(
    supervisor: Supervisor, project: Project, run_id: str, secrets: dict[str, str], follow: Callable[[], object]
) -> None:
    """Start or continue a run and `follow` it. One whose caller is gone ends by itself first, and is then continued."""
    left = run_files.process_of(project.runs_folder / run_id) is not None
    for _ in range(1 + left):
        try:
            supervisor.resume(run_id, secrets=secrets, attached=True)
        except KnownError:
            if project.runs.get(run_id).state == "finished":
                return  # it ended well while nobody looked
            raise
        follow()


@dataclass
class Round:
    """A round that is done: its runs, how many rows it trained on, and the figure that judges it."""

    number: int
    elicit: str
    train: str
    evaluate: str
    rows: int
    value: float


@dataclass
class Chain:
    """The rounds of a plan in an open project. `reason`: why restricted rows may be trained on."""

    project: Project
    plan: Plan
    finish: Finish
    secret_names: tuple[str, ...] = ()
    reason: str = ""
    _done: list[Round] = field(default_factory=list)
    _start: float | None = None

    def run(self) -> dict[str, Any]:
        """Every round until they end; returns, and keeps in the plan's folder, what came of them.

        Raises `KnownError` when a run failed or was stopped: the same again goes on there.
        """
        ended = ""
        while not ended and len(self._done) < self.plan.recipe.rounds.count:
            ended = self._round(len(self._done) + 1) or self._fallen()
        result = self._result(ended or f"All {len(self._done)} rounds are done.")
        files.write_text(self.plan.folder / RESULT_NAME, json.dumps(result, indent=1))
        return result

    def _round(self, number: int) -> str:
        """One round; returns why there can be no further one, if so."""
        last = self._done[-1].train if self._done else ""
        asked = self._finished(number, "elicit", lambda: parameters.eliciting(self.project, self.plan, number, last))
        (self.project.runs_folder / asked.id / FILE_NAME).unlink(missing_ok=True)
        begun = self._begun(number, "train")
        rows = [] if begun else self._rows(asked.id)
        if not begun and not rows:
            return f"Round {number} made no rows to train on."
        trained = self._finished(
            number, "train", lambda: parameters.training(self.project, self.plan, last, rows, self.reason)[0], rows
        )
        if number == 1:
            self._measure_start(trained.id)
        measured = self._finished(number, "evaluate", lambda: parameters.measuring(self.plan, {"run": trained.id}))
        count = int(trained.parameters["rounds"]["rows"])
        self._done.append(Round(number, asked.id, trained.id, measured.id, count, self._value(measured)))
        return ""

    def _rows(self, asked: str) -> list[RowTable]:
        """What a round trains on; nothing where it made no row itself: the others would teach the same once more."""
        recipe = self.plan.recipe
        alone = recipe.model_copy(update={"train": recipe.train.model_copy(update={"with_accepted": False})})
        own = self._made(alone, {asked})
        if not own or (recipe.train.rows == "round" and not recipe.train.with_accepted):
            return own
        earlier = {item.elicit for item in self._done} if recipe.train.rows == "all" else set[str]()
        return self._made(recipe, {asked} | earlier)

    def _made(self, recipe: RoundsRecipe, runs: set[str]) -> list[RowTable]:
        training, held_out = self.plan.training, self.plan.held_out_prompts
        ranked = reads_preferences(training)
        return training_rows(self.project, recipe, training, runs, held_out, preferences=ranked)

    def _measure_start(self, trained: str) -> None:
        """The figure of the student before any round, where it is a model that can be measured."""
        start = self.plan.start
        if start is None:
            return
        what = {"gguf" if start.kind == "gguf" else "folder": start.path, "rows_of": trained}
        measured = self._finished(1, "start", lambda: parameters.measuring(self.plan, what))
        self._start = self._value(measured)

    def _value(self, run: Run) -> float:
        figure = self.plan.recipe.stop.figure
        value = run.result.get(figure)
        if value is None:
            raise KnownError(
                "The rounds cannot be judged",
                f"{figure} was not measured: the teacher has no distribution to compare with, or did not answer.",
                "Begin them with another figure, as --set stop.figure=student_nll.",
            )
        return float(value)

    def _fallen(self) -> str:
        stop, verdict = self.plan.recipe.stop, self._verdict()
        if verdict.worse < stop.patience:
            return ""
        best, value = self._named(verdict.best), self._values()[verdict.best]
        told = f"{stop.figure.replace('_', ' ')} was {value:.4f} {best} and is {self._values()[-1]:.4f}"
        return f"The held-out figure fell in round {self._done[-1].number}: {told}."

    def _values(self) -> list[float]:
        start = [] if self._start is None else [self._start]
        return [*start, *(item.value for item in self._done)]

    def _verdict(self) -> Any:
        return verdict_of(self.plan.recipe.stop.figure, self._values(), self.plan.recipe.stop.tolerance)

    def _named(self, place: int) -> str:
        number = place + (self._start is None)
        return f"after round {number}" if number else "at the start"

    # ------------------------------------------------------------------------------------------------------- runs
    def _begun(self, number: int, part: Part) -> Run | None:
        """The run of this part, if it was entered and can be gone on with."""
        mark = (self.plan.id, number, part)
        for run in self.project.runs.list(_KINDS[part]):
            own = run.parameters.get("rounds") or {}
            if (own.get("id"), own.get("round"), own.get("part")) == mark and self._is_whole(run.id):
                return run
        return None

    def _is_whole(self, run_id: str) -> bool:
        """Whether its frozen job was written: one that was killed before that has done nothing."""
        return (self.project.runs_folder / run_id / run_files.JOB_NAME).is_file()

    def _finished(
        self, number: int, part: Part, described: Callable[[], Mapping[str, Any]], rows: list[RowTable] | None = None
    ) -> Run:
        """The run of this part, brought to its end: begun, gone on with, or only looked up."""
        run = self._begun(number, part)
        run_id = run.id if run else self._enter(number, part, described(), rows or [])
        if run is None or run.state != "finished":
            self.finish(run_id, number, part)
        run = self.project.runs.get(run_id)
        if run.state != "finished":
            hint = "Run the same command again: they go on where they stopped."
            raise RoundsStoppedError("The rounds were stopped", f"In round {number}: {_TITLES[part]}.", hint)
        return run

    def _enter(self, number: int, part: Part, described: Mapping[str, Any], rows: list[RowTable]) -> str:
        """A new run, frozen, with its rows beside it; it is complete when its job file is there."""
        mark = {"id": self.plan.id, "round": number, "part": part, "rows": len({row["response_id"] for row in rows})}
        tables = {**described, "rounds": mark}
        title = f"{self.plan.recipe.recipe.title}, round {number}: {_TITLES[part]}"
        run_id = self.project.runs.add(_KINDS[part], title, tables)
        folder = self.project.runs_folder / run_id
        if rows:
            lines = (json.dumps(row) + "\n" for row in (*rows, *self.plan.held_out))
            files.write_text(folder / ROWS_NAME, "".join(lines))
        run_files.write_job(folder, run_files.JobFile(_KINDS[part], tables, now(), title, self.secret_names))
        return run_id

    # ----------------------------------------------------------------------------------------------------- result
    def _result(self, ended: str) -> dict[str, Any]:
        """What is shown in the end. `run` is the best round's training, "" where the start was best."""
        found: dict[str, Any] = {
            "rounds_id": self.plan.id,
            "recipe": self.plan.recipe.recipe.id,
            "figure": self.plan.recipe.stop.figure,
            "start": self._start,
            "rounds": [asdict(item) for item in self._done],
            "ended": ended,
            "best_round": 0,
            "run": "",
            "student": self.plan.start.path if self.plan.start else "",
        }
        best = self._verdict().best + (self._start is None) if self._done else 0
        if best:
            run = self._done[best - 1].train
            found |= {"best_round": best, "run": run, "student": str(self.project.runs_folder / run / STUDENT_NAME)}
        return found
