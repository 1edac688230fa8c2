"""The ways of training that the quality benchmark compares, each a recipe run by the product's own training job.

All students have two layers of the teacher's shape (0.44 million weights), read the same rows in batches of 16, and are
trained by AdamW with a cosine schedule for the same number of tokens; only learning rates differ, by family.

`python -m tests.benchmarks.quality_arms` tunes those: once, on a seed that the benchmark does not use and on rows that
it does not hold out (every eighth training prompt). What it printed stands beside `RATES`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdstudio.catalogue.training import DataTable
from kdstudio.distillation.examples import encode_rows
from kdstudio.distillation.frozen_rows import frozen_rows
from kdstudio.distillation.held_out import HELD_OUT_NAME, measure
from kdstudio.distillation.rows import split_rows
from kdstudio.distillation.stored_signals import StoredSignals
from kdstudio.evaluation.fair_budget import Budget
from kdstudio.models.gguf_header import fingerprint
from kdstudio.recipe import TrainingRecipe, validate_recipe
from kdstudio.students.save import open_student
from kdstudio.teachers.vault import Vault
from tests.benchmarks.quality_answers import free_running, open_teacher
from tests.benchmarks.quality_teacher import (
    ANSWER_TOKENS,
    HELD_OUT,
    corpus,
    described,
    make_teacher,
    project_of_answers,
    run_job,
)

EPOCHS, ROWS, TOP_K = 4, 16, 50
TUNING_SEED, TUNING_EVERY = 0, 8
GRID = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)

_RANDOM = {"source": "fresh", "layer_count": 2}
_PRUNED = {"source": "teacher", "layer_count": 2}
_BUCKET = {"signals": "stored", "top_k": TOP_K}
_SHAPED = {**_BUCKET, "tail": "shaped"}
_OWN = {"share": 1.0, "max_tokens": ANSWER_TOKENS}


@dataclass(frozen=True)
class Arm:
    """One way. `family` names its learning rate; `continues` the arm whose student it goes on with."""

    name: str
    family: str
    objective: str
    student: Mapping[str, Any]
    teacher: Mapping[str, Any]
    rollout: Mapping[str, Any]
    continues: str = ""


def _from_start(kind: str, student: Mapping[str, Any]) -> tuple[Arm, ...]:
    """Text alone, the whole distribution, and what can be stored of it, all from the same start.

    Stored are the top with its tail as one bucket or shaped, and as many draws as that has tokens.
    """
    return (
        Arm(f"supervised, {kind} start", f"supervised, {kind}", "supervised", student, {}, {}),
        Arm(f"full KD, {kind} start", f"KD, {kind}", "forward_kl", student, {}, {}),
        Arm(f"top-{TOP_K} with tail, {kind} start", f"KD, {kind}", "forward_kl", student, _BUCKET, {}),
        Arm(f"top-{TOP_K} with shaped tail, {kind} start", f"KD, {kind}", "forward_kl", student, _SHAPED, {}),
        Arm(f"{TOP_K} draws, {kind} start", f"KD, {kind}", "random_sampled_topk", student, {}, {}),
    )


def _going_on(title: str, objective: str) -> tuple[Arm, Arm]:
    """The same divergence on the student's own answers and on the teacher's, after a supervised start."""
    warm = PRUNED[0].name
    return (
        Arm(f"on-policy, {title}", "continued", objective, {}, {}, _OWN, warm),
        Arm(f"off-policy, {title}", "continued", objective, {}, {}, {}, warm),
    )


RANDOM, PRUNED = _from_start("random", _RANDOM), _from_start("pruned", _PRUNED)
JENSEN_SHANNON, REVERSE = _going_on("Jensen-Shannon", "jensen_shannon"), _going_on("reverse KL", "reverse_kl")
STARTED, CONTINUED = (*RANDOM, *PRUNED), (*JENSEN_SHANNON, *REVERSE)

RATES: Mapping[str, float] = {
    "supervised, random": 2e-3,  # 2.2221 1.6474 1.4127 1.4121 1.4104: flat from 1e-3 on, its middle is taken
    "KD, random": 2e-3,  # 2.0417 1.4499 1.3231 1.2794 1.3176
    "supervised, pruned": 5e-4,  # 0.2396 0.2110 0.2550 0.3248 0.3901
    "KD, pruned": 1e-3,  # 0.1651 0.1139 0.1041 0.1325 0.2017
    # The first three of the grid. On-policy: 0.8742 0.7713 0.8409 (Jensen-Shannon), 0.8089 0.7183 0.8370 (reverse KL);
    # off-policy: 0.8442 0.8376 0.8896 and 0.8173 0.7369 0.8263.
    "continued": 5e-4,
}
"""Learning rates by family, with the tuning's figures along `GRID`: held-out forward KL in nats a token, and for those
that go on the reverse KL of own answers in nats an answer."""


@dataclass(frozen=True)
class Trained:
    """A run that ended: its result and its folder."""

    result: dict[str, Any]
    folder: Path

    @property
    def student(self) -> Path:
        """The student's folder."""
        return self.folder / "student"

    @property
    def divergence(self) -> float:
        """Held-out forward KL in nats a token."""
        return float(self.result["final"]["held_out_forward_kl"])

    @property
    def rows(self) -> dict[str, list[float]]:
        """The held-out figures of each row."""
        found: dict[str, list[float]] = json.loads((self.folder / HELD_OUT_NAME).read_text())
        return found


