"""Binds the catalogue's objectives to code, and weighs several into one loss.

The training loop knows none of them by name: it hands each a pass and takes back parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from kdstudio.catalogue.objectives import OBJECTIVES, TEACHER_SIGNALS, Signal
from kdstudio.catalogue.training import ObjectiveTable
from kdstudio.distillation.bound import cross_level, inner_level, policy_level, row_level, token_level
from kdstudio.distillation.bound.base import Binder, Bound, Setting
from kdstudio.distillation.inner_states import Watch
from kdstudio.distillation.passes import Part, Pass, Per, run_parts
from kdstudio.recipe import TrainingRecipe

BINDERS: dict[str, Binder] = {
    **token_level.BINDERS,
    **cross_level.BINDERS,
    **inner_level.BINDERS,
    **row_level.BINDERS,
    **policy_level.BINDERS,
}
"""The code behind each key of the catalogue."""


def needed_signals(tables: Iterable[ObjectiveTable]) -> frozenset[Signal]:
    """All signals that a recipe's objectives read."""
    return frozenset(signal for table in tables for signal in OBJECTIVES[table.name].needs)


def uses_own_answers(recipe: TrainingRecipe) -> bool:
    """Whether the student writes while it trains: an objective needs it, or the recipe asks for a share or a replay."""
    asked = recipe.rollout.share > 0 or recipe.rollout.replay != "off"
    return asked or Signal.ROLLOUTS in needed_signals(recipe.objective)


def crosses_vocabularies(recipe: TrainingRecipe) -> bool:
    """Whether every objective that reads the teacher can do so across tokenizers, on stored text."""
    reading = [table.name for table in recipe.objective if set(OBJECTIVES[table.name].needs) & TEACHER_SIGNALS]
    return all(name in cross_level.BINDERS for name in reading) and not uses_own_answers(recipe)


def reads_preferences(recipe: TrainingRecipe) -> bool:
    """Whether the rows are the project's preferences: responses that the student did not write are compared."""
    return Signal.PREFERENCES in needed_signals(recipe.objective) and not uses_own_answers(recipe)


@dataclass
class Sums:
    """What a step's passes add up to: the loss, each objective's own, and figures, divided by the counts."""

    loss: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float, weight: float) -> None:
        """One objective's share."""
        self.loss += weight * value
        self.parts[name] = self.parts.get(name, 0.0) + value


class WeightedObjectives:
    """A recipe's objectives as one. `modules` hold weights of their own, by name."""

    def __init__(self, tables: Sequence[ObjectiveTable], setting: Setting) -> None:
        self.tables = tuple(tables)
        names = [table.name for table in self.tables]
        self.labels = tuple(
            name if names.count(name) == 1 else f"{name}_{names[: place + 1].count(name)}"
            for place, name in enumerate(names)
        )
        self.bound: tuple[Bound, ...] = tuple(BINDERS[table.name](table.parameters, setting) for table in self.tables)
        found = {label: one.module for label, one in zip(self.labels, self.bound, strict=True)}
        self.modules = nn.ModuleDict({label: module for label, module in found.items() if module is not None})

    def watch(self) -> tuple[Watch, Watch]:
        """What all of them together keep of the student's and the teacher's passes."""
        ours, theirs = zip(*(one.watch() for one in self.bound), strict=True)
        return _joined(ours), _joined(theirs)

    def prepare(self, view: Pass) -> dict[str, Tensor]:
        """What they keep of a round of own answers while it is new."""
        made: dict[str, Tensor] = {}
        for one in self.bound:
            made |= one.prepare(view)
        return made

    def run(self, view: Pass, counts: dict[Per, int], sums: Sums, *, backward: bool = True) -> None:
        """Add a pass's share of the loss to `sums`, and its gradients to the leaves of the pass."""
        parts: list[tuple[Part, float]] = []
        names: list[str] = []
        for label, table, one in zip(self.labels, self.tables, self.bound, strict=True):
            for part in one.read(view):
                parts.append((part, table.weight))
                names.append(label)
        said: dict[str, str] = {}  # two objectives may measure the same: it is said once, not added up
        for name, (part, weight), value in zip(
            names, parts, run_parts(view, parts, counts, backward=backward), strict=True
        ):
            sums.add(name, float(value), weight)
            for figure, found in part.figures.items():
                if said.setdefault(figure, name) != name:
                    continue
                sums.figures[figure] = sums.figures.get(figure, 0.0) + float(found) / counts[part.per]


def _joined(watches: Sequence[Watch]) -> Watch:
    layers = sorted({layer for watch in watches for layer in watch.layers})
    return Watch(tuple(layers), any(watch.relations for watch in watches))
