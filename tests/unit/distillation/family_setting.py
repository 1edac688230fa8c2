"""A project that feeds every family of objectives: answers with reasoning, references, weights, and preferences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from kdstudio.distillation.rewards import OBJECTIVE_NAME
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.events import Warned
from kdstudio.project import Project
from kdstudio.project.content import NewPreference, NewPrompt, NewResponse
from kdstudio.recipe import shipped_training_recipes
from kdstudio.students.save import open_student
from kdstudio.teachers.signals_job import run as store_signals
from tests.tiny import tiny_model
from tests.unit.distillation.setting import JournalledJob, journal, make_run, recipe, source_rows, teacher

ROWS = 10
CONTEXT = 2048
"""Room for a judge's question around an answer."""
SHIPPED = shipped_training_recipes()
SCORES = ((2.0, 1.0, 0.0), (0.0, 1.0), (1.0, 3.0, 3.0), (1.0, 0.0))


def judge() -> Path:
    """The teacher of these runs."""
    return tiny_model(layers=4, context=CONTEXT)


def make_full_project(folder: Path, rows: int = ROWS, *, signals: bool = False) -> Path:
    """A project whose rows are all accepted; with `signals`, the teacher's are stored."""
    made = source_rows(rows)
    with Project.create(folder / "test.kdstudio") as project:
        project.rows.add_prompts(
            NewPrompt(row.messages, tags=(*row.tags, f"weight:0.{row.prompt_id % 9 + 1}"), status="accepted")
            for row in made
        )
        project.rows.add_responses(
            NewResponse(row.prompt_id, row.text, "the old fox", finish_reason="stop", status="accepted") for row in made
        )
        project.rows.add_preferences(preferences(rows))
    found = folder / "test.kdstudio"
    if signals:
        run = found / "runs" / "signals"
        run_files.write_job(run, run_files.JobFile("signals", {"teacher": teacher(judge()), "top_k": 50}))
        JournalledJob(run).run(store_signals)
    return found


def preferences(rows: int) -> list[NewPreference]:
    """Two or three scored candidates to each prompt."""
    made = []
    for row in source_rows(rows):
        scores = SCORES[row.prompt_id % len(SCORES)]
        texts = (row.text, "said hello to the king", f"the river {row.prompt_id} sang")[: len(scores)]
        made.append(NewPreference(row.prompt_id, texts, scores, status="accepted"))
    return made


def shipped(name: str, **tables: Any) -> dict[str, Any]:
    """A shipped recipe cut to a few steps of a tiny pair, with `tables` laid over it."""
    made = SHIPPED[name].model_dump(mode="json", exclude_unset=True)
    short = recipe()
    short["run"] |= {"rows_per_batch": 3, "accumulation": 2, "audit": "report"}  # a teacher of chance is an odd one
    short["teacher"] = {"name": "tiny"}
    short["optimizer"] = {"warmup_steps": 1, "learning_rate": 1e-3}
    short["rollout"] = {"max_tokens": 8}
    for part in (short, tables):
        for key, table in part.items():
            made[key] = {**made.get(key, {}), **table} if isinstance(table, dict) else table
    return made


class StoppedJob(JournalledJob):
    """A job that is asked to stop once `steps` steps are done, whatever it asked before them."""

    def __init__(self, run_folder: Path, steps: int) -> None:
        super().__init__(run_folder)
        self._steps, self._done = steps, 0

    def progress(self, done: int, total: int, *, unit: str = "rows", tokens: int = 0, stage: str = "") -> None:
        """Note the steps."""
        self._done = done if stage == "train" else self._done
        super().progress(done, total, unit=unit, tokens=tokens, stage=stage)

    def continues(self) -> bool:
        """Until then."""
        return self._done < self._steps


def train(project: Path, name: str, tables: dict[str, Any], *, stop_at: int = 10**9) -> dict[str, Any]:
    """Start a run, or go on with it; `stop_at`: steps after which it is asked to stop."""
    folder = project / "runs" / name
    if not (folder / run_files.JOB_NAME).is_file():
        make_run(project, name, tables, teacher(judge()))
    return StoppedJob(folder, stop_at).run()


def weights(project: Path, name: str) -> dict[str, Tensor]:
    """The trained student's, and those of its objectives."""
    folder = project / "runs" / name / "student"
    network, _, _ = open_student(folder)
    own = folder / OBJECTIVE_NAME
    return {**dict(network.named_parameters()), **(load_file(own) if own.is_file() else {})}


def warnings(project: Path, name: str) -> list[Warned]:
    """What a run had to say."""
    return [line.event for line in journal(project / "runs" / name) if isinstance(line.event, Warned)]