def train(
    arm: Arm, project: Path, teacher: Path, seed: int, *, start: Path | None = None, tokens: int = 0, rate: float = 0.0
) -> Trained:
    """Run an arm, from the student `start` if given. With `tokens`, for the steps that come nearest to so many."""
    rate = rate or RATES[arm.family]
    tables = _recipe(arm, seed, rate, start)
    if tokens:
        checked = validate_recipe(tables, TrainingRecipe)
        with tempfile.TemporaryDirectory() as rows:
            plan = Budget(Path(rows), project, checked, described(teacher)).plan(checked, seed, tokens)
        tables["run"]["steps"] = plan.steps
    name = f"{arm.name} {rate:g}".replace(",", "").replace(" ", "-")
    result = run_job(project, name, "train", {"recipe": tables, "teacher": described(teacher)})
    return Trained(result, project / "runs" / name)


def stored_divergence(run: Trained, project: Path, teacher: Path) -> float:
    """Held-out forward KL in nats a token as far as a stored signal knows it: its top tokens, and all others as one.

    What the whole divergence has beyond that is the shape of the tail, which no stored signal teaches.
    """
    network, tokenizer, _ = open_student(run.student)
    table = DataTable(held_out_tag=HELD_OUT)
    sources = frozen_rows(run.folder, project, table, preferences=False)
    rows = split_rows(encode_rows(tokenizer, sources, table.maximum_tokens)[0], table, seed=0)
    with Vault(project / "vault") as vault:
        source = StoredSignals(vault, rows, fingerprint(teacher), TOP_K)
        found = measure(network, rows, source, torch.device("cpu"), nullcontext).forward_kl
    return float("nan") if found is None else found


def _recipe(arm: Arm, seed: int, rate: float, start: Path | None) -> dict[str, Any]:
    run = {"seed": seed, "epochs": EPOCHS, "rows_per_batch": ROWS, "device": "cpu", "precision": "fp32"}
    return {
        "version": 1,
        "recipe": {"id": "quality", "title": arm.name},
        "student": dict(arm.student) if start is None else {"source": "folder", "path": str(start)},
        "teacher": {"name": "teacher", "signals": "dense", **arm.teacher},
        "data": {"held_out_tag": HELD_OUT},
        "rollout": dict(arm.rollout),
        "objective": [{"name": arm.objective}],
        "optimizer": {"learning_rate": rate, "warmup_steps": 10},
        "run": {**run, "evaluate_every": 100_000, "checkpoint_every": 100_000},
    }


def tune(folder: Path) -> None:
    """Print what each family comes to along the grid, by what is judged of it later."""
    teacher, _ = make_teacher(folder)
    chats = [chat for chat in corpus() if not chat.held_out]
    held = [number % TUNING_EVERY == 0 for number in range(len(chats))]
    project, _ = project_of_answers(folder / "tuning", teacher, chats, TUNING_SEED, held)
    best: dict[str, Trained] = {}
    for arm in (*RANDOM[:2], *PRUNED[:2]):
        runs = [train(arm, project, teacher, TUNING_SEED, rate=rate) for rate in GRID]
        best[arm.name] = min(runs, key=lambda run: run.divergence)
        _say(arm, [run.divergence for run in runs])
    network, measured = open_teacher(teacher), [chat for chat, out in zip(chats, held, strict=True) if out]
    tokens = 0
    for arm in CONTINUED:
        found: list[float] = []
        for rate in GRID[:3]:
            start = best[arm.continues].student
            run = train(arm, project, teacher, TUNING_SEED, start=start, rate=rate, tokens=0 if arm.rollout else tokens)
            tokens = run.result["tokens"] if arm.rollout else tokens
            found.append(float(free_running(run.student, network, measured).reverse_kl.mean()))
        _say(arm, found)


def _say(arm: Arm, found: Sequence[float]) -> None:
    told = ", ".join(f"{value:.4f} at {rate:g}" for rate, value in zip(GRID, found, strict=False))
    print(f"{arm.name}: {told}", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="kdstudio-quality-") as name:
        tune(Path(name))
