from __future__ import annotations

import json
import random

import numpy as np
import torch

from kdstudio.distillation.randomness import random_state, restore_random_state, seed_everything, stream, stream_seed


def draw() -> tuple[object, ...]:
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()  # noqa: NPY002


def test_streams_are_named_and_unrelated() -> None:
    assert stream_seed(1, "data", 0) == stream_seed(1, "data", 0)
    assert (
        len({stream_seed(seed, name, part) for seed in (0, 1) for name in ("data", "dropout") for part in (0, 1)}) == 8
    )
    assert stream(1, "data").permutation(9).tolist() == stream(1, "data").permutation(9).tolist()


def test_the_state_comes_back_through_json() -> None:
    seed_everything(3, "x")
    draw()
    random.gauss(0, 1)  # an odd number of Gaussians leaves one waiting
    np.random.randn()  # noqa: NPY002
    numbers, tensors = random_state()
    expected = draw()
    seed_everything(4, "y")
    restore_random_state(json.loads(json.dumps(numbers)), tensors)
    assert draw() == expected
