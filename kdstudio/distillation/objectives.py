"""Binds the catalogue's objectives to functions, and weighs several into one loss.

An objective is a function (student logits [N, V], targets of N tokens, its parameters) -> nats per token [N]. The
training loop knows none of them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kdstudio.catalogue.objectives import OBJECTIVES, Signal
from kdstudio.catalogue.training import ObjectiveTable
from kdstudio.distillation.divergences import DIVERGENCES, sparse
from kdstudio.distillation.supervised import cross_entropy
from kdstudio.distillation.targets import DenseTarget, Targets
from kdstudio.errors import BugError

ObjectiveFunction = Callable[..., Tensor]


def _supervised(student_logits: Tensor, targets: Targets, **parameters: Any) -> Tensor:
    return cross_entropy(student_logits, targets.labels, **parameters)


def _divergence(name: str) -> ObjectiveFunction:
    def objective(student_logits: Tensor, targets: Targets, **parameters: Any) -> Tensor:
        teacher = targets.teacher
        if teacher is None:
            raise BugError(f"{name} was asked for without a teacher signal")
        if isinstance(teacher, DenseTarget):
            return DIVERGENCES[name](student_logits, teacher.logits(), **parameters)
        return sparse(name, student_logits, teacher.ids, teacher.log_probs, teacher.tail_log_prob, **parameters)

    return objective


FUNCTIONS: dict[str, ObjectiveFunction] = {
    "supervised": _supervised,
    **{name: _divergence(name) for name in DIVERGENCES},
}
"""The function behind each key of the catalogue."""


def needed_signals(tables: Iterable[ObjectiveTable]) -> frozenset[Signal]:
    """All signals that a recipe's objectives read."""
    return frozenset(signal for table in tables for signal in OBJECTIVES[table.name].needs)


@dataclass(frozen=True)
class WeightedObjectives:
    """A recipe's objectives as one: sum of weight times mean over tokens."""

    tables: Sequence[ObjectiveTable]

    def labels(self) -> tuple[str, ...]:
        """A name for each objective's own curve; the same objective twice is numbered."""
        names = [table.name for table in self.tables]
        return tuple(
            name if names.count(name) == 1 else f"{name}_{names[: place + 1].count(name)}"
            for place, name in enumerate(names)
        )

    def __call__(self, student_logits: Tensor, targets: Targets) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Sums over tokens: the weighted loss (a scalar with gradients) and each objective's own, unweighted."""
        parts = [FUNCTIONS[table.name](student_logits, targets, **table.parameters).sum() for table in self.tables]
        total = sum(
            (part * table.weight for part, table in zip(parts[1:], self.tables[1:], strict=True)),
            start=parts[0] * self.tables[0].weight,
        )
        return total, tuple(part.detach() for part in parts)
