"""A small project, its rows and a training job in this process: the real parts, only tiny."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

from kdstudio.distillation.batches import Batch, shared_prefix
from kdstudio.distillation.examples import Example, SourceRow, encode_rows
from kdstudio.distillation.job import run
from kdstudio.distillation.rows import TrainingRows
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.events import Event, Line, Metric, Progress, Warned
from kdstudio.jobs.journal import JournalWriter, read_journal
from kdstudio.project import Project
from kdstudio.project.content import NewPrompt, NewResponse
from kdstudio.students.save import open_tokenizer
from tests.tiny import tiny_model

SYSTEM = "Write one short sentence."
NOUNS = ("robot", "mouse", "king", "mountain", "lantern", "river", "fox", "story")
ADJECTIVES = ("brave", "lonely", "golden", "silent", "old")


def source_rows(count: int) -> list[SourceRow]:
    """So many prompts with answers of different lengths."""
    rows = []
    for number in range(count):
        noun, adjective = NOUNS[number % len(NOUNS)], ADJECTIVES[number % len(ADJECTIVES)]
        messages = (
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"a {adjective} {noun} {number}"},
        )
        text = f"there was once a {adjective} {noun} " + "who sang another song " * (number % 4)
        rows.append(SourceRow(number + 1, number + 1, messages, text.strip(), ("held",) if number % 5 == 0 else ()))
    return rows


def examples(count: int) -> list[Example]:
    """The same rows in tokens of the tiny model's vocabulary."""
    made, _ = encode_rows(open_tokenizer(tiny_model()), source_rows(count), 512)
    return made


def training_rows(count: int, held_out: int = 4, *, share_prefix: bool = True) -> TrainingRows:
    """Training rows of which the last `held_out` are held out."""
    made = tuple(examples(count))
    prefix = shared_prefix(made) if share_prefix else 0
    return TrainingRows(made, count - held_out, torch.from_numpy(made[0].prompt_ids[:prefix].astype("int64")))


def make_project(folder: Path, rows: int = 20) -> Path:
    """A project whose rows are all accepted; returns its folder."""
    with Project.create(folder / "test.kdstudio") as project:
        project.rows.add_prompts(NewPrompt(row.messages, tags=row.tags, status="accepted") for row in source_rows(rows))
        project.rows.add_responses(
            NewResponse(row.prompt_id, row.text, finish_reason="stop", status="accepted") for row in source_rows(rows)
        )
        return project.folder


def recipe(**tables: dict[str, Any] | list[dict[str, Any]]) -> dict[str, Any]:
    """A short recipe in fp32 on the CPU; `tables` are laid over it."""
    made: dict[str, Any] = {
        "version": 1,
        "student": {"layer_count": 2},
        "data": {"held_out_tag": "held"},
        "teacher": {"name": "tiny", "signals": "dense"},
        "optimizer": {"warmup_steps": 1},
        "run": {
            "steps": 4,
            "rows_per_batch": 4,
            "evaluate_every": 2,
            "checkpoint_every": 2,
            "device": "cpu",
            "precision": "fp32",
        },
    }
    for name, table in tables.items():
        made[name] = {**made.get(name, {}), **table} if isinstance(table, dict) else table
    return made


def teacher(path: Path | None = None) -> dict[str, Any]:
    """A tiny GGUF teacher as a job's parameter."""
    return {"name": "tiny", "kind": "gguf", "path": str(path or tiny_model(layers=4))}


def make_run(project: Path, name: str, tables: dict[str, Any], described: dict[str, Any] | None = None) -> Path:
    """A run's folder with its frozen job."""
    folder = project / "runs" / name
    parameters = {"recipe": tables, "recipe_hash": "", "teacher": teacher() if described is None else described}
    run_files.write_job(folder, run_files.JobFile("train", parameters))
    return folder


class JournalledJob:
    """A training job in this process, with a real journal. Asks to stop when it was asked `stop_after` times."""

    def __init__(self, run_folder: Path, stop_after: int = 10**9) -> None:
        described = run_files.read_job(run_folder)
        self.run_folder = run_folder
        self.project_folder = run_folder.parent.parent
        self.parameters = described.parameters
        self.secrets: dict[str, str] = {}
        self._left = stop_after
        self._journal = JournalWriter(run_folder)

    def emit(self, event: Event, *, durable: bool = False) -> None:
        self._journal.write(event, durable=durable)

    def warn(self, title: str, detail: str = "", hint: str = "") -> None:
        self.emit(Warned(title, detail, hint))

    def progress(self, done: int, total: int, *, unit: str = "rows", tokens: int = 0, stage: str = "") -> None:
        self.emit(Progress(done, total, unit, stage=stage))

    def continues(self) -> bool:
        self._left -= 1
        return self._left >= 0

    def run(self, function: Callable[[JournalledJob], dict[str, Any]] = run) -> dict[str, Any]:
        """Do the job, and close the journal however it ends."""
        forget_device()
        try:
            return function(self)
        finally:
            self._journal.close()


def forget_device() -> None:
    """A process has one device and precision for life; tests change them."""
    AcceleratorState._reset_state(True)


def journal(run_folder: Path) -> list[Line]:
    """All lines that a run has written."""
    return list(read_journal(run_folder))


def curve(run_folder: Path, name: str = "loss") -> dict[int, str]:
    """A metric by step as hex floats, so that equal means equal in every bit; a later line replaces an earlier one."""
    lines = [line.event for line in journal(run_folder) if isinstance(line.event, Metric)]
    return {event.step: float(event.values[name]).hex() for event in lines if name in event.values}


def whole_batch(rows: TrainingRows, chosen: range) -> Batch:
    """One batch on the CPU."""
    return rows.batch(list(chosen), torch.device("cpu"))
