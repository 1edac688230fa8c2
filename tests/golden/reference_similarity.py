"""Float64 NumPy references, written from the papers and sharing nothing with the code under test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def hidden_mse(student: Array, teacher: Array, projection: Array | None = None) -> Array:
    """Jiao et al. 2020, equation 8: the mean over the teacher's width of (W s - t)^2."""
    width = teacher.shape[1]
    matrix = np.eye(width) if projection is None else projection
    return np.array([sum((matrix @ s - t) ** 2) / width for s, t in zip(student, teacher, strict=True)])


def hidden_cosine(student: Array, teacher: Array, projection: Array | None = None) -> Array:
    """One minus the dot product over the product of the lengths."""
    matrix = np.eye(teacher.shape[1]) if projection is None else projection
    result = []
    for s, t in zip(student @ matrix.T, teacher, strict=True):
        result.append(1 - np.dot(s, t) / (math.sqrt(np.dot(s, s)) * math.sqrt(np.dot(t, t))))
    return np.array(result)


def task_aware_layerwise(student: Array, teacher: Array, student_filter: Array, teacher_filter: Array) -> Array:
    """Liang et al. 2023, section 3: the mean squared error of the two filtered states."""
    pairs = zip(student, teacher, strict=True)
    return np.array([np.mean((student_filter @ s - teacher_filter @ t) ** 2) for s, t in pairs])


def median_distance(student: Array, teacher: Array) -> float:
    """Gretton et al. 2012, section 8: over all pairs of the joint sample; the lower of two middle ones."""
    distances = sorted(math.dist(x, y) for x, y in combinations(np.concatenate([student, teacher]), 2))
    return distances[(len(distances) - 1) // 2]


def maximum_mean_discrepancy(
    student: Array, teacher: Array, bandwidths: Sequence[float], median: float | None = None
) -> float:
    """Gretton et al. 2012, equation 5: the biased estimate of the squared discrepancy."""
    scale = median_distance(student, teacher) if median is None else median

    def expected_kernel(xs: Array, ys: Array) -> float:
        total = 0.0
        for x in xs:
            for y in ys:
                squared = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
                total += sum(math.exp(-squared / (2 * (width * scale) ** 2)) for width in bandwidths) / len(bandwidths)
        return total / (len(xs) * len(ys))

    return expected_kernel(student, student) + expected_kernel(teacher, teacher) - 2 * expected_kernel(student, teacher)


def relation_heads(vectors: Array, heads: int) -> Array:
    """Wang et al. 2021 (MiniLMv2), section 3: the heads of a token joined, then cut into `heads` pieces."""
    batch, _, length, _ = vectors.shape
    joined = [[np.concatenate(list(vectors[b, :, i])) for i in range(length)] for b in range(batch)]
    cut = [[np.split(token, heads) for token in row] for row in joined]
    return np.array([[[cut[b][i][h] for i in range(length)] for h in range(heads)] for b in range(batch)])


def relation(query: Array, key: Array, seen: list[int]) -> list[float]:
    """softmax(q . k / sqrt(d)) over the keys that are seen, by the plain definition."""
    scores = [math.exp(float(np.dot(query, key[j])) / math.sqrt(len(query))) for j in seen]
    return [score / sum(scores) for score in scores]


def attention_relation(
    student_query: Array, student_key: Array, teacher_query: Array, teacher_key: Array, mask: Mask, causal: bool
) -> Array:
    """Wang et al. 2020 (MiniLM), equation 5, before the mean over tokens: KL(teacher || student), mean over heads."""
    batch, heads, length, _ = student_query.shape
    result = np.zeros((batch, length))
    for b in range(batch):
        for i in np.flatnonzero(mask[b]):
            seen = [int(j) for j in np.flatnonzero(mask[b]) if not causal or j <= i]
            for h in range(heads):
                p = relation(teacher_query[b, h, i], teacher_key[b, h], seen)
                q = relation(student_query[b, h, i], student_key[b, h], seen)
                result[b, i] += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)) / heads
    return result
