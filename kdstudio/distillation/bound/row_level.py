"""Losses of whole responses, from the log-probs of their tokens: preferences and the reward model.

The responses of one preference stand in one pass, as a group. A pair is the group's best and worst response by score; a
group whose scores are all alike has no pair and adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdstudio.distillation import ranking
from kdstudio.distillation.bound.base import Binder, Bound, Objective, Setting
from kdstudio.distillation.examples import Example
from kdstudio.distillation.passes import Part, Pass, no_value
from kdstudio.distillation.reinforcement import reward_model_loss
from kdstudio.errors import BugError


def groups_of(examples: Sequence[Example]) -> list[list[int]]:
    """Places of the responses of each group, groups in the order in which they begin."""
    found: dict[int, list[int]] = {}
    for place, example in enumerate(examples):
        found.setdefault(example.group, []).append(place)
    return list(found.values())


@dataclass(frozen=True)
class Pairs:
    """Places of better and worse responses."""

    better: list[int]
    worse: list[int]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Pairs:
        """Best and worst of each group by score, the first of equals; groups without a difference are left out."""
        better, worse = [], []
        for group in groups_of(examples):
            best = max(group, key=lambda place: (examples[place].score, -place))
            last = min(group, key=lambda place: (examples[place].score, place))
            if examples[best].score > examples[last].score:
                better.append(best)
                worse.append(last)
        return cls(better, worse)


def _pair_objective(function: Callable[..., Tensor], *, mean: bool, reference: bool) -> Binder:
    def bind(parameters: dict[str, Any], _: Setting) -> Objective:
        def read(view: Pass) -> list[Part]:
            pairs = Pairs.of(view.batch.examples)
            if not pairs.better:
                return [Part("unit", total=no_value(view.hidden))]
            scored = view.batch.mean_of_rows(view.log_probs) if mean else view.batch.sum_of_rows(view.log_probs)
            if not bool(scored.isfinite().all()):
                return _spoilt(scored)
            sides = [scored[pairs.better], scored[pairs.worse]]
            if reference:
                known = _reference(view, mean=mean)
                sides += [known[pairs.better], known[pairs.worse]]
            losses = function(*sides, **parameters)
            return [Part("unit", total=losses.sum(), figures=_figures(sides))]

        return Objective(read)

    return bind


def _spoilt(scored: Tensor) -> list[Part]:
    """A loss that is no number, for the loop to say at which step: the formulas could only blame a response."""
    return [Part("unit", total=scored.sum())]


def _reference(view: Pass, *, mean: bool) -> Tensor:
    if view.reference is None:
        raise BugError("a ranking was asked for without the reference's log-probs")
    return view.batch.mean_of_rows(view.reference) if mean else view.batch.sum_of_rows(view.reference)


def _figures(sides: Sequence[Tensor]) -> dict[str, Tensor]:
    """How often the better response leads, and by how much: over the reference where there is one."""
    margins = (sides[0] - sides[1]).detach()
    if len(sides) == 4:
        margins = margins - (sides[2] - sides[3])
    return {"preference_accuracy": (margins > 0).float().sum(), "preference_margin": margins.sum()}


_ORPO = _pair_objective(ranking.orpo, mean=True, reference=False)


def _orpo(parameters: dict[str, Any], setting: Setting) -> Bound:
    return _ORPO({"weight": parameters["odds_weight"]}, setting)


def _listwise(function: Callable[..., Tensor], names: dict[str, str]) -> Binder:
    """A loss over all responses of a group; `names`: our parameters' names -> the formula's."""

    def bind(parameters: dict[str, Any], _: Setting) -> Objective:
        given = {names[name]: value for name, value in parameters.items()}

        def read(view: Pass) -> list[Part]:
            groups = [group for group in groups_of(view.batch.examples) if view.batch.examples[group[0]].group]
            if not groups:
                return [Part("unit", total=no_value(view.hidden))]
            width = max(len(group) for group in groups)
            places = torch.tensor([group + [group[0]] * (width - len(group)) for group in groups])
            mask = torch.tensor([[place < len(group) for place in range(width)] for group in groups])
            places, mask = places.to(view.hidden.device), mask.to(view.hidden.device)
            scores = view.batch.of_rows([example.score for example in view.batch.examples])
            means = view.batch.mean_of_rows(view.log_probs)
            if not bool(means.isfinite().all()):
                return _spoilt(means)
            losses = function(means[places], scores[places], mask=mask, **given)
            pairs = Pairs.of(view.batch.examples)
            sides = [means[pairs.better], means[pairs.worse]]
            return [Part("unit", total=losses.sum(), figures=_figures(sides))]

        return Objective(read)

    return bind


class RewardHead(nn.Module):
    """A scalar from the last hidden state [.., H] of a response; zero at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, states: Tensor) -> Tensor:
        """[...]."""
        return states.float() @ self.scale + self.bias


def last_places(view: Pass) -> Tensor:
    """[B] where in [N] each row's last token stands."""
    counts = torch.tensor([len(example.response_ids) for example in view.batch.examples])
    return (counts.cumsum(0) - 1).to(view.hidden.device)


def _reward_model(parameters: dict[str, Any], setting: Setting) -> Objective:
    head = RewardHead(int(setting.student["hidden_size"]))

    def read(view: Pass) -> list[Part]:
        pairs = Pairs.of(view.batch.examples)
        if not pairs.better:
            return [Part("unit", total=no_value(view.hidden))]
        rewards = head(view.hidden[last_places(view)])
        losses = reward_model_loss(rewards[pairs.better], rewards[pairs.worse], **parameters)
        return [Part("unit", total=losses.sum(), figures=_figures([rewards[pairs.better], rewards[pairs.worse]]))]

    return Objective(read, head)


BINDERS: dict[str, Binder] = {
    "dpo": _pair_objective(ranking.dpo, mean=False, reference=True),
    "ipo": _pair_objective(ranking.ipo, mean=True, reference=True),
    "kto": _pair_objective(ranking.kto, mean=False, reference=True),
    "spin": _pair_objective(ranking.spin, mean=False, reference=True),
    "simpo": _pair_objective(ranking.simpo, mean=True, reference=False),
    "orpo": _orpo,
    "rrhf": _listwise(ranking.rrhf, {"rank_weight": "weight"}),
    "pro": _listwise(ranking.pro, {"sft_weight": "sft_weight"}),
    "reward_model": _reward_model,
}
