"""Every shipped training recipe on a tiny pair: it trains, and a run that was stopped goes on bit for bit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from kdstudio.distillation import weights as trained
from kdstudio.distillation.rewards import OBJECTIVE_NAME
from kdstudio.distillation.schedule import learning_rate
from kdstudio.distillation.trainer import CHECKPOINTS_NAME
from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs.events import Checkpoint, Metric
from kdstudio.networks.gguf_weights import load_gguf
from kdstudio.project import Project
from kdstudio.project.content import NewPreference
from tests.unit.distillation.family_setting import (
    SHIPPED,
    judge,
    make_full_project,
    shipped,
    train,
    warnings,
    weights,
)
from tests.unit.distillation.setting import curve, journal

STEPS = 5
FRESH = {"source": "fresh", "layer_count": 2, "hidden_size": 32}
LORA = {"adapter": "lora", "lora_rank": 2, "lora_dropout": 0.2}
VARIATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in SHIPPED},
    "projections": ("hidden_states", {"student": FRESH}),
    "filters": ("task_aware", {"student": FRESH}),
    "mean weights": ("ppo", {"optimizer": {"ema": 0.9}}),
    "adapters": ("dpo", {"student": LORA}),
    "adapters on policy": ("grpo", {"student": LORA}),
    "refitted, with a reference": ("ipo", {"student": {"refit": True}, "teacher": {"signals": "dense"}}),
    "refitted adapters": ("kto", {"student": {**LORA, "refit": True}, "teacher": {"signals": "dense"}}),
    "half of the steps": ("grpo", {"rollout": {"share": 0.5}}),
}
"""Every shipped recipe, and what has a state of its own to lose: a recipe with tables laid over it."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture
def project(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One project for all of them, made at first use; on one thread, as these tests are run side by side."""
    monkeypatch.setenv("KDSTUDIO_THREADS", "1")
    found = shared / "test.kdstudio"
    return found if found.exists() else make_full_project(shared, signals=True)


def tables(variation: str) -> dict[str, Any]:
    name, laid = VARIATIONS[variation]
    return shipped(name, **{**laid, "run": {"steps": STEPS}})


def whole(project: Path, variation: str) -> str:
    """The undisturbed run, made once."""
    name = f"whole {variation}"
    if not (project / "runs" / name / "student").exists():
        result = train(project, name, tables(variation))
        (project / "runs" / name / "result.json").write_text(json.dumps(result, allow_nan=False))
    return name


def curves(project: Path, name: str) -> dict[str, dict[int, str]]:
    """All that was measured, but for what the clock and the machine say."""
    folder = project / "runs" / name
    events = [line.event for line in journal(folder) if isinstance(line.event, Metric)]
    names = {name for event in events for name in event.values} - {"tokens_per_second", "memory_bytes"}
    return {name: curve(folder, name) for name in sorted(names)}


@pytest.mark.parametrize("variation", VARIATIONS)
def test_it_trains(project: Path, variation: str) -> None:
    name = whole(project, variation)
    result = json.loads((project / "runs" / name / "result.json").read_text())
    assert result["steps"] == STEPS
    found = curves(project, name)
    assert sorted(found["loss"]) == list(range(1, STEPS + 1))
    assert all(math.isfinite(float.fromhex(value)) for values in found.values() for value in values.values())
    assert sorted(found["held_out_nll"]) == [0, 2, 4, STEPS]
    assert {"held_out_nll", "held_out_forward_kl", "loss"} <= set(result["final"])
    assert set(result["before"]) | {"loss"} == set(result["final"])
    assert not {warned.title for warned in warnings(project, name)} & {"The loss is no longer a number"}


@pytest.mark.parametrize("recipe", SHIPPED)
def test_the_weights_moved(project: Path, recipe: str) -> None:
    _, before = load_gguf(judge(), layers=(0, 3))
    after = weights(project, whole(project, recipe))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in moved if "layers.1" in name}  # the last layer hears of every objective
    assert set(before) <= set(after)


@pytest.mark.parametrize("variation", VARIATIONS)
def test_a_stopped_run_goes_on_bit_for_bit(project: Path, variation: str) -> None:
    expected, name = whole(project, variation), f"stopped {variation}"
    stopped = train(project, name, tables(variation), stop_at=3)
    assert stopped["steps"] == (4 if SHIPPED[VARIATIONS[variation][0]].rollout.steps_each == 2 else 3)
    train(project, name, tables(variation))
    assert curves(project, name) == curves(project, expected)
    ours, theirs = weights(project, name), weights(project, expected)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("variation", ["ppo", "sampled_logits", "half of the steps", "refitted adapters"])
def test_a_run_that_was_killed_goes_on_from_its_checkpoint(
    project: Path, variation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(step: int, *given: Any) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return learning_rate(step, *given)

    name = f"killed {variation}"
    with monkeypatch.context() as patched:
        patched.setattr(trained, "learning_rate", killed)
        with pytest.raises(KeyboardInterrupt):
            train(project, name, tables(variation))
    saved = [line.event.step for line in journal(project / "runs" / name) if isinstance(line.event, Checkpoint)]
    assert saved == [2]
    train(project, name, tables(variation))
    expected = whole(project, variation)
    assert curves(project, name) == curves(project, expected)
    ours, theirs = weights(project, name), weights(project, expected)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_replayed_answers_come_back_from_a_checkpoint(project: Path) -> None:
    run = {"steps": 10, "checkpoint_every": 3, "evaluate_every": 10}
    made = shipped("distillm_adaptive_replay", rollout={"share": 1.0, "capacity": 9}, run=run)
    train(project, "replay", made)
    for steps in (6, 8, 99):
        train(project, "replay stopped", made, stop_at=steps)
    assert curves(project, "replay stopped") == curves(project, "replay")
    newest = max((project / "runs" / "replay" / CHECKPOINTS_NAME).iterdir())
    answers = json.loads((newest / "manifest.json").read_text())["learning"]["answers"]
    assert 9 < answers["written"] == answers["replay"]["stored"] < 9 * 6  # the buffer went round; not all was fresh


def test_a_reward_model_is_what_another_run_learns_from(project: Path) -> None:
    judging = whole(project, "reward_model")
    head = {name: value for name, value in weights(project, judging).items() if name.startswith("reward_model.")}
    assert (project / "runs" / judging / "student" / OBJECTIVE_NAME).is_file()
    assert {name: tuple(value.shape) for name, value in head.items()} == {
        "reward_model.scale": (64,),
        "reward_model.bias": (),
    }
    made = shipped("grpo", reward={"kind": "reward_model", "run": judging})
    assert train(project, "from a reward model", made)["steps"] == 4
    rewards = [float.fromhex(value) for value in curve(project / "runs" / "from a reward model", "reward").values()]
    assert all(math.isfinite(reward) and reward != 0 for reward in rewards)
    with pytest.raises(BadInput, match="no such reward model"):
        train(project, "from nowhere", shipped("grpo", reward={"kind": "reward_model", "run": "gone"}))


def test_two_objectives_that_measure_the_same_say_it_once(project: Path) -> None:
    made = shipped("dpo", objective=[{"name": "dpo"}, {"name": "ipo"}, {"name": "supervised"}])
    train(project, "two", made)
    accuracy = [float.fromhex(value) for value in curve(project / "runs" / "two", "preference_accuracy").values()]
    assert all(0 <= value <= 1 for value in accuracy)
    assert accuracy[-1] == 1


# --------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("recipe", "rate"),
    [
        *((name, math.nan) for name in ("match", "dpo", "kto", "pro", "reward_model", "minilm", "byte_aligned", "gkd")),
        ("imitate", math.inf),
        ("grpo", math.nan),
        ("ppo", math.inf),
    ],
)
def test_what_is_no_number_stops_the_run(
    project: Path, recipe: str, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step size that is no number spoils the weights, as an overflow would: what comes next finds it."""
    spoiling = (
        2 if SHIPPED[recipe].rollout.steps_each == 2 else 1
    )  # the second step of a round, or it would be found there
    rates = {spoiling: rate}
    monkeypatch.setattr(trained, "learning_rate", lambda step, *given: rates.get(step, learning_rate(step, *given)))
    name, run = f"diverging {recipe} {rate}", {"evaluate_every": 9, "checkpoint_every": 9}
    with pytest.raises(KnownError, match=r"no longer (a number|numbers)") as caught:
        train(project, name, shipped(recipe, run=run))
    if "logits" not in caught.value.title:  # those are found before the step, while it writes
        assert f"At step {spoiling + 2}" in caught.value.detail
    assert "learning_rate" in caught.value.hint
    assert not (project / "runs" / name / "student").exists()


def test_preferences_without_a_better_side_are_left_out(tmp_path: Path) -> None:
    project = make_full_project(tmp_path)
    with Project.open(project) as opened:
        ids = [row.id for row in opened.rows.preferences()]
        opened.rows.set_status("preference", ids[2:], "rejected")
        opened.rows.add_preferences(
            NewPreference(number, ("the same", "worth"), (1.0, 1.0), status="accepted") for number in range(1, 8)
        )
    data = {"held_out_tag": "", "held_out": 0.5}
    result = train(project, "two left", shipped("dpo", data=data))
    assert result["rows"] + result["held_out_rows"] == sum(len(pair) for pair in ((0, 1), (0, 1, 2)))
    with Project.open(project) as opened:
        opened.rows.set_status("preference", ids, "rejected")
    with pytest.raises(BadInput, match="no rows to train on") as caught:
        train(project, "none left", shipped("dpo", data=data))
    assert "better and a worse" in caught.value.detail


@pytest.mark.parametrize("recipe", ["dpo", "pro", "gkd", "minilm"])
def test_what_passes_the_models_length_is_left_out_and_said(project: Path, recipe: str) -> None:
    result = train(project, f"long {recipe}", shipped(recipe, data={"maximum_tokens": 55}))
    assert [warned.title.endswith("rows are too long") for warned in warnings(project, f"long {recipe}")] == [True]
    every = json.loads((project / "runs" / whole(project, recipe) / "result.json").read_text())
    assert 0 < result["rows"] < every["rows"]
    assert 0 < result["held_out_rows"] <= every["held_out_rows"]
