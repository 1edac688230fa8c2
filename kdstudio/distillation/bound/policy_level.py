"""Losses on the student's own answers: MiniLLM, on-policy distillation as a reward, GRPO, PPO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdstudio.distillation import on_policy, reinforcement
from kdstudio.distillation.bound.base import Binder, Objective, Setting, dense_of
from kdstudio.distillation.bound.row_level import groups_of, last_places
from kdstudio.distillation.bound.token_level import divergence_term
from kdstudio.distillation.passes import Part, Pass, no_value
from kdstudio.errors import BugError


def _on_own_answers(read: Callable[[Pass], Sequence[Part]]) -> Callable[[Pass], Sequence[Part]]:
    """Nothing on stored rows, which stand in some steps where `rollout.share` is below 1: no policy drew them."""

    def only_own(view: Pass) -> Sequence[Part]:
        own = all(example.own for example in view.batch.examples)
        return read(view) if own else [Part(total=no_value(view.hidden))]

    return only_own


def _minillm(parameters: dict[str, Any], _: Setting) -> Objective:
    """Answers may come from a mixture with the teacher: `rollout_log_prob` says how likely each token was then."""
    gamma, normalised = parameters["gamma"], parameters["length_normalised"]

    def read(view: Pass) -> list[Part]:
        dense_of(view, "minillm")
        student = view.log_probs.detach()
        advantages = on_policy.minillm_long_term_advantages(
            student, view.teacher_log_probs, view.batch.owner, gamma=gamma, length_normalised=normalised
        )
        drawn = view.extras.get("rollout_log_prob")
        weights = (
            torch.ones_like(student)
            if drawn is None
            else on_policy.importance_weights(student, drawn, view.batch.owner)
        )
        loss = on_policy.minillm_policy_loss(view.log_probs, advantages, weights)
        parts = [Part(total=loss.sum(), figures={"teacher_log_ratio": (view.teacher_log_probs - student).sum()})]
        if parameters["single_step"]:
            parts.append(Part(term=divergence_term(view, "reverse_kl"), token_weights=weights))
        return parts

    return Objective(_on_own_answers(read))


def _on_policy_reward(parameters: dict[str, Any], _: Setting) -> Objective:
    def read(view: Pass) -> list[Part]:
        dense_of(view, "on_policy_as_reward")
        student, teacher = view.log_probs.detach(), view.teacher_log_probs
        advantages = reinforcement.on_policy_distillation_advantage(student, teacher, alpha=parameters["alpha"])
        loss = reinforcement.policy_gradient(view.log_probs, advantages)
        return [Part(total=loss.sum(), figures={"kl_to_teacher": reinforcement.kl_k3(student, teacher).sum()})]

    return Objective(_on_own_answers(read))


def _old(view: Pass) -> Tensor:
    return view.extras.get("old_log_probs", view.log_probs.detach())


def _reference(view: Pass) -> Tensor:
    if view.reference is None:
        raise BugError("a policy was asked for without the reference's log-probs")
    return view.reference


def _rewards(view: Pass) -> Tensor:
    return view.batch.of_rows([example.score for example in view.batch.examples])


class _GRPO(Objective):
    """The clipped surrogate with a group's advantages, and k3 to the reference: arXiv 2402.03300, equation 3.

    The mean over a row's tokens, then over rows, as the paper has it.
    """

    def __init__(self, parameters: dict[str, Any]) -> None:
        super().__init__(_on_own_answers(self._parts))
        self._values = parameters

    def prepare(self, view: Pass) -> dict[str, Tensor]:
        """Advantages [N] of each answer within its group, and the log-probs it was written with."""
        rewards, advantages = _rewards(view), view.hidden.new_zeros(len(view.batch.examples), dtype=torch.float32)
        for group in groups_of(view.batch.examples):
            found = reinforcement.group_advantages(rewards[group].unsqueeze(0), scale=self._values["scale"])
            advantages[group] = found[0].to(advantages.dtype)
        return {"advantages": advantages[view.batch.owner], "old_log_probs": view.log_probs.detach()}

    def _parts(self, view: Pass) -> Sequence[Part]:
        loss = reinforcement.ppo_clip(view.log_probs, _old(view), view.extras["advantages"], clip=self._values["clip"])
        distance = reinforcement.kl_k3(view.log_probs, _reference(view))
        rows = view.batch.mean_of_rows(loss + self._values["kl_weight"] * distance)
        return [Part("row", total=rows.sum(), figures=_figures(view, distance))]


class ValueHead(nn.Module):
    """What a policy expects to earn from each token on, [N] from hidden [N, H]; zero at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Tensor) -> Tensor:
        """[N]."""
        return hidden.float() @ self.scale + self.bias


class _PPO(Objective):
    """PPO with a value head on the student's own states: arXiv 1707.06347; rewards as in InstructGPT, arXiv 2203.02155.

    Each token earns -kl_weight (log pi - log ref), the last one also the answer's reward. Advantages are GAE's.
    """

    def __init__(self, parameters: dict[str, Any], setting: Setting) -> None:
        self._value = ValueHead(int(setting.student["hidden_size"]))
        super().__init__(_on_own_answers(self._parts), self._value)
        self._values = parameters

    def prepare(self, view: Pass) -> dict[str, Tensor]:
        """Advantages, returns, values and log-probs [N] at the time of writing."""
        old, values = view.log_probs.detach(), self._value(view.hidden).detach()
        rewards = -self._values["kl_weight"] * reinforcement.kl_k1(old, _reference(view)).float()
        rewards[last_places(view)] += _rewards(view)
        advantages, returns = reinforcement.generalized_advantages(
            rewards, values, view.batch.owner, gamma=self._values["gamma"], lam=self._values["gae_lambda"]
        )
        return {"advantages": advantages, "returns": returns, "old_values": values, "old_log_probs": old}

    def _parts(self, view: Pass) -> Sequence[Part]:
        clip = self._values["clip"]
        loss = reinforcement.ppo_clip(view.log_probs, _old(view), view.extras["advantages"], clip=clip)
        values = self._value(view.hidden)
        guessed = reinforcement.value_loss(values, view.extras["old_values"], view.extras["returns"], clip=clip)
        distance = reinforcement.kl_k3(view.log_probs, _reference(view))
        figures = {**_figures(view, distance), "value_loss": view.batch.mean_of_rows(guessed.detach()).sum()}
        rows = view.batch.mean_of_rows(loss + self._values["value_weight"] * guessed)
        return [Part("row", total=rows.sum(), figures=figures)]


def _figures(view: Pass, distance: Tensor) -> dict[str, Tensor]:
    """Sums over rows: reward, its spread within the group, distance to the reference, surprise, the answer's length."""
    scores = [example.score for example in view.batch.examples]
    spread = 0.0
    for group in groups_of(view.batch.examples):
        own = [scores[place] for place in group]
        spread += (max(own) - min(own)) * len(group)
    lengths = view.batch.of_rows([float(len(example.response_ids)) for example in view.batch.examples])
    return {
        "reward": _rewards(view).sum(),
        "kl_to_start": view.batch.mean_of_rows(distance.detach()).sum(),
        "reward_spread": torch.tensor(spread),
        "entropy": -view.batch.mean_of_rows(view.log_probs.detach()).sum(),
        "answer_tokens": lengths.sum(),
    }


BINDERS: dict[str, Binder] = {
    "minillm": _minillm,
    "on_policy_as_reward": _on_policy_reward,
    "grpo": lambda parameters, _: _GRPO(parameters),
    "ppo": _PPO,
}
