from __future__ import annotations

import pytest
import torch

from kdstudio.errors import BadInput
from kdstudio.students.prune import choose_layers, keep_layers


def test_an_even_spread_keeps_the_first_two_and_the_last() -> None:
    assert choose_layers(30, layer_count=14) == (0, 1, 3, 6, 8, 10, 13, 15, 17, 20, 22, 24, 27, 29)
    assert choose_layers(30) == tuple(range(30))
    assert choose_layers(30, layer_count=1) == (0,)
    assert choose_layers(30, layer_count=2) == (0, 29)


@pytest.mark.parametrize("total", [1, 2, 3, 4, 7, 12, 30, 80])
def test_every_count_gives_so_many_distinct_layers_in_order(total: int) -> None:
    for count in range(1, total + 1):
        layers = choose_layers(total, layer_count=count)
        assert len(layers) == count
        assert list(layers) == sorted(set(layers))
        assert layers[0] == 0
        assert count == 1 or layers[-1] == total - 1


def test_given_layers_are_kept_as_given() -> None:
    assert choose_layers(8, layers=(0, 2, 7), layer_count=5) == (0, 2, 7)


@pytest.mark.parametrize(("layers", "count"), [((0, 8), 0), ((-1,), 0), ((1, 1), 0), ((), 9)])
def test_layers_that_do_not_exist_are_refused(layers: tuple[int, ...], count: int) -> None:
    with pytest.raises(BadInput):
        choose_layers(8, layers, count)


def test_keeping_layers_renumbers_their_tensors() -> None:
    state = {f"model.layers.{index}.mlp.up_proj.weight": torch.full((1,), float(index)) for index in range(4)}
    state["model.norm.weight"] = torch.ones(1)
    config, kept = keep_layers({"num_hidden_layers": 4}, state, (0, 3))
    assert config["num_hidden_layers"] == 2
    assert set(kept) == {"model.norm.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"}
    assert kept["model.layers.1.mlp.up_proj.weight"].item() == 3
