"""The alarm against reward hacking: a reward that rises while the answers get worse.

A student finds what a reward pays for, wanted or not. The signs are old: it drifts far from where it began, it says one
thing only, its answers swell or shrink, or the reward has nothing left to tell (Gao et al. 2022,
https://arxiv.org/abs/2210.10760; Skalse et al. 2022, https://arxiv.org/abs/2209.13085). Each is judged on means over
windows of steps, so that noise alone sets nothing off. What is found is for a person to look at: nothing is stopped.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Sign = Literal["drift", "entropy", "length", "equal_rewards", "saturation"]


@dataclass(frozen=True)
class RewardHistory:
    """One number for each step, oldest first. A list may be empty; NaN or infinity is a step that was not measured.

    `reward`: the mean reward. `spread`: the largest minus the smallest reward among answers that are compared with each
    other (the widest group's, with GRPO). `kl`: to the reference, nats a token. `entropy`: the student's, nats a token.
    `length`: mean tokens an answer.
    """

    reward: Sequence[float] = ()
    spread: Sequence[float] = ()
    kl: Sequence[float] = ()
    entropy: Sequence[float] = ()
    length: Sequence[float] = ()


@dataclass(frozen=True)
class WatchLimits:
    """When to speak up. Nothing is said before two windows of steps (one for the rewards' own signs)."""

    window: int = 10
    kl: float = 0.5
    """Nats a token: on average e^0.5 = 1.6 times as likely as under the reference."""
    entropy_share: float = 0.3
    length_factor: float = 2.0
    equal_share: float = 0.5
    """Of the last window's steps."""
    bounds: tuple[float, float] | None = None
    """The lowest and highest reward there is, if it has bounds."""
    bound_margin: float = 0.02
    """Of the range between the bounds."""


@dataclass(frozen=True)
class Finding:
    """One sign of reward hacking as it stands now: what, with figures, and what to do."""

    sign: Sign
    title: str
    detail: str
    hint: str


@dataclass(frozen=True)
class _Change:
    """A measure's mean in its first and its last window, and the standard error of their difference."""

    first: float
    last: float
    error: float

    @property
    def risen(self) -> bool:
        return self.last - self.first > 3 * self.error


def watch_rewards(history: RewardHistory, limits: WatchLimits | None = None) -> list[Finding]:
    """What there is to say about the last steps of `history`; empty while all is well or it is too early to tell."""
    limits = limits or WatchLimits()
    found = (
        _drift(history, limits),
        _entropy(history, limits),
        _length(history, limits),
        _equal_rewards(history, limits),
        _saturation(history, limits),
    )
    return [finding for finding in found if finding]


def _drift(history: RewardHistory, limits: WatchLimits) -> Finding | None:
    reward, kl = _change(history.reward, limits.window), _recent(history.kl, limits.window)
    if reward is None or kl is None or not reward.risen or kl <= limits.kl:
        return None
    return Finding(
        "drift",
        "The reward rises far away from the reference",
        f"It went from {reward.first:.3g} to {reward.last:.3g} while the distance to the reference reached "
        f"{kl:.2f} nats a token (limit {limits.kl:.2f}).",
        "Read some answers. If they please the reward and not you, raise the KL penalty and go back to a checkpoint.",
    )


def _entropy(history: RewardHistory, limits: WatchLimits) -> Finding | None:
    entropy = _change(history.entropy, limits.window)
    if entropy is None or entropy.first <= 0 or entropy.last >= limits.entropy_share * entropy.first:
        return None
    return Finding(
        "entropy",
        "The student hardly varies its answers any more",
        f"Its entropy fell from {entropy.first:.2f} to {entropy.last:.2f} nats a token, "
        f"{entropy.last / entropy.first:.0%} of its start (limit {limits.entropy_share:.0%}).",
        "Lower the learning rate, raise the clip's upper side or the sampling temperature, or add an entropy bonus.",
    )


def _length(history: RewardHistory, limits: WatchLimits) -> Finding | None:
    length = _change(history.length, limits.window)
    if length is None or length.first <= 0:
        return None
    factor = length.last / length.first
    if 1 / limits.length_factor < factor < limits.length_factor:
        return None
    return Finding(
        "length",
        "The answers get longer and longer" if factor > 1 else "The answers get shorter and shorter",
        f"From {length.first:.0f} to {length.last:.0f} tokens on average, {factor:.2g} times their start "
        f"(limit {limits.length_factor:.2g} times, either way).",
        "Read some answers. If it is padding or evasion, make the reward blind to length or give it a target.",
    )


def _equal_rewards(history: RewardHistory, limits: WatchLimits) -> Finding | None:
    spreads = _measured(history.spread)[-limits.window :]
    equal = sum(spread == 0 for spread in spreads)
    if len(spreads) < limits.window or equal <= limits.equal_share * limits.window:
        return None
    return Finding(
        "equal_rewards",
        "Most steps teach nothing: all rewards are equal",
        f"In {equal} of the last {len(spreads)} steps every answer earned the same as those it is compared with.",
        "Choose prompts that the student solves sometimes, draw more answers for each, or use a finer reward.",
    )


def _saturation(history: RewardHistory, limits: WatchLimits) -> Finding | None:
    reward = _recent(history.reward, limits.window)
    if reward is None or limits.bounds is None:
        return None
    lowest, highest = limits.bounds
    if reward < highest - limits.bound_margin * (highest - lowest):
        return None
    return Finding(
        "saturation",
        "The reward is at its upper bound",
        f"The last {limits.window} steps earned {reward:.3g} on average; {highest:.3g} is the most there is.",
        "Read some answers. If they are good, stop or use harder prompts; if not, the reward is being fooled.",
    )


def _measured(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _recent(values: Sequence[float], window: int) -> float | None:
    measured = _measured(values)
    return statistics.fmean(measured[-window:]) if len(measured) >= window else None


def _change(values: Sequence[float], window: int) -> _Change | None:
    measured = _measured(values)
    if len(measured) < 2 * window:
        return None
    first, last = measured[:window], measured[-window:]
    error = math.sqrt((statistics.pvariance(first) + statistics.pvariance(last)) / window)
    return _Change(statistics.fmean(first), statistics.fmean(last), error)
