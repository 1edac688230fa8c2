"""Random draws from the teacher's exact distributions: a short signal that is right on average.

The k likeliest tokens alone pull a student towards a sharper teacher than there is; draws do not, whatever their number
(Anshumann et al. 2025, RS-KD, https://arxiv.org/abs/2503.16870).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from kdstudio.teachers.llama_logits import require_finite
from kdstudio.teachers.signals import DrawnSignal, Draws, concatenate_draws

Pair = tuple[Sequence[int], Sequence[int]]
Logits = npt.NDArray[np.float32]


class ExactTeacher(Protocol):
    """A teacher whose whole distributions can be had while it reads: what draws are made from."""

    def read(self, sequences: Sequence[Pair], reduce: Any, *, stop: Callable[[], bool]) -> Iterator[tuple[int, Any]]:
        """For each pair yield (index, what `reduce` made of [n, V] logits, in parts); see `llama_scoring.Reduce`."""
        ...


def shows_all(teacher: object) -> TypeGuard[ExactTeacher]:
    """Whether this teacher's whole distributions can be had."""
    return callable(getattr(teacher, "read", None))


def drawn(
    teacher: ExactTeacher, sequences: Sequence[Pair], rule: Draws, *, stop: Callable[[], bool]
) -> Iterator[tuple[int, DrawnSignal]]:
    """For (prompt ids, response ids) pairs yield (index, draws at each response token) as they are done."""

    def reduce(logits: Logits, labels: npt.NDArray[np.int64], index: int, first: int) -> DrawnSignal:
        return draw(logits, labels, chances(sequences[index], rule, first, len(labels)))

    for index, parts in teacher.read(sequences, reduce, stop=stop):
        yield index, concatenate_draws(parts)


def chances(pair: Pair, rule: Draws, first: int, count: int) -> npt.NDArray[np.float64]:
    """[count, draws] numbers in 0..1 for a response's tokens from `first` on: those of the seed and the text alone.

    So a row's draws are the same in whatever company and in whatever pieces it is read.
    """
    source = np.random.default_rng([rule.seed, len(pair[0]), *pair[0], *pair[1]])
    return source.random((first + count, rule.count))[first:]


def draw(logits: Logits, labels: npt.NDArray[np.int64], uniform: npt.NDArray[np.float64]) -> DrawnSignal:
    """Draws from the softmax of [N, V] logits, one for each of the [N, n] `uniform` numbers, and the labels' log-probs.

    By inverting each row's sums. Raises `KnownError` when the logits are not numbers.
    """
    count, draws = uniform.shape
    high = logits.max(axis=1)
    require_finite(high)
    ids, counts = np.zeros((count, draws), np.uint32), np.zeros((count, draws), np.uint16)
    totals, widest = np.empty(count), 0
    for row in range(count):
        sums = np.cumsum(np.exp(logits[row] - high[row]), dtype=np.float64)
        totals[row] = sums[-1]
        below = np.minimum(uniform[row] * sums[-1], np.nextafter(sums[-1], 0))
        found, times = np.unique(np.searchsorted(sums, below, side="right"), return_counts=True)
        ids[row, : len(found)], counts[row, : len(found)] = found, times
        widest = max(widest, len(found))
    label = logits[np.arange(count), labels] - high - np.log(totals)
    return DrawnSignal(ids[:, :widest], counts[:, :widest], label.astype(np.float32))
