"""Whether distillation teaches better than text alone, on the shipped synthetic corpus with five seeds.

The protocol was fixed before the five seeds were run; a second run repeated every figure. A teacher is trained from
nothing on the corpus. For each seed it answers the training prompts anew (temperature 1, one answer each); held-out
prompts keep their answers. Students see the same rows in the same order for the same number of tokens. Held-out
divergence is the forward KL to the teacher over the held-out answers; free-running answers are sampled by the student
to held-out prompts, and judged by the reverse KL from the teacher and, where there is one right answer, by whether it
was given.

Two things were added after the five seeds had been seen. First the divergence as far as a stored signal knows it, which
says how much of what stored signals lose is the shape of the tail; then two more stored forms, a shaped tail and draws.
No other run changed with them.

Each seed runs in a process with one thread, as many at once as the product would use threads. Intervals are those of
`kdstudio.evaluation.comparison`: over held-out prompts and over seeds.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdstudio import settings
from kdstudio.evaluation.comparison import Pair, System, compare
from tests.benchmarks.figures import Figure
from tests.benchmarks.quality_answers import FreeRunning, free_running, open_teacher
from tests.benchmarks.quality_arms import (
    CONTINUED,
    JENSEN_SHANNON,
    PRUNED,
    RANDOM,
    REVERSE,
    STARTED,
    TOP_K,
    Arm,
    Trained,
    stored_divergence,
    train,
)
from tests.benchmarks.quality_teacher import corpus, described, make_teacher, project_of_answers, run_job

SEEDS = (1, 2, 3, 4, 5)
_NATS, _NATS_AN_ANSWER = "nats a token", "nats an answer"
_Values = npt.NDArray[np.float64]


@dataclass
class Seed:
    """What one seed came to. `left_out` answers of the teacher did not end; By arm: figures, rows, tokens, answers."""

    seed: int
    left_out: int
    captured_mass: float
    divergence: dict[str, float] = field(default_factory=dict)
    stored: dict[str, float] = field(default_factory=dict)
    rows: dict[str, _Values] = field(default_factory=dict)
    row_tokens: tuple[float, ...] = ()
    tokens: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    answers: dict[str, FreeRunning] = field(default_factory=dict)

    def keep(self, arm: Arm, run: Trained, answers: FreeRunning | None = None) -> None:
        """Take in a run."""
        self.divergence[arm.name] = run.divergence
        self.rows[arm.name] = np.asarray(run.rows["forward_kl"])
        self.row_tokens = tuple(run.rows["tokens"])
        self.tokens[arm.name] = int(run.result["tokens"])
        self.seconds[arm.name] = float(run.result["seconds"])
        if answers is not None:
            self.answers[arm.name] = answers


def quality() -> Iterator[Figure]:
    """Every promise with its figures, seed by seed and over all of them."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="kdstudio-quality-") as name:
        folder = Path(name)
        with ProcessPoolExecutor(settings.thread_count(), get_context("spawn"), _one_thread) as pool:
            teacher, result = pool.submit(make_teacher, folder).result()
            print(f"  teacher: {result['parameters']:,} weights, {result['seconds']:.0f} s", flush=True)
            runs = list(pool.map(_one_seed, [folder] * len(SEEDS), [teacher] * len(SEEDS), SEEDS))
    _print_table(runs)
    yield Figure("quality: teacher's surprise at held-out chats", result["final"]["held_out_nll"], _NATS)
    for start, arms in (("random", RANDOM), ("pruned", PRUNED)):
        supervised, full, *stored = arms
        yield from _divergences(runs, full, supervised, f"{start} start")
        for arm in stored:
            yield from _stored(runs, arm, full, f"{start} start")
    yield from _divergences(runs, PRUNED[1], RANDOM[1], "full KD by start")
    for on, off in (JENSEN_SHANNON, REVERSE):
        yield from _answers(runs, on, off)
    yield Figure("quality: the whole benchmark", time.perf_counter() - began, "s", "<= 600 s")


def _one_thread() -> None:
    os.environ["KDSTUDIO_THREADS"] = "1"


def _one_seed(folder: Path, teacher: Path, seed: int) -> Seed:
    """All runs of a seed."""
    chats = corpus()
    project, left_out = project_of_answers(
        folder / f"seed-{seed}", teacher, chats, seed, [chat.held_out for chat in chats]
    )
    rules: tuple[dict[str, Any], ...] = ({"top_k": TOP_K}, {"top_k": TOP_K, "tail": "shaped"}, {"draws": TOP_K})
    stored = [
        run_job(project, f"signals-{place}", "signals", {"teacher": described(teacher), "seed": seed, **rule})
        for place, rule in enumerate(rules)
    ]
    made, network = Seed(seed, left_out, stored[0]["captured_mass"]), open_teacher(teacher)
    asked = [chat for chat in chats if chat.held_out]
    students: dict[str, Path] = {}
    for arm in STARTED:
        run = train(arm, project, teacher, seed)
        students[arm.name] = run.student
        warm = any(other.continues == arm.name for other in CONTINUED)
        made.keep(arm, run, free_running(run.student, network, asked) if warm else None)
        made.stored[arm.name] = stored_divergence(run, project, teacher)
    for pair in (JENSEN_SHANNON, REVERSE):
        tokens = 0
        for arm in pair:  # the one on-policy first: how long its answers are is known only afterwards
            run = train(arm, project, teacher, seed, start=students[arm.continues], tokens=tokens)
            tokens = int(run.result["tokens"])
            made.keep(arm, run, free_running(run.student, network, asked))
    print(f"  seed {seed}: {sum(made.seconds.values()):.0f} s of training", flush=True)
    return made


