"""How far two who judge the same rows agree beyond chance: the share, Cohen's kappa with an interval, and its name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdstudio.errors import BadInput

FEW_ROWS = 20
"""Below so many rows the figures are mostly chance, and a person is told so."""
_NORMAL_95 = 1.959964
_STRENGTHS = ((0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"), (1.0, "almost perfect"))
Table = Mapping[Any, float]
"""(one's verdict, the other's) -> rows."""


@dataclass(frozen=True)
class Agreement:
    """How far one decides as the other did. `counts`: (judged, decided) -> rows; `interval`: kappa's, at 95%.

    `kappa` and `interval` are None where chance alone would agree always: when both gave one and the same verdict
    throughout.
    """

    share: float
    kappa: float | None
    interval: tuple[float, float] | None
    counts: Table


def agreement(judged: Sequence[Hashable], decided: Sequence[Hashable]) -> Agreement:
    """`agreement_of` two verdicts on the same rows, in their order.

    Raises `BadInput` when there are none, or not as many of one as of the other.
    """
    if not judged or len(judged) != len(decided):
        detail = f"There are {len(judged)} of the judge and {len(decided)} of the person."
        raise BadInput("Nothing to compare", detail, "Accept or reject some rows that the judge has scored.")
    return agreement_of(Counter(zip(judged, decided, strict=True)))


def agreement_of(counts: Table) -> Agreement:
    """Share, and Cohen's kappa (1960, https://doi.org/10.1177/001316446002000104) with its interval.

    The interval is that of Fleiss, Cohen and Everitt (see `kappa_error`) with half a row added to each cell, without
    which complete agreement on three rows would be certain for ever. Raises `BadInput` for an empty table.
    """
    rows = sum(counts.values())
    if not rows:
        raise BadInput("Nothing to compare", "No row has both verdicts.", "Accept or reject some judged rows.")
    share, expected = _shares(counts)
    if expected == 1:
        return Agreement(share, None, None, dict(counts))
    names = {name for pair in counts for name in pair}
    eased = {(one, other): counts.get((one, other), 0) + 0.5 for one in names for other in names}
    eased_share, eased_chance = _shares(eased)
    middle, reach = (eased_share - eased_chance) / (1 - eased_chance), _NORMAL_95 * kappa_error(eased)
    return Agreement(
        share, (share - expected) / (1 - expected), (max(-1.0, middle - reach), min(1.0, middle + reach)), dict(counts)
    )


def paired_agreement(right: float, wrong: float) -> Agreement:
    """Of orders of two answers that a person found right or wrong.

    Which of two stands first is arbitrary, so that chance is right half the time: each row counts half in either place.
    """
    halves = {("first", "first"): right / 2, ("second", "second"): right / 2}
    return agreement_of({**halves, ("first", "second"): wrong / 2, ("second", "first"): wrong / 2})


def kappa_error(counts: Table) -> float:
    """The large-sample standard error of kappa (Fleiss, Cohen and Everitt 1969, https://doi.org/10.1037/h0028106)."""
    rows = sum(counts.values())
    share, chance = _shares(counts)
    ours, theirs = _margins(counts)
    kappa = (share - chance) / (1 - chance)
    total = -((kappa - chance * (1 - kappa)) ** 2)
    for (one, other), count in counts.items():
        if one == other:
            total += count / rows * (1 - (ours[one] + theirs[one]) / rows * (1 - kappa)) ** 2
        else:
            total += count / rows * ((theirs[one] + ours[other]) / rows * (1 - kappa)) ** 2
    return math.sqrt(max(0.0, total) / rows) / (1 - chance)


def _shares(counts: Table) -> tuple[float, float]:
    """(share that agrees, share that would by chance)."""
    rows = sum(counts.values())
    ours, theirs = _margins(counts)
    same = sum(count for (one, other), count in counts.items() if one == other)
    return same / rows, sum(ours[name] * theirs.get(name, 0) for name in ours) / rows**2


def _margins(counts: Table) -> tuple[dict[Hashable, float], dict[Hashable, float]]:
    ours: dict[Hashable, float] = {name: 0.0 for pair in counts for name in pair}
    theirs = dict(ours)
    for (one, other), count in counts.items():
        ours[one] += count
        theirs[other] += count
    return ours, theirs


def strength(kappa: float) -> str:
    """What a kappa is called (Landis and Koch 1977, https://doi.org/10.2307/2529310)."""
    if kappa <= 0:
        return "no better than chance"
    return next(word for limit, word in _STRENGTHS if kappa <= limit)
