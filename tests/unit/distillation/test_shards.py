"""Weights cut over processes: real FSDP2 over gloo, in one process for its parts and in two for a whole run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from kdstudio.catalogue.training import OptimizerTable, RunTable
from kdstudio.distillation.checkpoint import newest_checkpoint, restore_checkpoint, save_checkpoint
from kdstudio.distillation.shards import is_sharded
from kdstudio.distillation.weights import TrainedWeights
from kdstudio.errors import BadInput
from kdstudio.networks.gguf_weights import load_gguf
from kdstudio.networks.network import assemble
from kdstudio.students.save import open_student
from tests.tiny import tiny_model
from tests.unit.distillation.setting import (
    JournalledJob,
    curve,
    forget_device,
    make_project,
    make_run,
    recipe,
    training_rows,
    whole_batch,
)

SHARDED = {"processes": 2, "sharding": "fsdp2"}
TABLE = OptimizerTable(clip_norm=0.1, ema=0.5, weight_decay=0.1)
FAMILIES: dict[str, dict[str, Any]] = {
    "a clipped mean": {"optimizer": {"ema": 0.5, "clip_norm": 0.1}},
    "fewer rows than processes": {"run": {"rows_per_batch": 1, "accumulation": 3}},
    "adapters": {"student": {"adapter": "lora", "lora_rank": 4}},
    "hidden states": {"objective": [{"name": "hidden_mse"}]},
    "own answers": {"objective": [{"name": "jensen_shannon"}], "rollout": {"share": 0.5, "max_tokens": 6}},
    "checkpointed blocks": {"student": {"gradient_checkpointing": True}},
    "a refit": {"student": {"refit": True, "gradient_checkpointing": True}},  # rows are read whole in one process too
    "a reference": {"objective": [{"name": "spin"}], "rollout": {"max_tokens": 6}},
    "groups": {"objective": [{"name": "grpo"}], "rollout": {"max_tokens": 6, "samples": 3}},
}


@pytest.fixture
def accelerator(tmp_path: Path) -> Iterator[Accelerator]:
    """One process with a group of its own."""
    meeting = f"file://{tmp_path / 'meeting'}"
    torch.distributed.init_process_group("gloo", meeting, rank=0, world_size=1)
    forget_device()
    yield Accelerator(cpu=True)
    torch.distributed.destroy_process_group()
    forget_device()


def network() -> PreTrainedModel:
    return assemble(*load_gguf(tiny_model(layers=2)), "tiny")


def step(weights: TrainedWeights, model: PreTrainedModel, number: int) -> float:
    """One step towards smaller states; returns the gradients' norm."""
    batch = whole_batch(training_rows(6, share_prefix=False), range(2))
    states = model.get_submodule("model")(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    torch.autograd.backward(states.square().mean() + model.get_parameter("lm_head.weight").square().mean())
    norm = weights.clip()
    weights.update(number, 4)
    return norm


def test_sharded_weights_step_as_whole_ones_and_come_back_whole(accelerator: Accelerator) -> None:
    plain, cut = network(), network()
    whole, sharded = (TrainedWeights(model, nn.ModuleDict(), TABLE, accelerator) for model in (plain, cut))
    sharded.shard()
    assert is_sharded(cut)
    assert not is_sharded(plain)
    kinds = {name: isinstance(item, DTensor) for name, item in sharded.parameters.items()}
    assert {name for name, is_cut in kinds.items() if not is_cut} == {"model.embed_tokens.weight", "lm_head.weight"}
    for number in range(3):
        assert step(sharded, cut, number) == pytest.approx(step(whole, plain, number), rel=1e-5)
    whole.finish()
    sharded.finish()
    for name, item in plain.named_parameters():
        found = cut.get_parameter(name)
        assert not isinstance(found, DTensor)
        assert float((found - item).detach().abs().max()) < 1e-4, name  # of steps of 3e-3: Adam enlarges rounding


def test_a_checkpoint_does_not_tell_how_its_weights_were_held(accelerator: Accelerator, tmp_path: Path) -> None:
    model = network()
    sharded = TrainedWeights(model, nn.ModuleDict(), TABLE, accelerator)
    sharded.shard()
    step(sharded, model, 0)
    shared: dict[str, Any] = {"recipe": "r", "progress": {}, "versions": {}, "extra": sharded.average.tensors()}
    assert save_checkpoint(tmp_path, 1, sharded.parameters, sharded.optimizer, writes=False, **shared).step == 1
    assert not list(tmp_path.glob("step-*"))
    save_checkpoint(tmp_path, 1, sharded.parameters, sharded.optimizer, **shared)
    found, faults = newest_checkpoint(tmp_path, "r")
    assert found is not None
    assert not faults
    norms: list[float] = []
    for cut in (True, False):
        other = network()
        weights = TrainedWeights(other, nn.ModuleDict(), TABLE, accelerator)
        if cut:
            weights.shard()
        weights.average.restore(restore_checkpoint(found, weights.parameters, weights.optimizer))
        norms.append(step(weights, other, 1))
        weights.finish()
        norms.append(float(other.get_parameter("model.layers.1.mlp.up_proj.weight").detach().norm()))
    step(sharded, model, 1)
    assert norms[:2] == pytest.approx(norms[2:], rel=1e-6)


def test_what_cannot_be_sharded_is_refused_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="2 or more"):
        RunTable(sharding="fsdp2")
    project = make_project(tmp_path)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"student": {"adapter": "qlora"}}, "4-bit"),
        ({"objective": [{"name": "attention_relation"}]}, "Attention relations"),
    ]
    for tables, words in refused:
        folder = make_run(project, words, recipe(run=SHARDED, **tables))
        with pytest.raises(BadInput, match=words):
            JournalledJob(folder).run()


@pytest.mark.slow  # two processes start for each; the parts are tested above in one
@pytest.mark.parametrize("family", FAMILIES)
def test_two_sharded_processes_walk_the_curve_of_one(tmp_path: Path, family: str) -> None:
    project, found = make_project(tmp_path), []
    for held in ({}, SHARDED):
        tables = {"objective": [{"name": "forward_kl"}], **FAMILIES[family]}
        run = {"steps": 4, "rows_per_batch": 5, **tables.get("run", {}), **held}
        folder = make_run(project, f"run {len(held)}", recipe(**{**tables, "run": run}))
        result = JournalledJob(folder).run()
        curves = [*curve(folder).values(), *curve(folder, "grad_norm").values()]
        found.append([*map(float.fromhex, curves), *result["final"].values()])
        assert open_student(folder / "student")[2]["num_hidden_layers"] == 2
    assert found[1] == pytest.approx(found[0], rel=1e-5, abs=1e-7)


@pytest.mark.slow  # four processes start; `test_job` resumes in one
def test_a_sharded_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    tables = recipe(run={"steps": 6, "rows_per_batch": 3, **SHARDED}, optimizer={"ema": 0.5})
    whole = JournalledJob(make_run(project, "whole", tables)).run()
    folder = make_run(project, "broken", tables)
    stopped = JournalledJob(folder, 6).run()
    assert 0 < stopped["steps"] < 6
    assert JournalledJob(folder).run()["final"] == whole["final"]
    assert curve(folder) == curve(project / "runs" / "whole")
    ours, theirs = (open_student(project / "runs" / name / "student")[0] for name in ("broken", "whole"))
    assert all(torch.equal(item, theirs.get_parameter(name)) for name, item in ours.named_parameters())
