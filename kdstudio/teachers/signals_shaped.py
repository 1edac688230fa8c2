"""Top-k signals with shaped tails: a family is fitted to a sample of rows, then each token finds its place in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from kdstudio.errors import Stopped
from kdstudio.teachers.llama_logits import require_finite, signal_of
from kdstudio.teachers.signals import Float, SparseSignal, concatenate
from kdstudio.teachers.signals_draws import ExactTeacher, Logits, Pair
from kdstudio.teachers.tail_shape import TailShape, fitted

_FEWEST, _MOST = 128, 2048  # tokens of the sample
_SAMPLE_ELEMENTS = 1 << 25  # of its log-probs: 128 MiB


def with_shapes(
    teacher: ExactTeacher, sequences: Sequence[Pair], top_k: int, shape: TailShape, *, stop: Callable[[], bool]
) -> Iterator[tuple[int, SparseSignal]]:
    """For (prompt ids, response ids) pairs yield (index, signal at each response token) as they are done."""

    def reduce(logits: Logits, labels: npt.NDArray[np.int64], *_: int) -> SparseSignal:
        signal = signal_of(logits, labels, top_k)
        return dataclasses.replace(signal, shape=shape.coordinates(logits, signal.ids))

    for index, parts in teacher.read(sequences, reduce, stop=stop):
        yield index, concatenate(parts)


def sample_tokens(vocabulary: int) -> int:
    """How many tokens the family of a vocabulary is fitted to, at most."""
    return max(_FEWEST, min(_MOST, _SAMPLE_ELEMENTS // max(1, vocabulary)))


def fitted_to(
    teacher: ExactTeacher, sequences: Sequence[Pair], top_k: int, tokens: int, *, stop: Callable[[], bool]
) -> TailShape:
    """The family of the teacher's tails, from at most so many `tokens`, spread over the responses of `sequences`.

    Raises `Stopped` when a stop was asked for before all were read.
    """
    before = np.cumsum([0, *(len(response) for _, response in sequences)])
    step = max(1, -(-int(before[-1]) // tokens))

    def reduce(logits: Logits, labels: npt.NDArray[np.int64], index: int, first: int) -> Float:
        kept = logits[-(int(before[index]) + first) % step : len(labels) : step]
        high = kept.max(axis=1, keepdims=True)
        require_finite(high)
        log_probs: Float = kept - high
        log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
        return log_probs

    read = dict(teacher.read(sequences, reduce, stop=stop))
    if len(read) < len(sequences):
        raise Stopped("The teacher was still reading rows for the shape of its tails.")
    return fitted(np.concatenate([part for index in sorted(read) for part in read[index]]), top_k)
