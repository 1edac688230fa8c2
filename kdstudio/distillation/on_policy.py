"""Distillation on what the student itself writes: when to let it write, what to keep, and how its tokens are weighed.

GKD, MiniLLM, DistiLLM and speculative distillation, as formulas and rules without a model in them. Tokens are flat, as
in `reinforcement`: [N] numbers and `rows` [N], the tokens of a row next to each other and in order. Every choice is a
pure function of its arguments, chance included (seed, step): a run that goes on after a break makes the same again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from kdstudio.distillation.randomness import stream
from kdstudio.distillation.reinforcement import discounted_returns, kl_k1, next_in_row, policy_gradient, widened
from kdstudio.errors import BadInput, KnownError

Source = Literal["data", "fresh", "replay"]


def takes_rollout(seed: int, step: int, share: float) -> bool:
    """Whether `step` trains on the student's own responses, as a `share` of all steps does, or on the data's.

    GKD: Agarwal et al. 2024, https://arxiv.org/abs/2306.13649, algorithm 1, with share = lambda: 0 never, 1 always.
    Raises `BadInput` for a share outside [0, 1].
    """
    _check_share("share", share)
    return bool(stream(seed, "rollout-or-data", step).random() < share)


def teacher_mixed_log_probs(student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.2) -> Tensor:
    """log(alpha p + (1 - alpha) q), the distribution MiniLLM draws from; [N, V] nats from logits [N, V], no gradient.

    Gu et al. 2024, https://arxiv.org/abs/2306.08543, equation 4: the teacher keeps out what would only fool the reward.
    Raises `BadInput` for an alpha outside [0, 1].
    """
    _check_share("alpha", alpha)
    log_q = widened(student_logits).detach().log_softmax(dim=-1)
    log_p = widened(teacher_logits).detach().log_softmax(dim=-1)
    if alpha in (0.0, 1.0):
        return log_p if alpha else log_q
    return torch.logaddexp(log_p + math.log(alpha), log_q + math.log1p(-alpha))


def importance_weights(
    student_label_log_probs: Tensor,
    mixed_label_log_probs: Tensor,
    rows: Tensor,
    *,
    clip: float = 10.0,
    cumulative: bool = False,
) -> Tensor:
    """w_t = q(y_t) / mixed(y_t), at most `clip`, of the tokens y drawn from the mixture; [N], no gradient.

    https://arxiv.org/abs/2306.08543: the approximation by one token that follows equation 5, of far less variance than
    the product over the row's tokens up to t in equation 5 itself (`cumulative`). While q is the student that drew, a
    token's weight is at most 1 / (1 - alpha); the clip is for products, and for a student that has moved on since.
    """
    logarithm = kl_k1(student_label_log_probs.detach(), mixed_label_log_probs)
    if cumulative:
        logarithm = discounted_returns(logarithm.flip(0), rows.flip(0)).flip(0)
    return logarithm.clamp(max=math.log(clip)).exp()


def minillm_long_term_advantages(
    student_label_log_probs: Tensor,
    teacher_label_log_probs: Tensor,
    rows: Tensor,
    *,
    gamma: float = 1.0,
    length_normalised: bool = True,
) -> Tensor:
    """R_{t+1}: the sum of gamma^(t'-t-1) log(p / q)(y_t') over all later tokens t' of the row; [N] nats, no gradient.

    `length_normalised` divides it by how many they are: https://arxiv.org/abs/2306.08543, equation 6, without which the
    student learns to be short. The paper prints T - t - 1 for the count, which would divide by 0 one token before the
    end; there are T - t. `gamma` is the authors' code's; they too divide by the plain count. A row's last token gets 0.
    """
    log_ratio = -kl_k1(student_label_log_probs.detach(), teacher_label_log_probs)
    later = next_in_row(discounted_returns(log_ratio, rows, gamma=gamma), rows)
    if not length_normalised:
        return later
    counts = next_in_row(discounted_returns(torch.ones_like(log_ratio), rows), rows)
    return later / counts.clamp(min=1.0)


def minillm_policy_loss(log_probs: Tensor, advantages: Tensor, weights: Tensor) -> Tensor:
    """-w_t R_{t+1} log q(y_t); [N], all inputs [N]: its gradient is the long-term part of MiniLLM's.

    https://arxiv.org/abs/2306.08543, equation 7; the single-step part there is w_t times `divergences.reverse_kl`.
    Gradients pass through `log_probs` only.
    """
    return policy_gradient(log_probs, weights * advantages)


@dataclass(frozen=True)
class AdaptiveReplay:
    """How often DistiLLM trains on the student's own outputs, and how many it has kept; goes into a checkpoint as JSON.

    Ko et al. 2024, https://arxiv.org/abs/2402.03898, section 3.2 and algorithm 1. `share` is phi, the probability of a
    step on own outputs; `lowest_loss` the lowest validation loss since phi last grew; `stored` the outputs ever kept.
    """

    share: float = 0.0
    lowest_loss: float | None = None
    stored: int = 0

    def after_validation(self, loss: float, *, tolerance: float = 0.1, increment: float = 0.1) -> AdaptiveReplay:
        """phi grows by `increment` (1 / N_phi), up to 1, when `loss` has risen by `tolerance` above its lowest.

        The lowest since phi last grew, not the last one: a slow climb counts too. (The authors' code compares with the
        loss at the last growth, and so never grows for a student that starts badly.) NaN and infinity change nothing.
        """
        if not math.isfinite(loss):
            return self
        if self.lowest_loss is None or loss <= self.lowest_loss:
            return replace(self, lowest_loss=loss)
        if loss < self.lowest_loss + tolerance:
            return self
        return replace(self, share=min(1.0, self.share + increment), lowest_loss=loss)

    def after_storing(self, count: int) -> AdaptiveReplay:
        """`count` more outputs were kept."""
        return replace(self, stored=self.stored + count)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint's JSON."""
        return {"share": self.share, "lowest_loss": self.lowest_loss, "stored": self.stored}

    @classmethod
    def from_dict(cls, numbers: dict[str, Any]) -> AdaptiveReplay:
        """What `as_dict` gave. Raises `KnownError` when it is something else."""
        try:
            lowest = numbers["lowest_loss"]
            state = cls(float(numbers["share"]), None if lowest is None else float(lowest), int(numbers["stored"]))
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(numbers) from error
        if not 0 <= state.share <= 1 or state.stored < 0:
            raise _damaged(numbers)
        return state


