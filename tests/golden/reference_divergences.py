"""Float64 NumPy references, written from the papers and sharing nothing with the code under test."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
OfTwo = Callable[..., float]


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


def reverse_kl(p: Array, q: Array) -> float:
    """The student's q in front."""
    return kl(q, p)


def jensen_shannon(p: Array, q: Array, beta: float = 0.5) -> float:
    """Agarwal et al. 2023, section 2: beta KL(p || beta p + (1 - beta) q) + (1 - beta) KL(q || the same)."""
    mixture = beta * p + (1 - beta) * q
    return float(beta * kl(p, mixture) + (1 - beta) * kl(q, mixture))


def symmetric_kl(p: Array, q: Array, weight: float = 0.5) -> float:
    """A weighted sum of the two directions."""
    return (1 - weight) * kl(p, q) + weight * kl(q, p)


def skew_kl(p: Array, q: Array, alpha: float = 0.1) -> float:
    """Ko et al. 2024: KL(p || alpha p + (1 - alpha) q)."""
    return kl(p, alpha * p + (1 - alpha) * q)


def skew_reverse_kl(p: Array, q: Array, alpha: float = 0.1) -> float:
    """Ko et al. 2024: KL(q || (1 - alpha) p + alpha q)."""
    return kl(q, (1 - alpha) * p + alpha * q)


def total_variation(p: Array, q: Array) -> float:
    """Half the sum of differences."""
    return float(0.5 * sum(abs(a - b) for a, b in zip(p.tolist(), q.tolist(), strict=True)))


def adaptive_shares(p: Array, q: Array, head_mass: float) -> tuple[float, float]:
    """Wu et al. 2024: the gap |p - q| inside the head (cumulated p <= head_mass, the likeliest always) and outside."""
    head, rest, mass = 0.0, 0.0, 0.0
    for place, token in enumerate(np.argsort(-p, kind="stable")):
        mass += p[token]
        if place == 0 or mass <= head_mass or head_mass == 1:  # cumulated sums may round above 1
            head += abs(p[token] - q[token])
        else:
            rest += abs(p[token] - q[token])
    return head, rest


def adaptive_kl(p: Array, q: Array, head_mass: float = 0.5) -> float:
    """Wu et al. 2024: the two directions weighed by those gaps; nothing where there is no gap."""
    head, rest = adaptive_shares(p, q, head_mass)
    return 0.0 if head + rest == 0 else float((head * kl(p, q) + rest * kl(q, p)) / (head + rest))


def alpha_beta(p: Array, q: Array, alpha: float = 0.2, beta: float = 0.7) -> float:
    """Cichocki et al. 2011, the general form and its four limits, term by term."""
    total = 0.0
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        if alpha and beta and alpha + beta:
            both = alpha + beta
            total -= (a**alpha * b**beta - alpha / both * a**both - beta / both * b**both) / (alpha * beta)
        elif alpha and not beta:
            total += (a**alpha * math.log(a**alpha / b**alpha) - a**alpha + b**alpha) / alpha**2
        elif beta and not alpha:
            total += (b**beta * math.log(b**beta / a**beta) - b**beta + a**beta) / beta**2
        elif alpha:
            total += (math.log(b**alpha / a**alpha) + (b**alpha / a**alpha) ** -1 - 1) / alpha**2
        else:
            total += 0.5 * (math.log(a) - math.log(b)) ** 2
    return total


def universal_logit(p: Array, q: Array) -> float:
    """Boizard et al. 2024: both sorted in falling order, the shorter one padded with zeros."""
    left, right = sorted(p.tolist(), reverse=True), sorted(q.tolist(), reverse=True)
    width = max(len(left), len(right))
    left, right = left + [0.0] * (width - len(left)), right + [0.0] * (width - len(right))
    return float(sum(abs(a - b) for a, b in zip(left, right, strict=True)))


OF_TWO: dict[str, OfTwo] = {
    "forward_kl": kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
    "symmetric_kl": symmetric_kl,
    "skew_kl": skew_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "total_variation": total_variation,
    "adaptive_kl": adaptive_kl,
    "alpha_beta": alpha_beta,
    "universal_logit": universal_logit,
}


def dense(name: str, student: Array, teacher: Array, temperature: float = 1.0, **parameters: float) -> Array:
    """T^2 D(softmax(v / T), softmax(z / T)), teacher v, student z, row by row."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return np.array([temperature**2 * OF_TWO[name](p[row], q[row], **parameters) for row in range(len(p))])


def bucketed(
    name: str, student: Array, teacher: Array, ids: Ids, temperature: float = 1.0, **parameters: float
) -> Array:
    """Both distributions are summed into k single tokens and one bucket; then the power 1 / T, renormalised."""
    p, q = softmax(teacher), softmax(student)
    result = []
    for row, chosen in enumerate(ids):
        sides = []
        for distribution in (p[row], q[row]):
            masses = np.append(distribution[chosen], np.delete(distribution, chosen).sum())
            powered = masses ** (1 / temperature)
            sides.append(powered / powered.sum())
        result.append(temperature**2 * OF_TWO[name](sides[0], sides[1], **parameters))
    return np.array(result)


def ensemble(log_probs: list[Array], weights: list[float]) -> Array:
    """The log of the weighted mean of probabilities."""
    mean: Array = sum(
        (w * np.exp(part) for w, part in zip(weights, log_probs, strict=True)), start=np.zeros_like(log_probs[0])
    )
    logs: Array = np.log(mean / sum(weights))
    return logs


def random_sampled(student: Array, ids: Ids, counts: Ids) -> Array:
    """Anshumann et al. 2025: the cross-entropy to the empirical distribution of the draws."""
    q, result = softmax(student), []
    for row in range(len(ids)):
        n = counts[row].sum()
        draws = zip(ids[row].tolist(), counts[row].tolist(), strict=True)
        result.append(-sum(count / n * math.log(q[row, token]) for token, count in draws if count))
    return np.array(result)


def cross_entropy(student_logits: Array, labels: Ids, smoothing: float = 0.0) -> Array:
    """-sum target log q with target = (1 - e) one-hot + e / V."""
    q = softmax(student_logits)
    vocabulary = q.shape[1]
    target = np.full_like(q, smoothing / vocabulary)
    target[np.arange(len(labels)), labels] += 1 - smoothing
    loss: Array = -(target * np.log(q)).sum(axis=1)
    return loss
