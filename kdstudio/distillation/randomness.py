"""Chance by named streams: every random choice of a run comes from its one seed, and none shifts another.

The states of all four generators go into a checkpoint as plain numbers and tensors; nothing is pickled.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def stream_seed(seed: int, *name: object) -> int:
    """A 63-bit seed for the stream `name` ("data", epoch), unrelated to that of any other name."""
    digest = hashlib.blake2b(repr((seed, *name)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stream(seed: int, *name: object) -> np.random.Generator:
    """A generator of its own for the stream `name`."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, *name)))


def seed_everything(seed: int, *name: object) -> None:
    """Set the global generators, which dropout and initialisation read, to the stream `name`."""
    value = stream_seed(seed, *name)
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 - libraries may still read the legacy global generator
    torch.manual_seed(value)


def random_state() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The states of Python's, NumPy's and torch's generators (every GPU's too): numbers for JSON, tensors."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    numbers = {
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": {"kind": str(kind), "position": int(position), "has_gauss": int(has_gauss), "cached": float(cached)},
    }
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys, np.int64).copy())}
    if torch.cuda.is_available():
        tensors |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return numbers, tensors


def restore_random_state(numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Put back what `random_state` gave. GPUs that are not there are left out."""
    python, legacy = numbers["python"], numbers["numpy"]
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
    keys = tensors["numpy"].numpy().astype(np.uint32)
    state = (legacy["kind"], keys, legacy["position"], legacy["has_gauss"], legacy["cached"])
    np.random.set_state(state)  # noqa: NPY002
    torch.set_rng_state(tensors["torch"].to(torch.uint8))
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(devices):
        if f"cuda.{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{index}"].to(torch.uint8), index)
