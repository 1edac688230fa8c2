"""Float64 NumPy references, written from the papers and sharing nothing with the code under test."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def log_ratio_gap(chosen: float, rejected: float, reference_chosen: float, reference_rejected: float) -> float:
    """log [pi(y_w) / ref(y_w)] - log [pi(y_l) / ref(y_l)], from probabilities as the paper writes it."""
    better = math.exp(chosen) / math.exp(reference_chosen)
    worse = math.exp(rejected) / math.exp(reference_rejected)
    return math.log(better) - math.log(worse)


def dpo(pairs: Array, beta: float, smoothing: float = 0.0) -> Array:
    """Rafailov et al. 2023, equation 7; Mitchell 2023 for a share of swapped labels. `pairs` [B, 4]."""
    gaps = [log_ratio_gap(*pair) for pair in pairs.tolist()]
    return np.array(
        [-(1 - smoothing) * math.log(sigma(beta * h)) - smoothing * math.log(sigma(-beta * h)) for h in gaps]
    )


def dpo_hinge(pairs: Array, beta: float) -> Array:
    """Liu et al. 2023 (RSO): max(0, 1 - beta h)."""
    return np.array([max(0.0, 1 - beta * log_ratio_gap(*pair)) for pair in pairs.tolist()])


def ipo(pairs: Array, beta: float) -> Array:
    """Azar et al. 2023, equation 17 with tau = beta."""
    return np.array([(log_ratio_gap(*pair) - 1 / (2 * beta)) ** 2 for pair in pairs.tolist()])


def kto(
    log_probs: Array,
    reference: Array,
    desirable: Mask,
    beta: float,
    weights: tuple[float, float],
    baseline: float | None,
) -> Array:
    """Ethayarajh et al. 2024, equation 8: lambda_y - v(x, y), lambda_D and lambda_U in `weights`."""
    rewards = [math.log(math.exp(p) / math.exp(q)) for p, q in zip(log_probs, reference, strict=True)]
    z0 = max(0.0, sum(rewards) / len(rewards) if baseline is None else baseline)
    losses = []
    for reward, good in zip(rewards, desirable, strict=True):
        weight = weights[0] if good else weights[1]
        value = weight * sigma(beta * (reward - z0) if good else beta * (z0 - reward))
        losses.append(weight - value)
    return np.array(losses)


def orpo(chosen: Array, rejected: Array, weight: float) -> Array:
    """Hong et al. 2024, equations 3 to 7, on probabilities."""
    losses = []
    for p, q in zip(np.exp(chosen), np.exp(rejected), strict=True):
        odds_ratio = (p / (1 - p)) / (q / (1 - q))
        losses.append(-math.log(p) + weight * -math.log(sigma(math.log(odds_ratio))))
    return np.array(losses)


def simpo(chosen: Array, rejected: Array, beta: float, gamma: float) -> Array:
    """Meng et al. 2024, equation 6."""
    return np.array([-math.log(sigma(beta * w - beta * x - gamma)) for w, x in zip(chosen, rejected, strict=True)])


def spin(pairs: Array, beta: float) -> Array:
    """Chen et al. 2024, equation 4.7 with the logistic loss log(1 + e^-t); columns data, own, opponent's of both."""
    losses = []
    for data, own, opponent_data, opponent_own in pairs.tolist():
        t = beta * math.log(math.exp(data) / math.exp(opponent_data))
        t -= beta * math.log(math.exp(own) / math.exp(opponent_own))
        losses.append(math.log(1 + math.exp(-t)))
    return np.array(losses)


def kept(mask: Mask, row: int) -> list[int]:
    return [int(i) for i in np.flatnonzero(mask[row])]


def rrhf(s: Array, r: Array, mask: Mask, best: Array | None, weight: float, margin: float) -> Array:
    """Yuan et al. 2023, equations 2 to 4."""
    losses = []
    for row in range(len(s)):
        ranking = 0.0
        for i in kept(mask, row):
            for j in kept(mask, row):
                if r[row, i] < r[row, j]:
                    ranking += max(0.0, s[row, i] - s[row, j] + margin)
        losses.append(weight * ranking + nll_of_best(s, r, mask, best, row))
    return np.array(losses)


def nll_of_best(s: Array, r: Array, mask: Mask, best: Array | None, row: int) -> float:
    if not kept(mask, row):
        return 0.0
    first_best = max(kept(mask, row), key=lambda i: (r[row, i], -i))
    return -float(s[row, first_best] if best is None else best[row])


def pro(s: Array, r: Array, mask: Mask, best: Array | None, sft_weight: float) -> Array:
    """Song et al. 2023, section 3: candidates from best to worst, each against those that follow and score less.

    The temperature of a pair is 1 / (r_k - r_i); the positive's own is the smallest of its pairs.
    """
    losses = []
    for row in range(len(s)):
        order = sorted(kept(mask, row), key=lambda i: -r[row, i])
        total = 0.0
        for place, k in enumerate(order):
            rivals = [i for i in order[place + 1 :] if r[row, i] < r[row, k]]
            if not rivals:
                continue
            temperatures = {i: 1 / (r[row, k] - r[row, i]) for i in rivals}
            own = math.exp(s[row, k] / min(temperatures.values()))
            total -= math.log(own / (own + sum(math.exp(s[row, i] / temperatures[i]) for i in rivals)))
        length = max(0, len(order) - 1)
        losses.append(total + sft_weight * length**2 * nll_of_best(s, r, mask, best, row))
    return np.array(losses)


def ranknet(s: Array, t: Array, mask: Mask) -> Array:
    """Burges et al. 2005: the cross entropy of P(i before j) = sigma(s_i - s_j) for each pair whose order is known."""
    losses = []
    for row in range(len(s)):
        pairs = [(i, j) for i in kept(mask, row) for j in kept(mask, row) if t[row, i] > t[row, j]]
        losses.append(sum(-math.log(sigma(s[row, i] - s[row, j])) for i, j in pairs))
    return np.array(losses)
