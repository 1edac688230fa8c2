"""kill -9 of the training process at random moments: resumed each time, it walks the undisturbed run's very curve."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdstudio import files
from kdstudio.distillation.trainer import CHECKPOINTS_NAME
from kdstudio.jobs import launchers
from kdstudio.jobs.events import Checkpoint, Failed, Finished, Metric
from tests.unit.distillation.setting import JournalledJob, curve, journal, make_project, make_run, recipe

pytestmark = pytest.mark.faults
STEPS = 60
RUN = {"steps": STEPS, "rows_per_batch": 4, "evaluate_every": 7, "checkpoint_every": 3}
CURVES = ("loss", "grad_norm", "learning_rate", "held_out_forward_kl", "held_out_top1_agreement")
_PATIENCE = 180.0


def last_step(run_folder: Path) -> int:
    return max((line.event.step for line in journal(run_folder) if isinstance(line.event, Metric)), default=0)


def kill_after(run_folder: Path, step: int, delay: float) -> None:
    """Start the real child, and kill it without warning `delay` seconds after it journalled `step`."""
    process = launchers.launch(run_folder, {}, attached=False)
    deadline = time.monotonic() + _PATIENCE
    while process.poll() is None and last_step(run_folder) < step and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    process.wait()


def finish(run_folder: Path) -> None:
    process = launchers.launch(run_folder, {}, attached=False)
    assert process.wait(_PATIENCE) == 0, (run_folder / "log.txt").read_text()


def check_against_undisturbed(tmp_path: Path, kills: int, seed: int) -> None:
    print(f"kills drawn with seed {seed}")  # shown when it fails
    chance = random.Random(seed)
    project = make_project(tmp_path)
    whole, broken = (make_run(project, name, recipe(run=RUN)) for name in ("whole", "broken"))
    for _ in range(kills):
        # Half of the kills fall into the time in which the next checkpoint is written.
        step = last_step(broken) + 1 + chance.randrange(2 * STEPS // kills)
        kill_after(broken, min(step, STEPS - 1), chance.choice((0.0, 0.0, chance.uniform(0, 0.1))))
    finish(broken)
    JournalledJob(whole).run()
    for name in CURVES:
        assert curve(broken, name) == curve(whole, name), name
    ours, theirs = (load_file(folder / "student" / "model.safetensors") for folder in (broken, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ended = [line.event for line in journal(broken) if isinstance(line.event, Finished | Failed)]
    assert [type(event) for event in ended] == [Finished]
    assert not list((broken / CHECKPOINTS_NAME).glob(f"{files.TEMPORARY_MARK}*"))
    assert len(list((broken / CHECKPOINTS_NAME).iterdir())) == 2
    saved = {line.event.step for line in journal(broken) if isinstance(line.event, Checkpoint)}
    assert saved == set(range(3, STEPS, 3))


def test_two_kills(tmp_path: Path) -> None:
    check_against_undisturbed(tmp_path, kills=2, seed=int(time.time()))


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path) -> None:
    check_against_undisturbed(tmp_path, kills=20, seed=int(time.time()))
