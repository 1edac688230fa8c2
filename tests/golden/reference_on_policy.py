"""Float64 references in plain loops, written from the papers and sharing nothing with the code under test."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tests.golden.reference_divergences import softmax
from tests.golden.reference_reinforcement import Array, Rows, episodes


def teacher_mixed_log_probs(student_logits: Array, teacher_logits: Array, alpha: float) -> Array:
    """Gu et al. 2024, equation 4."""
    mixed: Array = np.log(alpha * softmax(teacher_logits) + (1 - alpha) * softmax(student_logits))
    return mixed


def importance_weights(student: Array, mixed: Array, rows: Rows, clip: float, *, cumulative: bool) -> Array:
    """Gu et al. 2024, equation 5 (the product up to t) or the approximation that follows it."""
    result = np.zeros_like(student)
    for tokens in episodes(rows):
        product = 1.0
        for token in tokens:
            ratio = math.exp(student[token]) / math.exp(mixed[token])
            product *= ratio
            result[token] = min(clip, product if cumulative else ratio)
    return result


def long_term_advantages(student: Array, teacher: Array, rows: Rows, gamma: float, *, normalised: bool) -> Array:
    """Gu et al. 2024, equation 6, with the number of the terms in the denominator."""
    result = np.zeros_like(student)
    for tokens in episodes(rows):
        for place, token in enumerate(tokens):
            later = tokens[place + 1 :]
            ratios = [gamma**k * math.log(math.exp(teacher[n]) / math.exp(student[n])) for k, n in enumerate(later)]
            if ratios:
                result[token] = math.fsum(ratios) / (len(ratios) if normalised else 1)
    return result


def minillm_gradient(student_logits: Array, labels: Rows, advantages: Array, weights: Array) -> Array:
    """The long-term part of Gu et al. 2024, equation 7, for logits: -w R (grad q) / q, from the softmax's Jacobian."""
    q = softmax(student_logits)
    result = np.zeros_like(q)
    for token, label in enumerate(labels.tolist()):
        jacobian = np.diag(q[token]) - np.outer(q[token], q[token])
        result[token] = -weights[token] * advantages[token] * jacobian[label] / q[token, label]
    return result


def interleaved_choice(tokens: Rows, teacher_logits: Array, random: Array, top_k: int) -> list[int]:
    """Xu et al. 2025, algorithm 1."""
    chosen = []
    for token, distribution, number in zip(tokens.tolist(), softmax(teacher_logits), random.tolist(), strict=True):
        best = sorted(range(len(distribution)), key=lambda index: -distribution[index])[:top_k]
        reached = itertools.accumulate(distribution.tolist())
        drawn = next(index for index, mass in enumerate(reached) if number < mass)
        chosen.append(token if token in best else drawn)
    return chosen
