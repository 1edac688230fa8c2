"""Which round was the best, and whether the held-out figure has fallen for too long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdstudio.catalogue.rounds import LOWER_IS_BETTER


@dataclass(frozen=True)
class Verdict:
    """`best`: the place of the best value, of equals the earliest. `worse`: how many of the last values fell short."""

    best: int
    worse: int


def verdict_of(figure: str, values: Sequence[float], tolerance: float) -> Verdict:
    """Judge a figure's values in order; there must be one. One that is not a number is worse than any.

    A value falls short when it is worse than the best before it by more than `tolerance`, in the figure's own unit.
    """
    worth = [_worth(figure, value) for value in values]
    best, worse = 0, 0
    for place, value in enumerate(worth):
        worse = worse + 1 if not value >= worth[best] - tolerance else 0
        if value > worth[best]:
            best = place
    return Verdict(best, worse)


def _worth(figure: str, value: float) -> float:
    if math.isnan(value):
        return -math.inf
    return -value if LOWER_IS_BETTER[figure] else value
