"""What a step learns from: stored rows, or answers that the student makes while it trains.

A round of own answers is made for its first step and may serve several (PPO's epochs). Everything random comes from the
run's seed and the round's first step, so that a resumed run makes the same round with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdstudio.distillation.batches import Batch, BatchPlan
from kdstudio.distillation.own_answers import OwnAnswers
from kdstudio.distillation.passes import Per
from kdstudio.distillation.rows import TrainingRows


@dataclass
class StepRows:
    """The passes of a step; `counts` over all of them. `extras` of each pass are what objectives prepared."""

    batches: list[Batch]
    own: bool = False
    extras: list[dict[str, Tensor]] = field(default_factory=list)

    @property
    def counts(self) -> dict[Per, int]:
        """Response tokens, rows and units."""
        examples = [example for batch in self.batches for example in batch.examples]
        groups = {example.group for example in examples if example.group}
        return {
            "token": sum(len(batch.labels) for batch in self.batches),
            "row": len(examples),
            "unit": len(groups) + sum(not example.group for example in examples),
        }

    @property
    def tokens(self) -> int:
        """All tokens, prompts too."""
        return sum(example.tokens for batch in self.batches for example in batch.examples)


Prepare = Callable[[Batch], dict[str, Tensor]]


class Experience:
    """The steps of a run. `prepare` is called once for each pass of a new round of own answers."""

    def __init__(
        self, rows: TrainingRows, plan: BatchPlan, device: torch.device, answers: OwnAnswers | None, prepare: Prepare
    ) -> None:
        self._rows, self._plan, self._device, self._answers, self._prepare = rows, plan, device, answers, prepare
        self._round: tuple[int, StepRows] | None = None

    def boundary(self, step: int) -> bool:
        """Whether a checkpoint may be made before `step`: a round that was begun is finished first."""
        return self._answers is None or step % self._answers.steps_each == 0

    def step(self, step: int, total: int) -> StepRows:
        """The passes of a step (from 0) of `total`."""
        if self._answers is None:
            return StepRows([self._stored(units) for units in self._plan.step(step)])
        begin = step - step % self._answers.steps_each
        if self._round is None or self._round[0] != begin:
            self._round = (begin, self._new_round(self._answers, begin, total))
        return self._round[1]

    def _new_round(self, answers: OwnAnswers, begin: int, total: int) -> StepRows:
        passes = self._plan.step(begin)
        source = answers.source(begin, total)
        if source == "data":
            return StepRows([self._stored(units) for units in passes])
        made = answers.make(source, begin, [[self._rows.units[unit] for unit in units] for units in passes])
        found = StepRows([batch.to(self._device) for batch in made], own=True)
        found.extras = [self._prepare(batch) for batch in found.batches]
        return found

    def _stored(self, units: Sequence[int]) -> Batch:
        return self._rows.batch([row for unit in units for row in self._rows.units[unit]], self._device)
