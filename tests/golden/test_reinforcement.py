"""Reinforcement's formulas against plain loops written from the papers, by hand, and at the edges where they break."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from kdstudio.distillation import reinforcement
from kdstudio.errors import BugError, KnownError
from tests.golden import reference_reinforcement as reference

LENGTHS = (1, 7, 2, 16, 5)
ROWS = torch.repeat_interleave(torch.tensor([3, 0, 4, 1, 2]), torch.tensor(LENGTHS))  # in any order, each in one piece
N = len(ROWS)


def draw(seed: int, *, scale: float = 1.0, count: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=generator, dtype=torch.float64) * scale


def draw_log_probs(seed: int, *, count: int = N) -> Tensor:
    return -draw(seed, scale=1.5, count=count).abs() - 0.01


def close(ours: Tensor, expected: reference.Array) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), expected, atol=1e-10, rtol=0)


# ------------------------------------------------------------------------------------------------ advantages in a group


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_group_advantages_equal_the_reference(scale: Literal["std", "none"], size: int) -> None:
    rewards = draw(1, count=5 * size).reshape(5, size)
    close(reinforcement.group_advantages(rewards, scale=scale), reference.group_advantages(rewards.numpy(), scale))


def test_group_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [3.0, 5.0, 4.0, 4.0]], dtype=torch.float64)
    deviations = math.sqrt(4 * 0.25 / 3), math.sqrt(2 / 3)  # the sample's: divided by n - 1 = 3
    ours = reinforcement.group_advantages(rewards, epsilon=0.0).tolist()
    assert ours[0] == pytest.approx(
        [0.5 / deviations[0], -0.5 / deviations[0], -0.5 / deviations[0], 0.5 / deviations[0]]
    )
    assert ours[1] == pytest.approx([-1 / deviations[1], 1 / deviations[1], 0, 0])
    assert reinforcement.group_advantages(rewards, scale="none").tolist() == [[0.5, -0.5, -0.5, 0.5], [-1, 1, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", ["std", "none"])
def test_equal_rewards_and_single_answers_give_exactly_zero(scale: Literal["std", "none"], dtype: torch.dtype) -> None:
    for value in (0.0, 0.1, -1 / 3, 1e4):
        for size in (1, 2, 3, 7):
            rewards = torch.full((2, size), value, dtype=dtype)
            assert reinforcement.group_advantages(rewards, scale=scale, epsilon=0.0).tolist() == [[0.0] * size] * 2


def test_a_group_does_not_see_another() -> None:
    rewards = draw(2, count=12).reshape(3, 4)
    assert torch.equal(reinforcement.group_advantages(rewards)[1:2], reinforcement.group_advantages(rewards[1:2]))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_a_number_is_named(wrong: float) -> None:
    rewards = torch.zeros(3, 2)
    rewards[2, 1] = wrong
    with pytest.raises(KnownError) as caught:
        reinforcement.group_advantages(rewards)
    assert f"Answer 2 to prompt 3 of this step earned {wrong}" in caught.value.detail


# ----------------------------------------------------------------------------------------------------- clipped losses


@pytest.mark.parametrize(("clip", "clip_high"), [(0.2, None), (0.2, 0.28), (0.05, 3.0)])
def test_ppo_equals_the_reference(clip: float, clip_high: float | None) -> None:
    new, old, advantages = draw_log_probs(3), draw_log_probs(4), draw(5)
    ours = reinforcement.ppo_clip(new, old, advantages, clip=clip, clip_high=clip_high)
    close(ours, reference.ppo_clip(new.numpy(), old.numpy(), advantages.numpy(), clip, clip_high))


def test_ppo_by_hand() -> None:
    # Ratios 2, 2, 1/2, 1/2 with the advantage up, down, up, down: only the first and the last are held.
    new = torch.tensor([0.8, 0.8, 0.2, 0.2], dtype=torch.float64).log().requires_grad_()
    old = torch.full((4,), 0.4, dtype=torch.float64).log()
    loss = reinforcement.ppo_clip(new, old, torch.tensor([1.0, -1.0, 1.0, -1.0]), clip=0.2)
    assert loss.tolist() == pytest.approx([-1.2, 2.0, -0.5, 0.8])
    (gradient,) = torch.autograd.grad(loss.sum(), new)
    assert gradient.tolist() == pytest.approx([0.0, 2.0, -0.5, 0.0])


def test_ppo_starts_as_the_policy_gradient() -> None:
    log_probs, advantages = draw_log_probs(6).requires_grad_(), draw(7)
    loss = reinforcement.ppo_clip(log_probs, log_probs.detach().clone(), advantages)
    assert torch.equal(loss, -advantages)  # the ratio is 1
    (ours,) = torch.autograd.grad(loss.sum(), log_probs)
    (plain,) = torch.autograd.grad(reinforcement.policy_gradient(log_probs, advantages).sum(), log_probs)
    torch.testing.assert_close(ours, plain, atol=1e-15, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_large_ratios_stay_finite_and_pull_the_right_way(dtype: torch.dtype) -> None:
    new = torch.tensor([-0.1, -0.1, -200.0, -torch.inf, 0.0, -0.1], dtype=dtype).requires_grad_()
    old = torch.tensor([-200.0, -200.0, -0.1, -0.1, -torch.inf, -30.0], dtype=dtype)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0, -1.0], dtype=dtype)
    loss = reinforcement.ppo_clip(new, old, advantages)
    (gradient,) = torch.autograd.grad(loss.sum(), new)
    assert loss.dtype == torch.float32
    assert bool(loss.isfinite().all())
    assert bool(gradient.isfinite().all())
    assert loss[0].item() == pytest.approx(-1.2, rel=1e-2)
    assert loss[1] > loss[5] > 1e8
    assert gradient[0] == 0
    assert gradient[1] > 0
    assert gradient[5] > 0


@pytest.mark.parametrize("clip", [0.2, math.inf])
def test_value_loss_equals_the_reference(clip: float) -> None:
    values, old, returns = draw(8), draw(9), draw(10)
    ours = reinforcement.value_loss(values, old, returns, clip=clip)
    close(ours, reference.value_loss(values.numpy(), old.numpy(), returns.numpy(), clip))


def test_value_loss_by_hand() -> None:
    values = torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64).requires_grad_()
    loss = reinforcement.value_loss(values, torch.zeros(3), torch.tensor([2.0, 0.0, 1.0]))
    assert loss.tolist() == pytest.approx([0.5 * 1.8**2, 0.5, 0.5 * 0.9**2])
    (gradient,) = torch.autograd.grad(loss.sum(), values)
    assert gradient.tolist() == pytest.approx([0.0, 1.0, -0.9])  # the first moved as far as it may


# -------------------------------------------------------------------------------------------------- sums over the rows


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 1.0])
def test_returns_equal_the_reference(gamma: float) -> None:
    rewards = draw(11)
    ours = reinforcement.discounted_returns(rewards, ROWS, gamma=gamma)
    close(ours, reference.discounted_returns(rewards.numpy(), ROWS.numpy(), gamma))


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_generalized_advantages_equal_the_reference(gamma: float, lam: float) -> None:
    rewards, values = draw(12), draw(13)
    ours = reinforcement.generalized_advantages(rewards, values, ROWS, gamma=gamma, lam=lam)
    expected = reference.generalized_advantages(rewards.numpy(), values.numpy(), ROWS.numpy(), gamma, lam)
    for one, other in zip(ours, expected, strict=True):
        close(one, other)


def test_sums_by_hand() -> None:
    rows = torch.tensor([0, 0, 0, 1])
    rewards, values = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([10.0, 20.0, 30.0, 40.0])
    assert reinforcement.discounted_returns(rewards, rows).tolist() == [7, 6, 4, 8]
    assert reinforcement.discounted_returns(rewards, rows, gamma=0.5).tolist() == [3, 4, 4, 8]
    assert reinforcement.next_in_row(values, rows).tolist() == [20, 30, 0, 0]
    advantages, returns = reinforcement.generalized_advantages(rewards, values, rows, gamma=0.5, lam=0.5)
    # delta = [1 + 10 - 10, 2 + 15 - 20, 4 - 30, 8 - 40], then A_t = delta_t + A_{t+1} / 4
    assert advantages.tolist() == [1 + (-3 - 26 / 4) / 4, -3 - 26 / 4, -26, -32]
    assert returns.tolist() == (advantages + values).tolist()


def test_lambda_one_is_the_return_minus_the_value_and_zero_one_step() -> None:
    rewards, values = draw(14), draw(15)
    advantages, returns = reinforcement.generalized_advantages(rewards, values, ROWS, gamma=0.9, lam=1.0)
    expected = reinforcement.discounted_returns(rewards, ROWS, gamma=0.9)
    torch.testing.assert_close(returns, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(advantages, expected - values, atol=1e-12, rtol=0)
    advantages, _ = reinforcement.generalized_advantages(rewards, values, ROWS, gamma=0.9, lam=0.0)
    torch.testing.assert_close(advantages, rewards + 0.9 * reinforcement.next_in_row(values, ROWS) - values)


@pytest.mark.parametrize("garbage", [1e30, math.inf, math.nan])
def test_another_row_changes_nothing(garbage: float) -> None:
    rewards, values = draw(16), draw(17)
    alone = reinforcement.generalized_advantages(rewards, values, ROWS, gamma=0.97)
    for before, after in ((0, 9), (3, 0), (70, 70)):
        spoil = [torch.full((count,), garbage, dtype=torch.float64) for count in (before, after)]
        rows = torch.cat([torch.full((before,), 8), ROWS, torch.full((after,), 9)])
        longer = [torch.cat([spoil[0], tensor, spoil[1]]) for tensor in (rewards, values)]
        among = reinforcement.generalized_advantages(longer[0], longer[1], rows, gamma=0.97)
        for one, other in zip(alone, among, strict=True):
            assert torch.equal(one, other[before : before + N])


def test_no_tokens_give_no_tokens() -> None:
    nothing = torch.zeros(0)
    advantages, returns = reinforcement.generalized_advantages(nothing, nothing, torch.zeros(0, dtype=torch.int64))
    assert advantages.tolist() == returns.tolist() == []


def test_scattered_rows_are_refused() -> None:
    with pytest.raises(BugError):
        reinforcement.discounted_returns(torch.ones(3), torch.tensor([0, 1, 0]))


def test_a_long_row_keeps_its_digits() -> None:
    rewards = torch.full((8192,), 0.1)
    returns = reinforcement.discounted_returns(rewards, torch.zeros(8192, dtype=torch.int64))
    assert returns[0].item() == pytest.approx(819.2, rel=1e-6)


def test_whitening_equals_the_reference() -> None:
    values = draw(18, scale=40.0) + 7
    close(reinforcement.whiten(values), reference.whiten(values.numpy()))
    assert reinforcement.whiten(torch.full((7,), 0.1)).tolist() == [0.0] * 7
    assert reinforcement.whiten(torch.tensor([5.0])).tolist() == [0.0]


# ----------------------------------------------------------------------------- rewards from models, KL and the teacher


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_reward_model_loss_equals_the_reference(margin: float) -> None:
    chosen, rejected = draw(19, scale=10.0), draw(20, scale=10.0)
    ours = reinforcement.reward_model_loss(chosen, rejected, margin=margin)
    expected = reference.reward_model_loss(chosen.numpy(), rejected.numpy(), margin)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-10, rtol=1e-10)


def test_reward_model_loss_by_hand_and_far_out() -> None:
    loss = reinforcement.reward_model_loss(torch.tensor([0.0, math.log(3), 1e4, -1e4]), torch.zeros(4))
    assert loss.tolist() == pytest.approx([math.log(2), math.log(4 / 3), 0.0, 1e4])
    margins = reinforcement.reward_model_loss(torch.ones(2), torch.zeros(2), margin=torch.tensor([1.0, 0.0]))
    assert margins.tolist() == pytest.approx([math.log(2), math.log1p(math.exp(-1))])


def test_kl_estimates_equal_the_reference() -> None:
    policy, other = draw_log_probs(21), draw_log_probs(22)
    close(reinforcement.kl_k1(policy, other), reference.kl_k1(policy.numpy(), other.numpy()))
    close(reinforcement.kl_k3(policy, other), reference.kl_k3(policy.numpy(), other.numpy()))


def test_kl_estimates_by_hand() -> None:
    policy, other = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.25, 0.5]).log()
    assert reinforcement.kl_k1(policy, other).tolist() == pytest.approx([math.log(2), -math.log(2)])
    assert reinforcement.kl_k3(policy, other).tolist() == pytest.approx([0.5 - 1 + math.log(2), 2 - 1 - math.log(2)])


def test_the_estimates_mean_is_the_divergence() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    exact = (p * (p / q).log()).sum()
    for estimate in (reinforcement.kl_k1, reinforcement.kl_k3):
        torch.testing.assert_close((p * estimate(p.log(), q.log())).sum(), exact)


def test_equal_policies_are_at_zero_distance() -> None:
    log_probs = draw_log_probs(23).float()
    base = draw(24)
    for estimate in (reinforcement.kl_k1, reinforcement.kl_k3):
        assert estimate(log_probs, log_probs.clone()).tolist() == [0.0] * N
    assert torch.equal(reinforcement.on_policy_distillation_advantage(log_probs, log_probs, base=base), base)
    ruled_out = torch.tensor([-torch.inf])
    assert reinforcement.kl_k3(ruled_out, ruled_out).tolist() == [0.0]


def test_k3_is_never_negative() -> None:
    for scale in (1e-7, 1e-4, 1.0, 30.0):
        policy = draw_log_probs(25, count=2000).float()
        other = policy + (draw(26, count=2000) * scale).float()
        assert reinforcement.kl_k3(policy, other).min() >= 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_policies_stay_finite(dtype: torch.dtype) -> None:
    policy = torch.tensor([-0.1, -90.0, -torch.inf, -25.0, -24.0], dtype=dtype).requires_grad_()
    other = torch.tensor([-torch.inf, -0.1, -0.1, -0.1, -0.1], dtype=dtype)
    assert reinforcement.kl_k1(policy, other).tolist()[:1] == pytest.approx([99.9])  # -inf counts as -100
    value = reinforcement.kl_k3(policy, other)
    (gradient,) = torch.autograd.grad(value.sum(), policy)
    assert bool(value.isfinite().all())
    assert bool(gradient.isfinite().all())
    assert value[0].item() == pytest.approx(98.9)
    assert value[2] > value[1] > value[3] > value[4]  # still growing on the tangent
    assert gradient[1] < 0  # and still pulling the policy up to the reference


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_on_policy_distillation_equals_the_reference(alpha: float) -> None:
    student, teacher, base = draw_log_probs(27), draw_log_probs(28), draw(29)
    ours = reinforcement.on_policy_distillation_advantage(student, teacher, base=base, alpha=alpha)
    close(ours, reference.on_policy_advantage(student.numpy(), teacher.numpy(), base.numpy(), alpha))


def test_on_policy_distillation_by_hand() -> None:
    student = torch.tensor([0.5, 0.1, 0.5]).log().requires_grad_()
    teacher = torch.tensor([0.25, 0.4, 0.0]).log()
    ours = reinforcement.on_policy_distillation_advantage(student, teacher, base=1.0, alpha=2.0)
    expected = [1 - 2 * math.log(2), 1 + 2 * math.log(4), 1 + 2 * (-100 + math.log(2))]
    assert ours.tolist() == pytest.approx(expected)
    assert not ours.requires_grad


def test_policy_gradient_by_hand() -> None:
    log_probs = torch.tensor([0.5, 0.25, 0.0]).log().requires_grad_()
    advantages = torch.tensor([2.0, -1.0, 0.0], requires_grad=True)
    loss = reinforcement.policy_gradient(log_probs, advantages)
    assert loss.tolist() == pytest.approx([2 * math.log(2), -math.log(4), 0.0])  # the last is no 0 times infinity
    torch.autograd.backward(loss.sum())
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [-2.0, 1.0, 0.0]
    assert advantages.grad is None


# ------------------------------------------------------------------------------------------------------------ gradients


def test_gradients_are_those_of_the_values() -> None:
    x, y, z = draw_log_probs(30).requires_grad_(), draw_log_probs(31), draw(32)
    far = draw_log_probs(33) - 30  # on the tangent too
    check = torch.autograd.gradcheck
    assert check(lambda t: reinforcement.ppo_clip(t, y, z), x)
    assert check(lambda t: reinforcement.value_loss(t, y, z), x)
    assert check(lambda t: reinforcement.kl_k1(t, y), x)
    assert check(lambda t: reinforcement.kl_k3(t, y), x)
    assert check(lambda t: reinforcement.policy_gradient(t, z), x)
    assert check(lambda t: reinforcement.reward_model_loss(t, y, margin=0.3), x)
    assert check(lambda t: reinforcement.reward_model_loss(y, t), x)
    assert check(lambda t: reinforcement.ppo_clip(t, far - 5, z) * 1e-9, x, eps=1e-4)


def test_float32_gradients_keep_their_digits() -> None:
    x, y, z = draw_log_probs(37), draw_log_probs(38), draw(39)
    for loss in (reinforcement.ppo_clip, lambda t, y, z: reinforcement.kl_k3(t, y) * z):
        both = []
        for dtype in (torch.float64, torch.float32):
            inputs = x.to(dtype).requires_grad_(), y.to(dtype), z.to(dtype)
            (gradient,) = torch.autograd.grad(loss(*inputs).sum(), inputs[0])
            both.append(gradient.double())
        torch.testing.assert_close(both[1], both[0], atol=1e-5, rtol=1e-4)


def test_nothing_flows_into_a_target() -> None:
    policy, other, third = (draw_log_probs(seed).requires_grad_() for seed in (34, 35, 36))
    losses = (
        reinforcement.ppo_clip(policy, other, third),
        reinforcement.value_loss(policy, other, third),
        reinforcement.kl_k1(policy, other),
        reinforcement.kl_k3(policy, third),
    )
    torch.autograd.backward(torch.stack(losses).sum())
    assert policy.grad is not None
    assert other.grad is None
    assert third.grad is None
    targets = (
        reinforcement.group_advantages(policy.reshape(1, -1)),
        reinforcement.discounted_returns(policy, ROWS),
        *reinforcement.generalized_advantages(policy, other, ROWS),
        reinforcement.whiten(policy),
        reinforcement.on_policy_distillation_advantage(policy, other, base=third),
    )
    assert not any(target.requires_grad for target in targets)


def test_a_value_that_is_not_a_number_stays_visible() -> None:
    nan, zero = torch.tensor([math.nan]), torch.zeros(1)
    for value in (
        reinforcement.ppo_clip(nan, zero, torch.ones(1)),
        reinforcement.kl_k3(nan, zero),
        reinforcement.policy_gradient(nan, torch.ones(1)),
        reinforcement.on_policy_distillation_advantage(zero, nan),
    ):
        assert math.isnan(value.item())
