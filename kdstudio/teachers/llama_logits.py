"""From rows of logits to signals and tokens: exact top-k without sorting the vocabulary, and seeded sampling.

The k-th largest of the maxima of equal blocks is a threshold that at least k logits reach, so that only the few at or
above it are sorted: one pass over the vocabulary for the maxima, one for the exponentials.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kdstudio.errors import KnownError
from kdstudio.teachers.base import Sampling
from kdstudio.teachers.signals import SparseSignal

Float = npt.NDArray[np.float32]
Rows = npt.NDArray[np.float32]
_BLOCK = 128
_SMALL_NOISE, _LEAST_NOISE = 2.0**-8, np.float32(1e-30)
_NUCLEUS_FIRST = 256  # how many of the likeliest tokens are tried before the whole vocabulary is sorted for top-p


def signal_of(logits: Rows, labels: npt.NDArray[np.int64], top_k: int) -> SparseSignal:
    """The teacher signal of [N, V] logits at [N] label ids, `top_k` at most V.

    Log-probs are normalised over the whole vocabulary; the tail is summed, not subtracted: a small one is right too.
    Raises `KnownError` when the logits are not numbers.
    """
    count, vocabulary = logits.shape
    top_k = min(top_k, vocabulary)
    ids, values = np.empty((count, top_k), np.uint32), np.empty((count, top_k), np.float32)
    normaliser, tail = np.empty(count, np.float32), np.empty(count, np.float32)
    maxima, high = _maxima(logits, top_k)
    require_finite(high)
    scratch = np.empty(vocabulary, np.float32)
    with np.errstate(divide="ignore", under="ignore"):
        for row in range(count):
            best = _largest(logits[row], maxima[row], top_k)
            np.exp(np.subtract(logits[row], high[row], out=scratch), out=scratch)
            inside = scratch[best].sum(dtype=np.float64)
            scratch[best] = 0
            outside = scratch.sum(dtype=np.float32)
            normaliser[row] = high[row] + np.log(inside + outside)
            ids[row], values[row], tail[row] = best, logits[row][best], np.log(outside / (inside + outside))
    label = logits[np.arange(count), labels] - normaliser
    return SparseSignal(ids, values - normaliser[:, None], tail, label)


def require_finite(high: Float) -> None:
    """Raises `KnownError` unless the rows' maxima are numbers."""
    if not np.isfinite(high).all():
        raise KnownError(
            "The teacher computed no numbers",
            "Its logits are not finite: the file may be damaged, or too coarsely quantized.",
            "Try another file of the same model.",
        )


def _maxima(logits: Rows, top_k: int) -> tuple[Rows, Float]:
    """[N, blocks] maxima of at least `top_k` equal blocks and what is left over, and each row's maximum.

    A block is every n-th value rather than neighbours: the maxima then come of whole vectors, three times as fast.
    """
    count, vocabulary = logits.shape
    block = max(1, min(_BLOCK, vocabulary // (2 * top_k)))
    whole = vocabulary // block * block
    maxima: Rows = logits[:, :whole].reshape(count, block, -1).max(axis=1)
    if whole < vocabulary:
        maxima = np.concatenate([maxima, logits[:, whole:].max(axis=1, keepdims=True)], axis=1)
    return maxima, maxima.max(axis=1)


def _largest(row: Float, maxima: Float, top_k: int) -> npt.NDArray[np.intp]:
    """Ids of the `top_k` largest values, largest first, the lower id first among equals."""
    threshold = np.partition(maxima, len(maxima) - top_k)[len(maxima) - top_k]
    found = np.flatnonzero(row >= threshold)
    return found[np.argsort(-row[found], kind="stable")[:top_k]]


def choose(logits: Rows, samplings: Sequence[Sampling], sources: Sequence[np.random.Generator]) -> list[int]:
    """One token for each row of [B, V] logits; each row draws from its own source, unless it is greedy.

    A row's token depends on its logits, its sampling and its source alone, whatever else is in the batch.
    """
    best = logits.argmax(axis=1).tolist()
    return [
        token if sampling.temperature <= 0 else _sampled(row, sampling, source)
        for row, sampling, source, token in zip(logits, samplings, sources, best, strict=True)
    ]


def _sampled(row: Float, sampling: Sampling, source: np.random.Generator) -> int:
    """Temperature, then top-k, then top-p over what remains (the order of transformers), then an exponential race.

    The token with the largest weight / noise wins, which happens with a probability proportional to its weight (the
    Gumbel-max trick, Maddison et al. 2014, arXiv 1411.0030). Unlike a draw from the sums of the weights, the winner
    stays the same when another batch size moves the logits by a rounding error.
    """
    weights = np.exp((row - row.max()) / np.float32(sampling.temperature))
    noise = _noise(len(row), source)
    if not sampling.top_k and sampling.top_p >= 1:
        return int(np.argmax(weights / noise))
    kept = _kept(row, weights, sampling)
    return int(kept[np.argmax(weights[kept] / noise[kept])])


def _noise(count: int, source: np.random.Generator) -> Float:
    """Exponential noise [V] that is exact near zero, where a race is won.

    NumPy's float32 draws are multiples of about 2^-23, and one in 2^23 is 0: a vocabulary of 150,000 would let a token
    of any probability win at one place in sixty. What is small is therefore drawn again, below the same bound.
    """
    noise = source.standard_exponential(count, dtype=np.float32)
    small = np.flatnonzero(noise < _SMALL_NOISE)
    noise[small] = -np.log1p(source.random(len(small)) * np.expm1(-_SMALL_NOISE))
    return np.maximum(noise, _LEAST_NOISE, out=noise)


def _kept(row: Float, weights: Float, sampling: Sampling) -> npt.NDArray[np.intp]:
    """Ids of the tokens that top-k and top-p leave, likeliest first."""
    tried = min(sampling.top_k or _NUCLEUS_FIRST, len(row))
    ids = _largest(row, _maxima(row[None, :], tried)[0][0], tried)
    if sampling.top_p >= 1:
        return ids
    total = (weights[ids] if sampling.top_k else weights).sum(dtype=np.float64)
    if not sampling.top_k and weights[ids].sum(dtype=np.float64) < sampling.top_p * total:
        ids = np.argsort(-row, kind="stable")
    reached = np.searchsorted(np.cumsum(weights[ids], dtype=np.float64), sampling.top_p * total)
    return ids[: int(reached) + 1]
