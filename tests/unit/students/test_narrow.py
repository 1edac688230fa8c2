"""Width pruning on real tiny networks: what is left computes what it did, and the busiest parts are what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdstudio.catalogue.training import StudentTable
from kdstudio.distillation.divergences import forward_kl
from kdstudio.errors import BadInput
from kdstudio.networks.gguf_weights import load_gguf
from kdstudio.networks.network import Config, State, assemble
from kdstudio.students.build import build, narrowed
from kdstudio.students.narrow import Kept, Width, busiest, narrow, wanted_width
from kdstudio.students.save import open_student
from tests.tiny import tiny_model

SIZES: dict[str, Any] = {"layers": 3, "hidden": 64, "heads": 4, "kv_heads": 2}
ROWS = [[(7 * row + 3 * place) % 390 + 3 for place in range(6 + row)] for row in range(8)]
IDS = torch.tensor([row[:6] for row in ROWS])


def loaded(architecture: str = "llama") -> tuple[Config, State]:
    return load_gguf(tiny_model(architecture=architecture, **SIZES))


def logits(config: Config, state: State) -> Tensor:
    with torch.no_grad():
        found: Tensor = assemble(config, state, "tiny")(IDS).logits
    return found.flatten(0, 1).double()


def width_of(config: Config, **table: int) -> Width:
    found = wanted_width(StudentTable(**table), config)
    assert found is not None
    return found


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_all_kept_is_the_same_and_every_part_gets_smaller(architecture: str) -> None:
    config, state = loaded(architecture)
    whole = width_of(config, kept_width=64)
    kept = busiest(assemble(config, state, "tiny"), range(3), ROWS, whole)
    assert kept.channels == list(range(64))
    assert torch.allclose(logits(*narrow(config, state, kept, whole)), logits(config, state), atol=1e-4)
    half = width_of(config, kept_width=32, kept_feed_forward=64, kept_heads=2)
    made, weights = narrow(config, state, busiest(assemble(config, state, "tiny"), range(3), ROWS, half), half)
    assert (made["hidden_size"], made["intermediate_size"]) == (32, 64)
    assert (made["num_attention_heads"], made["num_key_value_heads"], made["head_dim"]) == (2, 1, 16)
    assert torch.isfinite(logits(made, weights)).all()


def silent(state: State) -> State:
    """The same network with a neuron, a group of heads and a channel that do nothing, in every layer."""
    made = {name: tensor.clone() for name, tensor in state.items()}
    for name, tensor in made.items():
        if name.endswith("down_proj.weight"):
            tensor[:, 5:69] = 0
        if name.endswith(("gate_proj.weight", "up_proj.weight")):
            tensor[5:69] = 0
        if name.endswith("v_proj.weight"):
            tensor[16:] = 0  # the second of two groups
    return made


def test_what_does_nothing_is_left_out_and_nobody_notices() -> None:
    config, state = loaded()
    state = silent(state)
    feed_forward = config["intermediate_size"] - 64
    fewer = width_of(config, kept_feed_forward=feed_forward, kept_heads=2)
    kept = busiest(assemble(config, state, "tiny"), range(3), ROWS, fewer)
    assert all(groups == [0] for groups in kept.groups)
    assert all(not set(neurons) & set(range(5, 69)) for neurons in kept.neurons)
    made, weights = narrow(config, state, kept, fewer)
    assert torch.allclose(logits(made, weights), logits(config, state), atol=1e-4)


def test_the_busiest_are_worth_more_than_the_idlest() -> None:
    config, state = loaded()
    network = assemble(config, state, "tiny")
    half = width_of(config, kept_width=32, kept_feed_forward=config["intermediate_size"] // 2)
    kept = busiest(network, range(3), ROWS, half)
    every = set(range(64)), set(range(config["intermediate_size"]))
    idle = replace(
        kept,
        channels=sorted(every[0] - set(kept.channels)),
        neurons=[sorted(every[1] - set(neurons)) for neurons in kept.neurons],
    )
    right = logits(config, state)
    near, far = (float(forward_kl(logits(*narrow(config, state, one, half)), right).mean()) for one in (kept, idle))
    assert near < 0.8 * far


def test_a_student_is_cut_in_depth_and_width_and_saved(tmp_path: Path) -> None:
    table = StudentTable(layers=(0, 2), kept_width=32, kept_feed_forward=64, kept_heads=2, adapter="lora", lora_rank=2)
    begun = build(table, tiny_model(**SIZES), seed=1)
    assert begun.wrapped is None
    made, kept = narrowed(begun, table, None, ROWS, 1)
    assert made.wrapped is not None
    assert (len(kept.neurons), len(kept.channels)) == (2, 32)
    again, same = narrowed(build(table, tiny_model(**SIZES), seed=1), table, kept, [], 1)
    assert same is kept
    made.save(tmp_path / "student", {})
    network, _, config = open_student(tmp_path / "student")
    assert (config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]) == (2, 32, 64)
    assert made.description["parameters"] == again.description["parameters"]
    assert made.description["parameters"] == sum(item.numel() for item in network.parameters())


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"kept_width": 128}, "kept_width is 128"),
        ({"kept_width": 40}, "steps of 32"),
        ({"kept_heads": 3}, "steps of 2"),
        ({"kept_width": 32, "kept_heads": 6}, "multiple of its heads"),
        ({"kept_width": 32, "refit": True}, "same width"),
        ({"kept_width": 32, "source": "fresh"}, "fresh student"),
    ],
)
def test_a_width_that_cannot_be_kept_is_refused(table: dict[str, Any], words: str) -> None:
    config = {**loaded()[0], "num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 96}
    with pytest.raises(BadInput) as caught:
        wanted_width(StudentTable(**table), config)
    assert words in caught.value.detail


def test_nothing_asked_leaves_the_width_alone() -> None:
    assert wanted_width(StudentTable(layer_count=2), loaded()[0]) is None
    assert Kept([1]).groups == []
