"""Which of several answers most of them agree on.

Self-consistency: sample several ways of reasoning, keep the answer that most of them reach (Wang et al. 2022,
https://arxiv.org/abs/2203.11171).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdstudio.errors import BugError
from kdstudio.quality.words import plain

Same = Callable[[str, str], bool]


@dataclass(frozen=True)
class Vote:
    """The outcome: `winner` is the place of the first answer of the winning group, `members` the places of all of it.

    `share` is the group's part of all the weight cast, abstentions included, in 0..1. Without any answer the winner
    is -1 and the share 0.
    """

    winner: int
    members: tuple[int, ...]
    share: float


def vote(answers: Sequence[str], *, same: Same | None = None, weights: Sequence[float] | None = None) -> Vote:
    """Group the answers that are the same and pick the heaviest group; of equals, the one that began earliest.

    `same` compares an answer with the first of a group (by default: the same text but for case and spaces). Each
    answer weighs 1 unless `weights` (one each, not negative) say otherwise. An empty answer abstains: it can neither
    win nor join, but counts in the share. Raises `BugError` for weights that do not fit.
    """
    cast = _checked(weights, len(answers))
    groups = _groups(answers, same)
    if not groups:
        return Vote(-1, (), 0.0)
    heavy = [math.fsum(cast[place] for place in group) for group in groups]
    winner = groups[heavy.index(max(heavy))]
    total = math.fsum(cast)
    return Vote(winner[0], tuple(winner), max(heavy) / total if total else 0.0)


def _checked(weights: Sequence[float] | None, count: int) -> Sequence[float]:
    if weights is None:
        return [1.0] * count
    if len(weights) != count or not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise BugError(f"{len(weights)} weights for {count} answers: one each, finite and not negative")
    return weights


def _groups(answers: Sequence[str], same: Same | None) -> list[list[int]]:
    """Places of the answers that agree, in the order in which the groups began."""
    groups: list[list[int]] = []
    by_text: dict[str, list[int]] = {}
    for place, answer in enumerate(answers):
        if not (text := plain(answer)):
            continue
        group = by_text.get(text)
        if group is None and same is not None:
            group = next((group for group in groups if same(answers[group[0]], answer)), None)
        if group is None:
            groups.append(group := [])
        by_text.setdefault(text, group)
        group.append(place)
    return groups
