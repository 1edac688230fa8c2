"""Float64 references in plain loops, written from the papers and sharing nothing with the code under test."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


def episodes(rows: Rows) -> list[list[int]]:
    """The token numbers of each row, row by row."""
    found: dict[int, list[int]] = {}
    for token, row in enumerate(rows.tolist()):
        found.setdefault(row, []).append(token)
    return list(found.values())


def group_advantages(rewards: Array, scale: str = "std", epsilon: float = 1e-6) -> Array:
    """Shao et al. 2024, section 4.1.2, with the sample's deviation."""
    result = np.zeros_like(rewards)
    for group, numbers in enumerate(rewards.tolist()):
        n = len(numbers)
        if n < 2 or len(set(numbers)) == 1:
            continue
        mean = math.fsum(numbers) / n
        deviation = math.sqrt(math.fsum((r - mean) ** 2 for r in numbers) / (n - 1))
        for answer, reward in enumerate(numbers):
            result[group, answer] = (reward - mean) / ((deviation + epsilon) if scale == "std" else 1)
    return result


def ppo_clip(new: Array, old: Array, advantages: Array, clip: float = 0.2, clip_high: float | None = None) -> Array:
    """Schulman et al. 2017, equation 7, negated."""
    high = clip if clip_high is None else clip_high
    result = []
    for log_new, log_old, advantage in zip(new.tolist(), old.tolist(), advantages.tolist(), strict=True):
        ratio = math.exp(log_new) / math.exp(log_old)
        clipped = 1 - clip if ratio < 1 - clip else min(ratio, 1 + high)
        result.append(-min(ratio * advantage, clipped * advantage))
    return np.array(result)


def value_loss(values: Array, old: Array, returns: Array, clip: float = 0.2) -> Array:
    """Half the larger of the two squared errors."""
    result = []
    for value, before, target in zip(values.tolist(), old.tolist(), returns.tolist(), strict=True):
        step = max(-clip, min(clip, value - before))
        result.append(0.5 * max((value - target) ** 2, (before + step - target) ** 2))
    return np.array(result)


def discounted_returns(rewards: Array, rows: Rows, gamma: float) -> Array:
    """The sum of gamma^(k - t) r_k over all tokens k from t on, as a double loop."""
    result = np.zeros_like(rewards)
    for tokens in episodes(rows):
        for place, token in enumerate(tokens):
            result[token] = math.fsum(gamma**k * rewards[later] for k, later in enumerate(tokens[place:]))
    return result


def generalized_advantages(rewards: Array, values: Array, rows: Rows, gamma: float, lam: float) -> tuple[Array, Array]:
    """Schulman et al. 2015, equation 16, from equation 11's mean of k-step advantages over an episode that ends."""
    advantages = np.zeros_like(rewards)
    for tokens in episodes(rows):
        for place, token in enumerate(tokens):
            rest = tokens[place:]
            estimates = []  # the k-step advantage for k = 1, 2, ...; from the episode's end on they are all the same
            for k in range(1, len(rest) + 1):
                steps = math.fsum(gamma**j * rewards[rest[j]] for j in range(k))
                tail = gamma**k * values[rest[k]] if k < len(rest) else 0.0
                estimates.append(steps + tail - values[token])
            weights = [(1 - lam) * lam ** (k - 1) for k in range(1, len(rest))] + [lam ** (len(rest) - 1)]
            advantages[token] = math.fsum(w * a for w, a in zip(weights, estimates, strict=True))
    return advantages, advantages + values


def whiten(values: Array, epsilon: float = 1e-8) -> Array:
    """By NumPy's own statistics."""
    whitened: Array = (values - values.mean()) / np.sqrt(values.var(ddof=1) + epsilon)
    return whitened


def reward_model_loss(chosen: Array, rejected: Array, margin: float = 0.0) -> Array:
    """Ouyang et al. 2022, equation 1: the logarithm of a sigmoid."""
    differences = (chosen - rejected - margin).tolist()
    return np.array([-math.log(1 / (1 + math.exp(-difference))) for difference in differences])


def kl_k1(log_probs: Array, reference: Array) -> Array:
    """log(pi / pi_ref)."""
    return np.array([math.log(math.exp(a) / math.exp(b)) for a, b in zip(log_probs, reference, strict=True)])


def kl_k3(log_probs: Array, reference: Array) -> Array:
    """r - 1 - log r with r = pi_ref / pi."""
    ratios = [math.exp(b) / math.exp(a) for a, b in zip(log_probs, reference, strict=True)]
    return np.array([ratio - 1 - math.log(ratio) for ratio in ratios])


def on_policy_advantage(student: Array, teacher: Array, base: Array, alpha: float) -> Array:
    """base + alpha log(p / q)."""
    return np.array(
        [b + alpha * math.log(math.exp(p) / math.exp(q)) for q, p, b in zip(student, teacher, base, strict=True)]
    )
