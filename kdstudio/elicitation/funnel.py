"""How many rows came to each step, went on, and fell there, by reason; and how many passed it by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

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

    def fell(self, index: int, reason: str) -> None:
        """A row fell or was rejected in a step. What a reason quotes is left out; rare ones are counted together."""
        reasons, reason = self._fell[index], reason.partition(" “")[0]
        known = reason in reasons or len(reasons) < _REASONS
        reasons[reason[:200] if known else _OTHERS] += 1

    def steps(self) -> list[dict[str, Any]]:
        """The counts, as the journal and the result carry them."""
        return [
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
