"""Reinforcement learning from rewards: advantages, clipped losses and estimates of the KL divergence, as pure formulas.

Responses have different lengths, so what belongs to tokens is flat: [N] numbers, and `rows` [N] (int64) says to which
of B responses each token belongs. The tokens of a row lie next to each other, in order; an episode ends at its row's
last token. Nothing is padded, and no row sees another (but in `whiten` and within a group, by intent).

Log-probs are natural logarithms. One below -100 nats (-inf: a token that is ruled out) counts as -100, and above
e^20 a ratio goes on along its tangent: values and gradients stay finite in float32 and keep their sign. NaN stays NaN.
Losses send gradients through the policy being trained, never through a target. Half precision is widened to float32.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from kdstudio.errors import BugError, KnownError

LOG_PROB_FLOOR = -100.0
"""In nats. No token this unlikely is ever drawn, and 0 times infinity would spoil a whole step."""

_LARGEST_EXPONENT = 20.0


def group_advantages(rewards: Tensor, *, scale: Literal["std", "none"] = "std", epsilon: float = 1e-6) -> Tensor:
    """(r - mean) / (std + epsilon) over the n answers to each prompt; [G, n] from rewards [G, n], no gradient.

    GRPO: Shao et al. 2024, https://arxiv.org/abs/2402.03300, section 4.1.2. The paper does not say which deviation;
    this is the sample's (n - 1), as in TRL. "none" leaves the division out: Dr. GRPO, Liu et al. 2025,
    https://arxiv.org/abs/2503.20783, section 3. Equal rewards, and an answer without a rival, give exactly 0: there is
    nothing to learn. Raises `KnownError` for a reward that is not a finite number.
    """
    rewards = widened(rewards).detach()
    _check_rewards(rewards)
    if rewards.shape[-1] < 2:
        return torch.zeros_like(rewards)
    advantages = rewards - rewards.mean(dim=-1, keepdim=True)
    if scale == "std":
        advantages = advantages / (rewards.std(dim=-1, keepdim=True) + epsilon)
    equal = rewards.amax(dim=-1, keepdim=True) == rewards.amin(dim=-1, keepdim=True)
    return advantages.masked_fill(equal, 0.0)  # a mean of equal numbers may miss them by a rounding error


def ppo_clip(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, *, clip: float = 0.2, clip_high: float | None = None
) -> Tensor:
    """-min(ratio A, clamp(ratio, 1 - clip, 1 + clip_high) A), ratio = new / old probability; [N], all inputs [N].

    Schulman et al. 2017, https://arxiv.org/abs/1707.06347, equation 7, with its sign turned to make a loss. `clip_high`
    (None: as `clip`) lets rare tokens grow: DAPO, Yu et al. 2025, https://arxiv.org/abs/2503.14476, section 3.1.
    """
    ratio = _bounded_exp(floored(log_probs) - floored(old_log_probs).detach())
    clipped = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    advantages = widened(advantages).detach()
    return -torch.minimum(ratio * advantages, clipped * advantages)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float = 0.2) -> Tensor:
    """1/2 max((V - R)^2, (V_old + clamp(V - V_old, -clip, clip) - R)^2); [N], all inputs [N]. clip = inf: no clipping.

    The squared error is L^VF of https://arxiv.org/abs/1707.06347, equation 9; the clipping is that of the authors' code
    (Engstrom et al. 2020, https://arxiv.org/abs/2005.12729), as is the half, which the paper's c_1 absorbs.
    """
    values, old_values, returns = widened(values), widened(old_values).detach(), widened(returns).detach()
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def discounted_returns(rewards: Tensor, rows: Tensor, *, gamma: float = 1.0) -> Tensor:
    """G_t = r_t + gamma G_{t+1} up to the row's last token; [N] from rewards [N], no gradient.

    Sutton & Barto 2018, http://incompleteideas.net/book/the-book-2nd.html, equation 3.9. By doubling: after k passes
    each token has summed 2^k terms, so that a row of a thousand tokens takes ten passes.
    Raises `BugError` when a row's tokens are not next to each other.
    """
    _check_rows(rows)
    total = widened(rewards).detach().clone()
    reach, weight = 1, gamma
    while reach < total.shape[0]:
        same = rows[reach:] == rows[:-reach]
        if not bool(same.any()):
            break
        total[:-reach] += (total[reach:] * weight).masked_fill(~same, 0.0)
        reach, weight = 2 * reach, weight * weight
    return total


def next_in_row(values: Tensor, rows: Tensor) -> Tensor:
    """The value of the token that follows in the same row, 0 after the last one; [N]."""
    result = torch.zeros_like(values)
    result[:-1] = values[1:].masked_fill(rows[1:] != rows[:-1], 0.0)
    return result


def generalized_advantages(
    rewards: Tensor, values: Tensor, rows: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """GAE: A_t = sum_l (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t, and the returns A + V; [N] each.

    Schulman et al. 2015, https://arxiv.org/abs/1506.02438, equation 16. The value after a row's last token is 0.
    No gradient passes.
    """
    rewards, values = widened(rewards).detach(), widened(values).detach()
    deltas = rewards + gamma * next_in_row(values, rows) - values
    advantages = discounted_returns(deltas, rows, gamma=gamma * lam)
    return advantages, advantages + values


def whiten(values: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) over all values of a batch, any shape; equal values give exactly 0.

    The sample's variance (n - 1), as in TRL and MiniLLM. No gradient passes.
    """
    values = widened(values).detach()
    if values.numel() < 2 or bool(values.amax() == values.amin()):
        return torch.zeros_like(values)
    variance, mean = torch.var_mean(values)
    return (values - mean) * torch.rsqrt(variance + epsilon)


def reward_model_loss(chosen: Tensor, rejected: Tensor, *, margin: Tensor | float = 0.0) -> Tensor:
    """-log sigma(r_w - r_l - margin); [B] from the rewards [B] of the better and the worse response.

    Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, equation 1; the margin (a number, or [B]) is that of Llama 2,
    Touvron et al. 2023, https://arxiv.org/abs/2307.09288, equation 2.
    """
    return -functional.logsigmoid(widened(chosen) - widened(rejected) - margin)


def kl_k1(log_probs: Tensor, reference: Tensor) -> Tensor:
    """log pi - log pi_ref of tokens that pi drew: [N] nats, KL(pi || pi_ref) in the mean, of either sign.

    Schulman 2020, http://joschu.net/blog/kl-approx.html. To report, or to subtract from a reward. Not to be minimised:
    over pi's own tokens its gradient is 0 in the mean.
    """
    return floored(log_probs) - floored(reference).detach()


def kl_k3(log_probs: Tensor, reference: Tensor) -> Tensor:
    """e^d - d - 1 with d = log pi_ref - log pi of tokens that pi drew: [N] nats, KL(pi || pi_ref) in the mean.

    Schulman 2020, http://joschu.net/blog/kl-approx.html; the penalty of GRPO, https://arxiv.org/abs/2402.03300,
    equation 4. Never negative and of less variance than `kl_k1`. As a loss it pulls like KL(pi_ref || pi).
    """
    difference = floored(reference).detach() - floored(log_probs)
    growth = torch.expm1(difference.clamp(max=_LARGEST_EXPONENT)) + _beyond(difference)
    return (growth - difference).clamp(min=0.0)  # rounding alone can fall below zero


def on_policy_distillation_advantage(
    student_log_probs: Tensor, teacher_log_probs: Tensor, *, base: Tensor | float = 0.0, alpha: float = 1.0
) -> Tensor:
    """base + alpha (log p - log q) of the tokens y that the student drew; [N] from log p(y), log q(y) [N], no gradient.

    Distillation as reinforcement, each token's reward being how much likelier the teacher finds it: Lu et al. 2025,
    https://thinkingmachines.ai/blog/on-policy-distillation/. `base`: the advantage from other rewards, a number or [N].
    """
    advantage = base - alpha * kl_k1(student_log_probs, teacher_log_probs)
    return advantage.detach()


def policy_gradient(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """-A log pi; [N], all inputs [N]. Its gradient is the policy's, its value says nothing.

    REINFORCE: Williams 1992, https://doi.org/10.1007/BF00992696.
    """
    return -widened(advantages).detach() * floored(log_probs)


def floored(log_probs: Tensor) -> Tensor:
    """Log-probs in float32 or better, none below `LOG_PROB_FLOOR`; same shape."""
    return widened(log_probs).clamp(min=LOG_PROB_FLOOR)


def widened(values: Tensor) -> Tensor:
    """In float32, or in float64 if they already are; same shape."""
    return values if values.dtype == torch.float64 else values.float()


def _bounded_exp(exponent: Tensor) -> Tensor:
    """e^x, above x = 20 along its tangent: a clamp alone would cut the gradient, infinity would make it NaN."""
    return exponent.clamp(max=_LARGEST_EXPONENT).exp() + _beyond(exponent)


def _beyond(exponent: Tensor) -> Tensor:
    """What the tangent adds above x = 20; exactly 0 below, in value and gradient."""
    return math.exp(_LARGEST_EXPONENT) * functional.relu(exponent - _LARGEST_EXPONENT)


def _check_rows(rows: Tensor) -> None:
    runs = torch.unique_consecutive(rows)
    if runs.numel() != torch.unique(runs).numel():
        raise BugError("The tokens of a row are not next to each other.")


def _check_rewards(rewards: Tensor) -> None:
    wrong = (~torch.isfinite(rewards)).nonzero()
    if len(wrong):
        prompt, answer = wrong[0].tolist()
        raise KnownError(
            "A reward is not a number",
            f"Answer {answer + 1} to prompt {prompt + 1} of this step earned {rewards[prompt, answer].item()}.",
            "Look at what gives the rewards: it must return a finite number for any answer, also for an empty one.",
        )
