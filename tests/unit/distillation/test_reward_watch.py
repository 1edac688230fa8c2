from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from kdstudio.distillation.reward_watch import RewardHistory, WatchLimits, watch_rewards

STEPS = 120
BOUNDED = WatchLimits(bounds=(0.0, 1.0))


def healthy(seed: int, *, rising: float = 0.4, noise: float = 1.0, steps: int = STEPS) -> RewardHistory:
    """A run that learns: more reward, a little drift, some entropy spent, answers a fifth longer; and noise on all."""
    generator = np.random.default_rng(seed)
    way = np.linspace(0, 1, steps) if rising else np.zeros(steps)

    def noisy(values: npt.NDArray[np.float64], spread: float) -> list[float]:
        return [float(value) for value in values * (1 + noise * spread * generator.standard_normal(steps))]

    return RewardHistory(
        reward=noisy(0.3 + rising * way, 0.25),
        spread=[float(value) for value in generator.uniform(0.2, 1.0, steps)],
        kl=noisy(0.01 + 0.15 * way, 0.4),
        entropy=noisy(1.8 - 0.7 * way, 0.15),
        length=noisy(140 + 30 * way, 0.2),
    )


def signs(history: RewardHistory, limits: WatchLimits = BOUNDED) -> list[str]:
    return [finding.sign for finding in watch_rewards(history, limits)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rising", [0.4, 0.0])
def test_healthy_histories_set_nothing_off_at_any_step(seed: int, rising: float) -> None:
    history = healthy(seed, rising=rising)
    for step in range(1, STEPS + 1):
        sofar = RewardHistory(*(list(values)[:step] for values in vars(history).values()))
        assert signs(sofar) == []


def test_flat_and_empty_histories_set_nothing_off() -> None:
    flat = RewardHistory([0.5] * 50, [0.1] * 50, [0.0] * 50, [1.0] * 50, [80.0] * 50)
    for history in (flat, RewardHistory(), RewardHistory(*([0.0] * 50 for _ in range(5)))):
        assert signs(replace(history, spread=())) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_reward_that_rises_far_from_the_reference(seed: int) -> None:
    history = healthy(seed)
    hacked = replace(history, kl=[value + 0.9 * step / STEPS for step, value in enumerate(history.kl)])
    (finding,) = watch_rewards(hacked, BOUNDED)
    assert finding.sign == "drift"
    assert "limit 0.50" in finding.detail
    assert signs(hacked, WatchLimits(kl=2.0)) == []
    flat = replace(hacked, reward=healthy(seed, rising=0.0).reward)
    assert signs(flat) == []  # far away, but not for the reward's sake


@pytest.mark.parametrize("seed", range(5))
def test_an_entropy_that_collapses(seed: int) -> None:
    history = healthy(seed)
    hacked = replace(history, entropy=[value * 0.98**step for step, value in enumerate(history.entropy)])
    (finding,) = watch_rewards(hacked)
    assert finding.sign == "entropy"
    assert "nats a token" in finding.detail


@pytest.mark.parametrize(("factor", "word"), [(4.0, "longer"), (0.2, "shorter")])
@pytest.mark.parametrize("seed", range(5))
def test_answers_that_swell_or_shrink(seed: int, factor: float, word: str) -> None:
    history = healthy(seed, rising=0.0)
    hacked = replace(history, length=[v * factor ** (step / STEPS) for step, v in enumerate(history.length)])
    (finding,) = watch_rewards(hacked)
    assert finding.sign == "length"
    assert word in finding.title


def test_rewards_that_are_all_equal() -> None:
    history = healthy(1)
    mostly = replace(history, spread=[*list(history.spread)[:-10], *[0.0, 0.0, 0.5] * 3, 0.0])
    (finding,) = watch_rewards(mostly)
    assert finding.sign == "equal_rewards"
    assert "In 7 of the last 10 steps" in finding.detail
    half = replace(history, spread=[*list(history.spread)[:-10], *[0.0, 0.5] * 5])
    assert signs(half) == []
    assert signs(RewardHistory(spread=[0.0] * 9)) == []  # too early to tell


def test_a_reward_at_its_bound() -> None:
    history = healthy(2)
    full = replace(history, reward=[*list(history.reward)[:-10], *[1.0, 0.97] * 5])
    (finding,) = watch_rewards(full, BOUNDED)
    assert finding.sign == "saturation"
    assert "0.985" in finding.detail
    assert signs(full, WatchLimits()) == []  # no bound is known
    assert signs(full, WatchLimits(bounds=(-1.0, 2.0))) == []


def test_a_run_hacked_in_every_way_is_told_all_of_it_in_figures() -> None:
    way = [step / 60 for step in range(60)]
    hacked = RewardHistory(
        reward=[min(1.0, 0.2 + 2 * x) for x in way],
        spread=[0.0] * 60,
        kl=[3 * x for x in way],
        entropy=[2 * (1 - x) + 0.01 for x in way],
        length=[50 + 400 * x for x in way],
    )
    found = watch_rewards(hacked, BOUNDED)
    assert [finding.sign for finding in found] == ["drift", "entropy", "length", "equal_rewards", "saturation"]
    for finding in found:
        assert finding.title
        assert finding.hint
        assert any(letter.isdigit() for letter in finding.detail)
    assert found[0].detail == (
        "It went from 0.35 to 1 while the distance to the reference reached 2.73 nats a token (limit 0.50)."
    )
    assert found[2].detail == ("From 80 to 413 tokens on average, 5.2 times their start (limit 2 times, either way).")


def test_a_run_that_came_back_is_healthy() -> None:
    history = healthy(3)
    kl = [0.9 if 30 <= step < 80 else value for step, value in enumerate(history.kl)]
    assert signs(replace(history, kl=kl)) == []


def test_steps_that_were_not_measured_are_left_out() -> None:
    history = healthy(4)
    gaps = [value if step % 3 else math.nan for step, value in enumerate(history.kl)]
    assert signs(replace(history, kl=gaps)) == []
    hacked = [value + 1 if step % 3 else math.nan for step, value in enumerate(history.kl)]
    assert signs(replace(history, kl=hacked)) == ["drift"]


def test_lists_of_different_lengths_are_judged_by_their_own() -> None:
    history = healthy(5)
    assert signs(replace(history, kl=list(history.kl)[:5], entropy=(), length=list(history.length)[:30])) == []
