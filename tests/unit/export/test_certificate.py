"""When a written file passes: on what share of positions it may differ, and when one of a few may be lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from kdstudio.evaluation.logits import Logits
from kdstudio.export.certificate import certify


class Rows:
    """A model that gives the rows it was made with."""

    vocabulary_size = 3

    def __init__(self, rows: list[list[float]]) -> None:
        self._rows = np.asarray(rows, dtype=np.float32)

    def at(self, prompt: Sequence[int], response: Sequence[int]) -> Iterator[Logits]:
        del prompt, response
        yield self._rows

    def close(self) -> None:
        pass


def passes(tmp_path: Path, *, positions: int, differing: int, apart: float, quantization: str = "F16") -> bool:
    """Whether a file passes whose first choice differs at some positions, by logits that are so far `apart`."""
    ours = [[1.0, 1.0 - apart / 2, -4.0]] * positions
    theirs = [[1.0 - apart / 2, 1.0, -4.0]] * differing + ours[differing:]
    pairs = [([1], [0] * positions)]
    found = certify(tmp_path, quantization, Rows(ours), pairs, text="some", written=Rows(theirs))
    assert found.positions == positions
    assert found.top1_agreement == pytest.approx(1 - differing / positions)
    return found.passed


def test_one_of_few_may_be_lost_where_it_was_a_tie_but_for_rounding(tmp_path: Path) -> None:
    assert passes(tmp_path, positions=93, differing=0, apart=1e-3)
    assert passes(tmp_path, positions=93, differing=1, apart=1e-3)
    assert not passes(tmp_path, positions=93, differing=1, apart=0.5)
    assert not passes(tmp_path, positions=93, differing=2, apart=1e-3)


def test_of_many_one_in_a_hundred_may_differ(tmp_path: Path) -> None:
    assert passes(tmp_path, positions=1000, differing=10, apart=0.5)
    assert not passes(tmp_path, positions=1000, differing=11, apart=1e-3)
    assert passes(tmp_path, positions=1000, differing=100, apart=0.5, quantization="BF16")
    assert not passes(tmp_path, positions=1000, differing=101, apart=0.5, quantization="BF16")


def test_a_file_of_numbers_that_are_none_never_passes(tmp_path: Path) -> None:
    broken = Rows([[float("nan"), 1.0, 0.0]] * 50)
    found = certify(tmp_path, "F16", Rows([[1.0, 0.0, 0.0]] * 50), [([1], [0] * 50)], text="some", written=broken)
    assert not found.passed
