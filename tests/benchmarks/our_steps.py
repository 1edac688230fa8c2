"""Whole training steps of KD Studio's own job: the counterpart of `peers/trl_steps.py`, in `.venv`.

python -m tests.benchmarks.our_steps PROJECT TEACHER.gguf OBJECTIVE LAYERS ROWS STEPS 0|1

The last says whether gradients are checkpointed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from kdstudio.distillation.job import run
from kdstudio.jobs.events import Event, Metric
from tests.benchmarks.peers.measured import StepClock

TOP_K = 50


class _ClockedJob:
    """A job without a journal, whose steps are clocked."""

    def __init__(self, project: Path, name: str, parameters: dict[str, Any]) -> None:
        self.project_folder, self.run_folder, self.parameters = project, project / "runs" / name, parameters
        self.clock = StepClock()
        self.losses: list[float] = []

    def emit(self, event: Event, *, durable: bool = False) -> None:
        if isinstance(event, Metric) and "tokens_per_second" in event.values:
            self.clock.step_done()
            self.losses.append(event.values["loss"])

    def warn(self, title: str, detail: str = "", hint: str = "") -> None:
        raise RuntimeError(f"{title}: {detail} {hint}")

    def progress(self, done: int, total: int, *, unit: str = "rows", tokens: int = 0, stage: str = "") -> None:
        pass

    def continues(self) -> bool:
        return True


def recipe(objective: str, layers: int, rows: int, steps: int, checkpointing: int) -> dict[str, Any]:
    """All rows in each step, in float32, measured by nobody else."""
    return {
        "version": 1,
        "student": {"layer_count": layers, "gradient_checkpointing": bool(checkpointing)},
        "data": {"held_out": 0.0, "maximum_tokens": 8192},
        "teacher": {"name": "teacher", "signals": "stored", "top_k": TOP_K},
        "objective": [{"name": objective}],
        "optimizer": {"learning_rate": 1e-4, "schedule": "constant", "warmup_steps": 0},
        "run": {
            "steps": steps,
            "rows_per_batch": rows,
            "checkpoint_every": steps + 1,
            "device": "cpu",
            "precision": "fp32",
        },
    }


def main(project: Path, teacher: str, objective: str, layers: int, rows: int, steps: int, checkpointing: int) -> None:
    """Train `steps` steps; prints the line of JSON."""
    parameters = {
        "recipe": recipe(objective, layers, rows, steps, checkpointing),
        "teacher": {"name": "teacher", "kind": "gguf", "path": teacher},
    }
    job = _ClockedJob(project, f"bench-{objective}-{os.getpid()}", parameters)
    job.run_folder.mkdir(parents=True)
    run(job)
    job.clock.report(job.losses[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], *(int(number) for number in sys.argv[4:]))
