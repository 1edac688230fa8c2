"""How many rows came to each step, went on, and fell there, by reason; and how many passed it by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

INPUT = -1
"""The place of rows that could not be used at all, before the first step."""
_REASONS = 20
_OTHERS = "other reasons"


class Funnel:
    """Counts of one run, a step at a time."""

    def __init__(self, types: Sequence[str]) -> None:
        self._types = types
        self.entered = [0] * len(types)
        self.left = [0] * len(types)
        self.by = [0] * len(types)  # rows that the step was not for
        self._fell: list[Counter[str]] = [Counter() for _ in types]
        self._unusable: Counter[str] = Counter()

    def name(self, index: int) -> str:
        """The type of a step; "input" before the first."""
        return "input" if index == INPUT else self._types[index]

    def fell(self, index: int, reason: str) -> None:
        """A row fell or was rejected in a step. What a reason quotes is left out; rare ones are counted together."""
        reasons, reason = self._unusable if index == INPUT else self._fell[index], reason.partition(" “")[0]
        known = reason in reasons or len(reasons) < _REASONS
        reasons[reason[:200] if known else _OTHERS] += 1

    def steps(self) -> list[dict[str, Any]]:
        """The counts, as the journal and the result carry them. What could not be used at all stands first, if any."""
        unusable = self._unusable.total()
        fallen = {"entered": unusable, "left": 0, "fell": dict(self._unusable.most_common())}
        first: list[dict[str, Any]] = [{"step": INPUT, "type": "input", **fallen}] if unusable else []
        return first + [
            {
                "step": index,
                "type": type_,
                "entered": self.entered[index],
                "left": self.left[index],
                "fell": dict(self._fell[index].most_common()),
                **({"passed_by": self.by[index]} if self.by[index] else {}),
            }
            for index, type_ in enumerate(self._types)
        ]
