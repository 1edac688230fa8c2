"""What the recipe's teacher contributes to a run: signals to learn from, a measure on held-out rows, a refit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.catalogue.objectives import RUNNING_TEACHER, TEACHER_SIGNALS, Signal
from kdstudio.distillation.calibration import Calibration, calibration
from kdstudio.distillation.cross_target import CrossTeacher
from kdstudio.distillation.drawn_source import drawn_source
from kdstudio.distillation.examples import SourceRow
from kdstudio.distillation.forward import head_weight
from kdstudio.distillation.mixture import require_stored_alone
from kdstudio.distillation.objectives import crosses_vocabularies, needed_signals, uses_own_answers
from kdstudio.distillation.planning import planned_steps
from kdstudio.distillation.reporter import Reporter
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.stored_signals import StoredDraws, StoredSignals
from kdstudio.distillation.teacher_signals import DenseTeacher, SignalSource
from kdstudio.distillation.vocabulary import require_same_vocabulary
from kdstudio.errors import BadInput, BugError, KnownError
from kdstudio.jobs.events import Metric
from kdstudio.models.conversation import Tokenizer
from kdstudio.models.gguf_header import read_header
from kdstudio.models.model_folder import weights_fingerprint
from kdstudio.models.shape import parameter_count, shape_of_folder
from kdstudio.networks.network import assemble
from kdstudio.recipe import TrainingRecipe
from kdstudio.students.build import Student, load_source
from kdstudio.students.refit import refit, teacher_hidden
from kdstudio.students.save import open_tokenizer
from kdstudio.teachers.ensemble import mixture_name
from kdstudio.teachers.vault import Vault

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


def teacher_side(
    job: Reporter,
    project_folder: Path,
    recipe: TrainingRecipe,
    student: Student,
    teacher: Path | None,
    rows: TrainingRows,
    sources: Sequence[SourceRow],
    accelerator: Accelerator,
    *,
    mixture: str = "",
) -> TeacherSide:
    """Open what the recipe needs of the local `teacher`, and what can be measured with it besides.

    `mixture`: the fingerprint of several teachers' mean, whose stored signals then take the place of the one's.

    Raises `KnownError` when the objectives need a signal that cannot be had: missing from the vault, another
    vocabulary, an architecture that torch does not know here.
    """
    needs = needed_signals(recipe.objective)
    running = _must_run(recipe, needs)
    needed = bool(needs & TEACHER_SIGNALS) or running
    if teacher is None:
        return TeacherSide()
    different = _difference(student, teacher, sources)
    if different is not None and needed and crosses_vocabularies(recipe):
        return _cross(job, student, teacher, rows, sources, accelerator)
    if different is not None and needed:
        raise different
    if different is not None:
        return TeacherSide()  # learning from text alone is what such a pair is for
    outcomes = head_weight(student.model).shape[0]
    known = mixture or weights_fingerprint(teacher)
    stored = _stored(job, project_folder, recipe, teacher, rows, outcomes, known, running=running) if needed else None
    running = running and not isinstance(stored, StoredDraws)
    judge = stored if isinstance(stored, StoredSignals) else None  # no distance can be told from draws
    if mixture:
        require_stored_alone(recipe, running=running)
        return TeacherSide(stored, judge)
    must = (needed and stored is None) or recipe.student.refit
    if not must and not (rows.held_out and fits_in_memory(teacher)):
        return TeacherSide(stored, judge)
    try:
        config, state = load_source(teacher)
    except KnownError:
        if must:
            raise
        return TeacherSide(stored, judge)
    network = assemble(config, state, teacher.name)
    dense = DenseTeacher(network, rows, accelerator.device, accelerator.autocast, outcomes=outcomes)
    visits = planned_steps(recipe, len(rows.units)) * recipe.run.rows_per_batch * recipe.run.accumulation
    again, kept = visits > rows.count, network if recipe.student.refit else None
    side = TeacherSide(stored or (dense if needed else None), dense, kept, again, dense if running else None, config)
    if running:
        return side
    # A refit reads the training rows anyway: what the teacher says of them is kept then.
    remember_rows(job, dense, rows, training=side.source is dense, again=again and kept is None)
    return side


def _difference(student: Student, teacher: Path, sources: Sequence[SourceRow]) -> BadInput | None:
    """Why the two do not share a vocabulary; None if they do."""
    if student.source == teacher:
        return None
    try:
        require_same_vocabulary(open_tokenizer(teacher), student.tokenizer, sources)
    except BadInput as found:
        return found
    return None


def _stored(
    job: Reporter,
    project_folder: Path,
    recipe: TrainingRecipe,
    teacher: Path,
    rows: TrainingRows,
    outcomes: int,
    fingerprint: str,
    *,
    running: bool,
) -> StoredSignals | StoredDraws | None:
    """What the run reads from the vault, and how much of the teacher's mass is in it; None where the teacher runs."""
    weights = recipe.teacher.weights or {recipe.teacher.name: 1.0}
    name, path = mixture_name(list(weights), list(weights.values())), str(teacher) if len(weights) == 1 else ""
    vault, named = Vault(project_folder / "vault"), {"name": name, "path": path}
    found: StoredSignals | StoredDraws | None = None
    if running:
        found = drawn_source(job.run_folder, vault, recipe, rows, fingerprint, outcomes=outcomes, **named)
    elif recipe.teacher.signals == "stored":
        found = StoredSignals(vault, rows, fingerprint, recipe.teacher.top_k, outcomes=outcomes, **named)
    if found is not None:
        job.emit(Metric(0, {"captured_mass": found.captured_mass}))
    return found


def _cross(
    job: Reporter,
    student: Student,
    teacher: Path,
    rows: TrainingRows,
    sources: Sequence[SourceRow],
    accelerator: Accelerator,
) -> TeacherSide:
    """A teacher of another vocabulary: it reads the rows in its own tokens. No divergence measures such a pair."""
    config, state = load_source(teacher)
    network = assemble(config, state, teacher.name)
    device, precision = accelerator.device, accelerator.autocast
    found = CrossTeacher(network, open_tokenizer(teacher), student.tokenizer, rows, sources, device, precision)
    job.warn(
        "Teacher and student have different vocabularies",
        f"{found.aligned_share():.0%} of the text aligns by its bytes; the held-out measure is the text alone.",
        "This is what the chosen objective is for.",
    )
    return TeacherSide(found, config=config)


def _must_run(recipe: TrainingRecipe, needs: frozenset[Signal]) -> bool:
    """Whether the teacher must run beside the student: what it says cannot be known before."""
    own = bool(needs & TEACHER_SIGNALS) and uses_own_answers(recipe)
    mixed = uses_own_answers(recipe) and recipe.rollout.source != "student"
    judged = Signal.REWARDS in needs or (Signal.PREFERENCES in needs and uses_own_answers(recipe))
    return (
        bool(needs & RUNNING_TEACHER)
        or own
        or mixed
        or (judged and recipe.reward.kind in ("judge", "teacher_log_prob"))
    )


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
