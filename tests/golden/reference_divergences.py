"""Float64 NumPy references, written from the papers and sharing nothing with the code under test."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def softmax(logits: Array) -> Array:
    """Row by row, the plain definition."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    distribution: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return distribution


def kl(p: Array, q: Array) -> float:
    """Kullback & Leibler 1951: sum p log(p / q), where p = 0 adds nothing and q = 0 < p is infinite."""
    total = 0.0
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        if a > 0:
            total += math.inf if b == 0 else a * math.log(a / b)
    return total


def forward_kl(student_logits: Array, teacher_logits: Array, temperature: float = 1.0) -> Array:
    """Hinton et al. 2015, section 2: T^2 KL(softmax(v / T) || softmax(z / T)), teacher v, student z."""
    p, q = softmax(teacher_logits / temperature), softmax(student_logits / temperature)
    return np.array([temperature**2 * kl(p[row], q[row]) for row in range(len(p))])


def bucketed_forward_kl(
    student_logits: Array, teacher_logits: Array, ids: npt.NDArray[np.int64], temperature: float = 1.0
) -> Array:
    """Both distributions are summed into k single tokens and one bucket; then the power 1 / T, renormalised."""
    p, q = softmax(teacher_logits), softmax(student_logits)
    result = []
    for row, chosen in enumerate(ids):
        sides = []
        for distribution in (p[row], q[row]):
            bucketed = np.append(distribution[chosen], np.delete(distribution, chosen).sum())
            powered = bucketed ** (1 / temperature)
            sides.append(powered / powered.sum())
        result.append(temperature**2 * kl(sides[0], sides[1]))
    return np.array(result)


def cross_entropy(student_logits: Array, labels: npt.NDArray[np.int64], smoothing: float = 0.0) -> Array:
    """-sum target log q with target = (1 - e) one-hot + e / V."""
    q = softmax(student_logits)
    vocabulary = q.shape[1]
    target = np.full_like(q, smoothing / vocabulary)
    target[np.arange(len(labels)), labels] += 1 - smoothing
    loss: Array = -(target * np.log(q)).sum(axis=1)
    return loss
