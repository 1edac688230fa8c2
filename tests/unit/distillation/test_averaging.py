"""The running mean of the weights: its formula, its place while one measures, and what a run ends with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdstudio.distillation.averaging import WeightAverage
from kdstudio.distillation.trainer import CHECKPOINTS_NAME
from tests.unit.distillation.family_setting import shipped, train, weights
from tests.unit.distillation.setting import make_project

DECAY = 0.9


def walked(steps: int, decay: float = DECAY) -> tuple[dict[str, torch.nn.Parameter], WeightAverage, list[torch.Tensor]]:
    """Weights that took random steps, their mean, and all the values they had."""
    generator = torch.Generator().manual_seed(0)
    parameters = {"a": torch.nn.Parameter(torch.randn(3, 4, generator=generator))}
    average, values = WeightAverage(parameters, decay), [parameters["a"].detach().clone()]
    for step in range(1, steps + 1):
        with torch.no_grad():
            parameters["a"].add_(torch.randn(3, 4, generator=generator))
        average.update(step)
        values.append(parameters["a"].detach().clone())
    return parameters, average, values


@pytest.mark.parametrize("steps", [0, 1, 5, 200])
def test_it_is_the_mean_that_the_formula_says(steps: int) -> None:
    _, average, values = walked(steps)
    expected = values[0].double()
    for step, value in enumerate(values[1:], start=1):
        decay = min(DECAY, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value.double()
    torch.testing.assert_close(average.tensors()["mean.a"].double(), expected, atol=1e-5, rtol=1e-5)


def test_its_place_is_only_lent() -> None:
    parameters, average, values = walked(7)
    with average.applied():
        assert torch.equal(parameters["a"], average.tensors()["mean.a"])
    assert torch.equal(parameters["a"], values[-1])
    with pytest.raises(ArithmeticError), average.applied():
        raise ArithmeticError
    assert torch.equal(parameters["a"], values[-1])
    assert parameters["a"].requires_grad
    average.keep()
    assert torch.equal(parameters["a"], average.tensors()["mean.a"])


def test_without_a_decay_there_is_none() -> None:
    parameters, average, values = walked(3, 0.0)
    assert average.tensors() == {}
    with average.applied():
        assert torch.equal(parameters["a"], values[-1])
    average.keep()
    average.restore({})
    average.restart()
    assert torch.equal(parameters["a"], values[-1])


def test_it_comes_back_and_begins_anew() -> None:
    parameters, average, values = walked(5)
    other = WeightAverage(parameters, DECAY)
    other.restore({name: mean.clone() for name, mean in average.tensors().items()})
    for each in (average, other):
        each.update(6)
    assert torch.equal(other.tensors()["mean.a"], average.tensors()["mean.a"])
    other.restart()
    assert torch.equal(other.tensors()["mean.a"], values[-1])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDSTUDIO_THREADS", "1")
    return make_project(tmp_path)


def test_a_run_is_measured_and_ends_with_the_mean(project: Path) -> None:
    run = {"steps": 6, "evaluate_every": 3, "checkpoint_every": 3}
    for name, decay in (("plain", 0.0), ("mean", 0.9)):
        made = shipped("imitate", optimizer={"ema": decay, "learning_rate": 3e-3}, run=run)
        train(project, name, made, stop_at=5)
    saved = load_file(max((project / "runs" / "mean" / CHECKPOINTS_NAME).iterdir()) / "weights.safetensors")
    stopped, plain = weights(project, "mean"), weights(project, "plain")
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(saved[name], plain[name])  # training itself knows nothing of the mean
    assert not torch.equal(stopped[name], plain[name])
    results = [train(project, each, shipped("imitate", run=run)) for each in ("plain", "mean")]
    assert results[0]["final"]["loss"] == results[1]["final"]["loss"]
    assert results[0]["final"]["held_out_nll"] != results[1]["final"]["held_out_nll"]
    kept = json.loads((project / "runs" / "mean" / "student" / "student.json").read_text())
    assert kept["held_out"]["held_out_nll"] == results[1]["final"]["held_out_nll"]


def test_the_mean_begins_at_a_refitted_student(project: Path) -> None:
    """With one step and hardly any step size, the mean is the refitted student and not the one that was cut."""
    student = {"refit": True, "freeze_embeddings": True}
    optimizer = {"ema": 0.999, "learning_rate": 1e-9, "warmup_steps": 0}
    made = shipped("match", teacher={"signals": "dense"}, student=student, optimizer=optimizer, run={"steps": 1})
    result = train(project, "refitted", made)
    refitted, final = (result[part]["held_out_forward_kl"] for part in ("refitted", "final"))
    assert final == pytest.approx(refitted, rel=1e-4)
    assert final < 0.9 * result["before"]["held_out_forward_kl"]