def replay_source(
    state: AdaptiveReplay, seed: int, step: int, total: int, *, capacity: int = 1000, least: int = 1
) -> Source:
    """What `step` (from 0) of `total` trains on: the data, fresh outputs (to be kept as well), or kept ones.

    https://arxiv.org/abs/2402.03898, algorithm 1: own outputs with probability phi, 1 - step / total of them fresh:
    many in the early steps, when the student changes fast, few in the late ones. While fewer than `least` are kept they
    are fresh in any case; the authors' code fills the buffer first (`least` = `capacity`).
    """
    draw = stream(seed, "replay-source", step).random()
    if draw >= state.share:
        return "data"
    if min(state.stored, capacity) < least or draw < state.share * (1 - step / total):
        return "fresh"
    return "replay"


def replaced_slots(stored: int, count: int, *, capacity: int = 1000) -> list[int]:
    """The buffer's slots that the next `count` outputs go to, when `stored` were kept before: the oldest make room.

    First in, first out, as in https://arxiv.org/abs/2402.03898, algorithm 1. Written in order, so that of more than
    `capacity` outputs the last ones stay.
    """
    return [(stored + index) % capacity for index in range(count)]


def replayed_slots(seed: int, step: int, stored: int, count: int, *, capacity: int = 1000) -> list[int]:
    """The `count` slots that `step` trains on, drawn without repetition from those in use (all, if they are fewer)."""
    used = min(stored, capacity)
    drawn = stream(seed, "replay-slots", step).choice(used, size=min(count, used), replace=False)
    return [int(slot) for slot in drawn]


def interleaved_choice(student_tokens: Tensor, teacher_logits: Tensor, random: Tensor, *, top_k: int = 25) -> Tensor:
    """The student's tokens [B], those outside the teacher's top k replaced by draws from the teacher; [B] (int64).

    Speculative distillation: Xu et al. 2025, https://arxiv.org/abs/2410.11325, algorithm 1. `teacher_logits` [B, V] of
    the position the tokens were drawn for; `random` [B] uniform in [0, 1) decides the draws, from the teacher's whole
    distribution by its inverse. A tie at rank k is the student's; a token of logit -inf is neither kept nor drawn.
    """
    logits = widened(teacher_logits)
    tokens = student_tokens.long().unsqueeze(-1)
    own = logits.gather(-1, tokens)
    kept = ((logits > own).sum(dim=-1, keepdim=True) < top_k) & (own > -torch.inf)
    reached = logits.softmax(dim=-1).cumsum(dim=-1)
    mass = reached[:, -1:]
    # Rounding may lift the product to the whole mass, beyond the last token: stay just below.
    target = torch.minimum(random.to(mass.dtype).unsqueeze(-1) * mass, torch.nextafter(mass, torch.zeros_like(mass)))
    drawn = torch.searchsorted(reached, target, right=True)
    return torch.where(kept, tokens, drawn).squeeze(-1)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:  # NaN fails too
        raise BadInput("This share is not between 0 and 1", f"{name} is {value:g}.", f"Choose {name} from 0 to 1.")


def _damaged(numbers: dict[str, Any]) -> KnownError:
    return KnownError(
        "The checkpoint's replay state cannot be read",
        f"It holds {str(numbers)[:200]}.",
        "Take an earlier checkpoint, or start the run again.",
    )