def _print_table(runs: Sequence[Seed]) -> None:
    print(f"  {'held-out forward KL, nats a token':<36}" + "".join(f" seed {run.seed:<3}" for run in runs) + "  tokens")
    for name in runs[0].divergence:
        cells = "".join(f" {run.divergence[name]:8.4f}" for run in runs)
        spent = sorted({run.tokens[name] for run in runs})
        print(f"  {name:<36}{cells}  {spent[0]:,}" + (f" to {spent[-1]:,}" if spent[1:] else ""))
    print(f"  {'reverse KL of own answers, an answer':<36}")
    for name in runs[0].answers:
        found = [run.answers[name] for run in runs]
        cells = "".join(f" {item.reverse_kl.mean():8.4f}" for item in found)
        token, surprise = (np.mean([getattr(item, key) for item in found]) for key in ("per_token", "surprise"))
        right = np.mean([np.nanmean(item.right) for item in found])
        print(f"  {name:<36}{cells}  {token:.4f} a token, the teacher's surprise {surprise:.3f}, right {right:.1%}")
    print(f"  answers of the teacher left out: {[run.left_out for run in runs]}", flush=True)


def _divergences(runs: Sequence[Seed], ours: Arm, theirs: Arm, where: str) -> Iterator[Figure]:
    """Held-out forward KL of two arms: the promise is about every seed."""
    better = 0
    for run in runs:
        a, b = run.divergence[ours.name], run.divergence[theirs.name]
        better += a < b
        yield Figure(f"{where}: held-out forward KL, seed {run.seed}", a, _NATS, "", b, theirs.name)
    yield _count(f"{where}: {ours.name} is nearer to the teacher than {theirs.name}", runs, better)
    pair = _compared(runs, ours, theirs)
    means = [float(np.mean([run.divergence[arm.name] for run in runs])) for arm in (ours, theirs)]
    yield Figure(
        f"{where}: held-out forward KL, all seeds ({_interval(pair)})", means[0], _NATS, "", means[1], theirs.name
    )


def _stored(runs: Sequence[Seed], top: Arm, full: Arm, where: str) -> Iterator[Figure]:
    """How much farther from the teacher a stored signal leaves the student than the whole distribution."""
    where = f"{where}: {top.name.partition(',')[0]} beyond full KD"
    ratios = [run.divergence[top.name] / run.divergence[full.name] - 1 for run in runs]
    for run, ratio in zip(runs, ratios, strict=True):
        yield Figure(f"{where}, seed {run.seed} (captured mass {run.captured_mass:.1%})", 100 * ratio, "%")
    pair = _compared(runs, top, full)
    yield Figure(f"{where}, all seeds ({_interval(pair)})", 100 * float(np.mean(ratios)), "%", "within 1 %")
    known = [run.stored[top.name] / run.stored[full.name] - 1 for run in runs]
    yield Figure(f"{where}, by what is stored (the tail as one), all seeds", 100 * float(np.mean(known)), "%")


def _answers(runs: Sequence[Seed], on: Arm, off: Arm) -> Iterator[Figure]:
    """Free-running answers after a warm start."""
    title, better = on.name.removeprefix("on-policy, "), 0
    for run in runs:
        a, b = (float(run.answers[arm.name].reverse_kl.mean()) for arm in (on, off))
        better += a < b
        work = f"on-policy with {title}: reverse KL of own answers, seed {run.seed}"
        yield Figure(work, a, _NATS_AN_ANSWER, "", b, f"off-policy at {run.tokens[off.name] / run.tokens[on.name]:.2%}")
    yield _count(f"on-policy with {title}: nearer to the teacher than off-policy", runs, better)
    for work, unit, key, bar in (
        ("reverse KL of own answers", _NATS_AN_ANSWER, "reverse_kl", "> 1x, interval without 0"),
        ("own answers that are right", "of 1", "right", ""),
    ):
        systems = [_system(runs, arm, key) for arm in (on, off)]
        metric = "free_running" if key == "right" else "forward_kl"
        pair = compare(systems, np.ones(systems[0].values.shape[1]), metric=metric)[0]
        a, b = (float(system.values.mean()) for system in systems)
        told = f"on-policy with {title}: {work}, all seeds ({_interval(pair)})"
        yield Figure(told, a, unit, bar, b, "off-policy", smaller_is_better=key != "right")


def _count(work: str, runs: Sequence[Seed], better: int) -> Figure:
    return Figure(work, better, f"of {len(runs)} seeds", f"{len(runs)} of {len(runs)}", smaller_is_better=False)


def _system(runs: Sequence[Seed], arm: Arm, key: str) -> System:
    """An arm's figures by seed and prompt, without prompts that have none."""
    values = np.stack([getattr(run.answers[arm.name], key) for run in runs])
    return System(arm.name, tuple(run.seed for run in runs), values[:, ~np.isnan(values).any(axis=0)])


def _compared(runs: Sequence[Seed], ours: Arm, theirs: Arm) -> Pair:
    seeds = tuple(run.seed for run in runs)
    systems = [System(arm.name, seeds, np.stack([run.rows[arm.name] for run in runs])) for arm in (ours, theirs)]
    return compare(systems, runs[0].row_tokens)[0]


def _interval(pair: Pair) -> str:
    return f"difference {pair.difference:+.4f}, 95 % {pair.low:+.4f} to {pair.high:+.4f}"
