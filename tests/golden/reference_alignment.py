"""Plain Python and float64 NumPy references for distillation across tokenizers: loops, no tricks, nothing shared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Span = tuple[int, int]
Group = tuple[int, int]


def groups(student: Sequence[Span], teacher: Sequence[Span]) -> list[tuple[Group, Group]]:
    """First and last token on both sides between neighbouring bytes at which both begin or end a token."""
    edges = [{edge for start, end in side if end > start for edge in (start, end)} for side in (student, teacher)]
    shared = sorted(edges[0] & edges[1])
    found = [(_within(student, begin, end), _within(teacher, begin, end)) for begin, end in itertools.pairwise(shared)]
    if student and teacher and student[-1][0] == student[-1][1] == teacher[-1][0] == teacher[-1][1]:
        found.append(((len(student) - 1,) * 2, (len(teacher) - 1,) * 2))
    return found


def _within(side: Sequence[Span], begin: int, end: int) -> Group:
    inside = [at for at, (first, last) in enumerate(side) if begin <= first < last <= end]
    return inside[0], inside[-1]


def merged(log_probs: Array, labels: Sequence[int], runs: Sequence[Group], varies: str) -> Array:
    """GOLD: one token of each run varies, the written others multiply."""
    rows = []
    for first, last in runs:
        varying = first if varies == "first" else last
        scale = math.prod(
            math.exp(log_probs[at, labels[at]]) for at in range(first, last + 1) if at != varying
        )  # a product of probabilities, where the code adds logarithms
        rows.append(np.exp(log_probs[varying]) * scale)
    with np.errstate(divide="ignore"):
        result: Array = np.log(np.array(rows))
    return result


def byte_aligned(
    student: Array,
    teacher: Array,
    pairs: Sequence[tuple[int, int]],
    beta: float,
    matched_weight: float,
    unmatched_weight: float,
) -> Array:
    """Generalised Jensen-Shannon over matched masses, sorted L1 over the others; arguments are probabilities."""
    losses = []
    for q, p in zip(student.tolist(), teacher.tolist(), strict=True):
        direct = sum(_jensen(p[theirs], q[ours], beta) for ours, theirs in pairs)
        used = {ours for ours, _ in pairs}, {theirs for _, theirs in pairs}
        left = [
            sorted((x for at, x in enumerate(row) if at not in ids), reverse=True)
            for row, ids in zip((q, p), used, strict=True)
        ]
        longest = max(len(left[0]), len(left[1]))
        padded = [row + [0.0] * (longest - len(row)) for row in left]
        by_size = sum(abs(a - b) for a, b in zip(*padded, strict=True))
        losses.append(matched_weight * direct + unmatched_weight * by_size)
    return np.array(losses)


def _jensen(p: float, q: float, beta: float) -> float:
    if beta == 0:
        return _entropy(p, q) - p + q
    if beta == 1:
        return _entropy(q, p) - q + p
    mixture = beta * p + (1 - beta) * q
    return beta * _entropy(p, mixture) + (1 - beta) * _entropy(q, mixture)


def _entropy(a: float, b: float) -> float:
    if a == 0:
        return 0.0
    return math.inf if b == 0 else a * math.log(a / b)
