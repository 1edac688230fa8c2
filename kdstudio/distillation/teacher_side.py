"""What the recipe's teacher contributes to a run: signals to learn from, a measure on held-out rows, a refit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.catalogue.objectives import Signal
from kdstudio.distillation.calibration import Calibration, calibration
from kdstudio.distillation.examples import SourceRow
from kdstudio.distillation.objectives import needed_signals
from kdstudio.distillation.planning import planned_steps
from kdstudio.distillation.reporter import Reporter, TrainingJob
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.teacher_signals import DenseTeacher, SignalSource, StoredSignals
from kdstudio.distillation.vocabulary import require_same_vocabulary
from kdstudio.errors import BadInput, BugError, KnownError
from kdstudio.models.gguf_header import fingerprint, read_header
from kdstudio.models.shape import parameter_count, shape_of_folder
from kdstudio.recipe import TrainingRecipe
from kdstudio.students.build import Student, load_source
from kdstudio.students.network import assemble
from kdstudio.students.refit import refit, teacher_hidden
from kdstudio.students.save import open_tokenizer
from kdstudio.teachers.vault import Vault

CACHE_BYTES = 1 << 30
"""Hidden states of rows that come again are kept up to this size; beyond it the teacher runs along."""


@dataclass
class TeacherSide:
    """`source`: what objectives read; `judge`: what held-out rows are measured against; `network`: kept for a refit.

    `again`: the run reads its rows more than once, so that what the teacher says of them is worth keeping.
    """

    source: SignalSource | None = None
    judge: SignalSource | None = None
    network: PreTrainedModel | None = None
    again: bool = False

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
        if not dense.unknown(rows.training):
            dense.forget_body()


def teacher_side(
    job: TrainingJob,
    recipe: TrainingRecipe,
    student: Student,
    teacher: Path | None,
    rows: TrainingRows,
    sources: Sequence[SourceRow],
    accelerator: Accelerator,
) -> TeacherSide:
    """Open what the recipe needs of the local `teacher`, and what can be measured with it besides.

    Raises `KnownError` when the objectives need a signal that cannot be had: missing from the vault, another
    vocabulary, an architecture that torch does not know here.
    """
    needed = Signal.TEACHER_SIGNAL in needed_signals(recipe.objective)
    if teacher is None:
        return TeacherSide()
    try:
        if student.source != teacher:
            require_same_vocabulary(open_tokenizer(teacher), student.tokenizer, sources)
    except BadInput:
        if needed:
            raise
        return TeacherSide()  # learning from text alone is what such a pair is for
    stored: SignalSource | None = None
    if needed and recipe.teacher.signals == "stored":
        if teacher.is_dir():
            raise KnownError(
                "This teacher's signals cannot be stored",
                f"{teacher.name} is a folder; llama.cpp scores GGUF files alone.",
                'Set teacher.signals = "dense", or take a GGUF file of the same model.',
            )
        vault = Vault(job.project_folder / "vault")
        stored = StoredSignals(vault, rows, fingerprint(teacher), recipe.teacher.top_k)
    must = (needed and stored is None) or recipe.student.refit
    if not must and not (rows.held_out and fits_in_memory(teacher)):
        return TeacherSide(stored, stored)
    try:
        config, state = load_source(teacher)
    except KnownError:
        if must:
            raise
        return TeacherSide(stored, stored)
    network = assemble(config, state, teacher.name)
    dense = DenseTeacher(network, rows, accelerator.device, accelerator.autocast)
    visits = planned_steps(recipe, rows.count) * recipe.run.rows_per_batch * recipe.run.accumulation
    again, kept = visits > rows.count, network if recipe.student.refit else None
    side = TeacherSide(stored or (dense if needed else None), dense, kept, again)
    # A refit reads the training rows anyway: what the teacher says of them is kept then.
    remember_rows(job, dense, rows, training=side.source is dense, again=again and kept is None)
    return side


def local_teacher(described: Mapping[str, Any]) -> Path | None:
    """The file or folder of a teacher whose weights are on this machine; None for any other."""
    if described.get("kind") not in ("gguf", "huggingface") or not described.get("path"):
        return None
    return Path(str(described["path"])).expanduser()


def fits_in_memory(teacher: Path) -> bool:
    """Whether the whole network in float32 takes at most half of the memory that is free."""
    parameters = parameter_count(shape_of_folder(teacher)) if teacher.is_dir() else read_header(teacher).parameters
    return parameters * 4 <= psutil.virtual_memory().available / 2


def remember_rows(job: Reporter, teacher: DenseTeacher, rows: TrainingRows, *, training: bool, again: bool) -> None:
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
