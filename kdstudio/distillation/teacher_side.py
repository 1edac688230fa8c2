"""What the recipe's teacher contributes to a run: signals to learn from, a measure on held-out rows, a refit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.distillation.calibration import Calibration, calibration
from kdstudio.distillation.cross_target import CrossTeacher
from kdstudio.distillation.reporter import Reporter
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.stored_signals import StoredDraws
from kdstudio.distillation.teacher_signals import DenseTeacher, RunningTeacher, SignalSource
from kdstudio.errors import BugError
from kdstudio.models.conversation import Tokenizer
from kdstudio.students.build import Student
from kdstudio.students.refit import refit, teacher_hidden

CACHE_BYTES = 1 << 30
"""Hidden states of rows that come again are kept up to this size; beyond it the teacher runs along."""


@dataclass
class TeacherSide:
    """`source`: what objectives read; `judge`: what held-out rows are measured against; `network`: kept for a refit.

    `running`: the teacher beside the student for the whole run, where inner states or own answers are asked of it, with
    its `config`. `again`: the run reads its rows more than once, so that what the teacher says of them is worth
    keeping.
    """

    source: SignalSource | CrossTeacher | StoredDraws | None = None
    judge: SignalSource | None = None
    network: PreTrainedModel | None = None
    again: bool = False
    running: DenseTeacher | None = None
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None

    def refit(
        self, job: Reporter, student: Student, rows: TrainingRows, accelerator: Accelerator
    ) -> list[tuple[float, float]]:
        """Refit the student to the teacher on the training rows; what the teacher says of them meanwhile is kept.

        Returns each kept layer's relative error before and after.
        """
        network, self.network = self._network(), None
        chosen = calibration(rows, student.config, accelerator.device)
        layers = student.description["layers"]
        made = refit(
            student.model, network, layers, chosen.rows, accelerator.autocast, going_on=_going_on(job, "layers")
        )
        self._keep(job, chosen, made.hidden, rows)
        return made.errors

    def recall(self, job: Reporter, student: Student, rows: TrainingRows, accelerator: Accelerator) -> None:
        """For a run that goes on after its refit: let the teacher say again, bit by bit, what was kept then."""
        network, self.network = self._network(), None
        if isinstance(self.source, DenseTeacher):
            chosen = calibration(rows, student.config, accelerator.device)
            hidden = teacher_hidden(
                network, chosen.rows, accelerator.autocast, going_on=_going_on(job, "layers", stage="teacher")
            )
            self._keep(job, chosen, hidden, rows)

    def _network(self) -> PreTrainedModel:
        if self.network is None:
            raise BugError("a refit was asked for, but the teacher's network was not kept for it")
        return self.network

    def _keep(self, job: Reporter, chosen: Calibration, hidden: Sequence[Tensor], rows: TrainingRows) -> None:
        """Let the dense teacher remember hidden states [B, L, H] of the chosen batches, and what else comes again."""
        dense = self.source
        if not isinstance(dense, DenseTeacher):
            return
        for batch, states in zip(chosen.batches, hidden, strict=True):
            dense.keep(batch, states.flatten(0, 1).index_select(0, batch.where))
        missing = dense.unknown(rows.training)
        if missing and self.again and dense.cache_bytes(missing) <= CACHE_BYTES:
            dense.remember(missing, going_on=_going_on(job, "rows", stage="teacher"))
        if not dense.unknown(rows.training) and self.running is None:
            dense.forget_body()


def remember_rows(job: Reporter, teacher: RunningTeacher, rows: TrainingRows, *, training: bool, again: bool) -> None:
    """Run at once what will be read more than once and fits: held-out rows, and training rows that come `again`.

    What is left runs beside the student, in the batches of the plan; otherwise the network is freed.
    """
    wanted = [*rows.held_out, *(rows.training if training and again else ())]
    if teacher.cache_bytes(wanted) > CACHE_BYTES:
        wanted = list(rows.held_out)
    if teacher.cache_bytes(wanted) > CACHE_BYTES:
        return
    teacher.remember(wanted, going_on=_going_on(job, "rows", stage="teacher"))
    if not training or len(wanted) == len(rows.examples):
        teacher.forget_body()


def _going_on(job: Reporter, unit: str, stage: str = "refit") -> Callable[[int, int], bool]:
    def going_on(done: int, total: int) -> bool:
        job.progress(done, total, unit=unit, stage=stage)
        return job.continues()

    return going_on
