"""Opens what a recipe needs of its teacher: the vault, one network or several beside the student, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from accelerate import Accelerator

from kdstudio.catalogue.objectives import RUNNING_TEACHER, TEACHER_SIGNALS, Signal
from kdstudio.distillation.cross_target import CrossTeacher
from kdstudio.distillation.drawn_source import drawn_source
from kdstudio.distillation.examples import SourceRow
from kdstudio.distillation.forward import head_weight
from kdstudio.distillation.mixture import Mixture
from kdstudio.distillation.objectives import crosses_vocabularies, needed_signals, uses_own_answers
from kdstudio.distillation.planning import planned_steps
from kdstudio.distillation.reporter import Reporter
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.stored_signals import StoredDraws, StoredSignals
from kdstudio.distillation.teacher_side import TeacherSide, remember_rows
from kdstudio.distillation.teacher_signals import DenseTeacher, MixedTeacher
from kdstudio.distillation.vocabulary import require_same_vocabulary
from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs.events import Metric
from kdstudio.models.gguf_header import read_header
from kdstudio.models.model_folder import weights_fingerprint
from kdstudio.models.shape import parameter_count, shape_of_folder
from kdstudio.networks.network import assemble
from kdstudio.recipe import TrainingRecipe
from kdstudio.students.build import Student, load_source
from kdstudio.students.save import open_tokenizer
from kdstudio.teachers.ensemble import mixture_name
from kdstudio.teachers.vault import Vault
from kdstudio.teachers.vault_teachers import known_fingerprints

Stored = StoredSignals | StoredDraws


@dataclass
class Opening:
    """What a run has when its teacher is to be opened: `teacher`, the local one, or a `mixture` in its place."""

    job: Reporter
    project_folder: Path
    recipe: TrainingRecipe
    student: Student
    teacher: Path | None
    rows: TrainingRows
    sources: Sequence[SourceRow]
    accelerator: Accelerator
    mixture: Mixture | None = None

    def side(self) -> TeacherSide:
        """Open what the objectives read, and what can be measured with it besides.

        Raises `KnownError` when they need a signal that cannot be had: missing from the vault, another vocabulary, an
        architecture that torch does not know here.
        """
        if self.teacher is None:
            return TeacherSide()
        gone = [path for path in self._paths if not path.exists()]
        if gone:
            return self._without(gone[0])
        different = next((found for path in self._paths if (found := self._difference(path)) is not None), None)
        if different is not None and self._needed:
            if self.mixture is None and crosses_vocabularies(self.recipe):
                return self._cross(self.teacher)
            raise different
        if different is not None:
            return TeacherSide()  # learning from text alone is what such a pair is for
        if self.mixture is not None:
            return self._mean(self.mixture)
        return self._one(self.teacher)

    # ------------------------------------------------------------------------------------------------ what is asked
    @cached_property
    def _running(self) -> bool:
        """Whether the teacher must run beside the student: what it says cannot be known before."""
        recipe, needs = self.recipe, needed_signals(self.recipe.objective)
        own = bool(needs & TEACHER_SIGNALS) and uses_own_answers(recipe)
        mixed = uses_own_answers(recipe) and recipe.rollout.source != "student"
        judged = Signal.REWARDS in needs or (Signal.PREFERENCES in needs and uses_own_answers(recipe))
        teacher_judges = judged and recipe.reward.kind in ("judge", "teacher_log_prob")
        return bool(needs & RUNNING_TEACHER) or own or mixed or teacher_judges

    @cached_property
    def _needed(self) -> bool:
        return bool(needed_signals(self.recipe.objective) & TEACHER_SIGNALS) or self._running

    @cached_property
    def _again(self) -> bool:
        """Whether the run reads its rows more than once."""
        run, steps = self.recipe.run, planned_steps(self.recipe, len(self.rows.units))
        return steps * run.rows_per_batch * run.accumulation > self.rows.count

    @property
    def _paths(self) -> tuple[Path, ...]:
        if self.mixture is not None:
            return self.mixture.paths
        return () if self.teacher is None else (self.teacher,)

    @property
    def _outcomes(self) -> int:
        return int(head_weight(self.student.model).shape[0])

    def _difference(self, teacher: Path) -> BadInput | None:
        """Why teacher and student do not share a vocabulary; None if they do."""
        if self.student.source == teacher:
            return None
        try:
            require_same_vocabulary(open_tokenizer(teacher), self.student.tokenizer, self.sources)
        except BadInput as found:
            return found
        return None

    # ---------------------------------------------------------------------------------------------------- the vault
    def _origin(self) -> tuple[str, str]:
        """The teacher's name and path, as the vault notes them; a mixture has a name alone."""
        weights = self.recipe.teacher.weights or {self.recipe.teacher.name: 1.0}
        name = mixture_name(list(weights), list(weights.values()))
        return name, "" if self.mixture is not None else str(self.teacher)

    def _stored(self, fingerprint: str) -> Stored | None:
        """What the run reads from the vault, and how much of the teacher's mass is in it; None where it runs."""
        if not self._needed:
            return None
        name, path = self._origin()
        vault, rows, table = Vault(self.project_folder / "vault"), self.rows, self.recipe.teacher
        shared: dict[str, Any] = {"outcomes": self._outcomes, "name": name, "path": path}
        found: Stored | None = None
        if self._running:
            found = drawn_source(self.job.run_folder, vault, self.recipe, rows, fingerprint, **shared)
        elif table.signals == "stored":
            found = StoredSignals(vault, rows, fingerprint, table.top_k, tail=table.tail, **shared)
        if found is not None:
            self.job.emit(Metric(0, {"captured_mass": found.captured_mass}))
        return found

    def _without(self, gone: Path) -> TeacherSide:
        """A teacher whose file is no longer there: what it said before is in the vault.

        A signal's key is made of the token ids that the teacher's tokenizer gave. That every row is found under the
        student's own ids proves that both cut these rows alike, without the teacher's tokenizer.
        """
        told = f"{gone} is not there."
        if not self._needed:
            self.job.warn("The teacher's file is gone", f"{told} Held-out rows are measured by their text alone.")
            return TeacherSide()
        found, reason = self._remembered()
        if found is None:
            hint = "Put the file back. Without it a run can only learn from stored signals, which all rows must have."
            raise KnownError("The teacher's file is gone", f"{told} {reason}", hint)
        detail = f"{told} Its stored signals are learnt from; all {len(self.rows.examples):,} rows have them"
        self.job.warn("The teacher's file is gone", f"{detail} under the student's token ids.")
        return TeacherSide(found, found if isinstance(found, StoredSignals) else None)

    def _remembered(self) -> tuple[Stored | None, str]:
        """The newest stored signals of all rows under the teacher's name; else why there are none."""
        if self.recipe.teacher.signals == "dense" and not self._running:
            return None, 'With teacher.signals = "dense" it would have to run.'
        reason = "No signals of it are stored that this run could learn from."
        for fingerprint in known_fingerprints(self.project_folder / "vault", *self._origin()):
            try:
                found = self._stored(fingerprint)
            except KnownError as error:
                reason = error.detail
                continue
            if found is not None:
                return found, ""
        return None, reason

    # ------------------------------------------------------------------------------------------------- the networks
    def _one(self, teacher: Path) -> TeacherSide:
        stored = self._stored(weights_fingerprint(teacher))
        running = self._running and not isinstance(stored, StoredDraws)
        judge = stored if isinstance(stored, StoredSignals) else None  # no distance can be told from draws
        must = (self._needed and stored is None) or self.recipe.student.refit
        if not must and not (self.rows.held_out and fits_in_memory(teacher)):
            return TeacherSide(stored, judge)
        try:
            config, state = load_source(teacher)
        except KnownError:
            if must:
                raise
            return TeacherSide(stored, judge)
        network = assemble(config, state, teacher.name)
        device, precision = self.accelerator.device, self.accelerator.autocast
        dense = DenseTeacher(network, self.rows, device, precision, outcomes=self._outcomes)
        source, kept = stored or (dense if self._needed else None), network if self.recipe.student.refit else None
        side = TeacherSide(source, dense, kept, self._again, dense if running else None, config)
        if not running:
            # A refit reads the training rows anyway: what the teacher says of them is kept then
            again = self._again and kept is None
            remember_rows(self.job, dense, self.rows, training=side.source is dense, again=again)
        return side

    def _mean(self, mixture: Mixture) -> TeacherSide:
        """The mean's stored signals, or all teachers beside the student."""
        stored = self._stored(mixture.fingerprint())
        if stored is not None or not self._needed:
            return TeacherSide(stored, stored if isinstance(stored, StoredSignals) else None)
        networks = [assemble(*load_source(path), path.name) for path in mixture.paths]
        shared = min([self._outcomes, *(head_weight(network).shape[0] for network in networks)])
        device, precision = self.accelerator.device, self.accelerator.autocast
        members = [DenseTeacher(network, self.rows, device, precision, outcomes=shared) for network in networks]
        mixed = MixedTeacher(members, mixture.shares)
        if not self._running:
            remember_rows(self.job, mixed, self.rows, training=True, again=self._again)
        return TeacherSide(mixed, mixed, again=self._again)

    def _cross(self, teacher: Path) -> TeacherSide:
        """A teacher of another vocabulary: it reads the rows in its own tokens. No divergence measures such a pair."""
        config, state = load_source(teacher)
        network, theirs = assemble(config, state, teacher.name), open_tokenizer(teacher)
        device, precision = self.accelerator.device, self.accelerator.autocast
        found = CrossTeacher(network, theirs, self.student.tokenizer, self.rows, self.sources, device, precision)
        self.job.warn(
            "Teacher and student have different vocabularies",
            f"{found.aligned_share():.0%} of the text aligns by its bytes; the held-out measure is the text alone.",
            "This is what the chosen objective is for.",
        )
        return TeacherSide(found, config=config)


def local_teacher(described: Mapping[str, Any]) -> Path | None:
    """The file or folder of a teacher whose weights are on this machine; None for any other."""
    if described.get("kind") not in ("gguf", "huggingface") or not described.get("path"):
        return None
    return Path(str(described["path"])).expanduser()


def fits_in_memory(teacher: Path) -> bool:
    """Whether the whole network in float32 takes at most half of the memory that is free."""
    parameters = parameter_count(shape_of_folder(teacher)) if teacher.is_dir() else read_header(teacher).parameters
    return parameters * 4 <= psutil.virtual_memory().available / 2
