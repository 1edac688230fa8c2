"""What an audit looks at, and what it has to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.distillation.batches import Batch
from kdstudio.distillation.examples import Example
from kdstudio.distillation.forward import Embedded, response_hidden
from kdstudio.distillation.rollouts import evaluating
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.targets import TeacherTarget
from kdstudio.distillation.teacher_signals import RunningTeacher, SignalSource
from kdstudio.models.conversation import Tokenizer

Level = Literal["good", "warning", "fault"]
ROWS = 8
"""Rows that are run through a network."""
_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Finding:
    """One line of the audit. `passages`: a row's text in pieces, each with "read" or "learnt"."""

    level: Level
    title: str
    detail: str = ""
    passages: tuple[tuple[str, str], ...] = ()


@dataclass
class Audited:
    """What is checked. `source`: what objectives read of the teacher; `running`: its network where that is at hand."""

    network: PreTrainedModel
    tokenizer: Tokenizer
    rows: TrainingRows
    device: torch.device
    precision: Callable[[], AbstractContextManager[object]]
    source: SignalSource | None = None
    running: RunningTeacher | None = None
    teacher_tokenizer: Tokenizer | None = None
    divergences: Sequence[tuple[str, dict[str, Any]]] = ()

    def batch(self) -> Batch:
        """A few training rows of different lengths, at least one; without the longest where these would take long."""
        return self.rows.batch(self._chosen(), self.device)

    def _chosen(self) -> list[int]:
        order = sorted(self.rows.training, key=lambda row: self.rows.examples[row].tokens)
        chosen = order[:: max(1, len(order) // ROWS)][:ROWS]
        while len(chosen) > 1 and self.rows.tokens(chosen) > _BATCH_TOKENS:
            chosen.pop()
        return chosen

    def known_batch(self) -> Batch | None:
        """Rows that the running teacher can read now: some that are trained on, else some that are held out."""
        for rows in (self._chosen(), list(self.rows.held_out[:ROWS])):
            if rows and self.running is not None and self.running.can_read(rows):
                return self.rows.batch(rows, self.device)
        return None

    def student_hidden(self, batch: Batch) -> Tensor:
        """The student's states [N, H] in float32, in evaluation mode."""
        with torch.no_grad(), evaluating([self.network]), self.precision():
            prefix = self.rows.prefix.to(self.device)
            return response_hidden(self.network, batch, Embedded(self.network, batch, prefix)).float()

    def alone(self, network: PreTrainedModel, example: Example) -> Tensor:
        """A row's states [n, H] in float32, read by itself: no padding, no shared prefix, no places to look up."""
        ids = torch.tensor([[*example.prompt_ids.tolist(), *example.response_ids.tolist()[:-1]]], device=self.device)
        with torch.no_grad(), self.precision():
            states: Tensor = network.get_submodule("model")(input_ids=ids, use_cache=False).last_hidden_state
        return states[0, len(example.prompt_ids) - 1 :].float()

    def target(self, batch: Batch) -> TeacherTarget | None:
        """What the source says of the batch."""
        target = None if self.source is None else self.source.target(batch)
        return target if isinstance(target, TeacherTarget) else None  # another vocabulary's has no such checks
