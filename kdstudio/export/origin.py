"""Where an exported student comes from: what its metadata and its card say of teacher, base, terms and training."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdstudio import __version__
from kdstudio.distillation.frozen_rows import ROWS_NAME
from kdstudio.errors import KnownError
from kdstudio.evaluation.held_out import STUDENT_NAME, recipe_of
from kdstudio.export.cards import CardFacts, licence_of
from kdstudio.export.gguf import Identity
from kdstudio.jobs.events import Finished
from kdstudio.jobs.folder import read_job
from kdstudio.jobs.journal import read_journal
from kdstudio.models.gguf_header import read_header
from kdstudio.models.teacher_file import TERMS_KEY
from kdstudio.models.terms import joined
from kdstudio.models.terms_summary import REASON, TermsSummary, TermsUse
from kdstudio.project import Project
from kdstudio.project.content import Kind
from kdstudio.project.row_terms import terms_of_rows
from kdstudio.recipe import TrainingRecipe, recipe_hash

_REPOSITORIES = ("general.repo_url", "general.source.repo_url", "general.url", "general.source.url")


@dataclass(frozen=True)
class Origin:
    """`student` is the student's own provenance, `base` the metadata of the GGUF file it was cut from (if it was).

    `terms` are the teacher's, `learnt` those of the rows, `reason` why restricted ones were trained on.
    """

    run: str
    recipe: TrainingRecipe
    teacher: str
    terms: str
    student: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    learnt: tuple[TermsUse, ...] = ()
    reason: str = ""

    @property
    def base_name(self) -> str:
        """What the base calls itself, else its file name."""
        return str(self.base.get("general.name") or self.student.get("base") or "")

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that the base states."""
        stated = self.base.get("general.languages")
        return tuple(str(item) for item in stated) if isinstance(stated, list) else ()

    @property
    def changes(self) -> str:
        """One sentence on what was changed in the base's weights; licences ask for it."""
        layers, source = self.student.get("layers") or [], self.student.get("source")
        if source == "fresh":
            return "Its weights began at random."
        kept = f", layers {', '.join(str(layer) for layer in layers)} kept" if layers and source == "teacher" else ""
        return (
            f"Its weights began as those of {self.base_name}{kept}, and were trained further." if self.base_name else ""
        )

    def identity(self, name: str) -> Identity:
        """For the `general.*` metadata."""
        repository = next((str(self.base[key]) for key in _REPOSITORIES if self.base.get(key)), "")
        organization = str(self.base.get("general.organization", ""))
        base = ((self.base_name, organization, repository),) if self.base_name else ()
        extra = {
            "kdstudio.version": __version__,
            "kdstudio.run": self.run,
            "kdstudio.recipe_hash": recipe_hash(self.recipe),
            "kdstudio.teacher": self.teacher,
            "kdstudio.base_fingerprint": str(self.student.get("base_fingerprint", "")),
        }
        if any(use.stamp != self.terms for use in self.learnt):
            extra[TERMS_KEY] = joined([self.terms, *(use.stamp for use in self.learnt)])
        learnt = f"Distilled from {self.teacher} with KD Studio." if self.teacher else "Trained with KD Studio."
        return Identity(
            name=name,
            license=licence_of(self.terms, self.learnt),
            license_link=str(self.base.get("general.license.link", "")),
            description=f"{learnt} {self.changes}".strip(),
            base=base,
            languages=self.languages,
            extra=tuple(extra.items()),
        )

    def facts(self, name: str) -> CardFacts:
        """For the card."""
        final, before = self.result.get("final"), self.result.get("before")
        return CardFacts(
            name=name,
            run=self.run,
            teacher=self.teacher,
            terms=self.terms,
            base=self.base_name,
            parameters=int(self.student.get("parameters") or 0),
            recipe_title=self.recipe.recipe.title,
            recipe_hash=recipe_hash(self.recipe),
            objectives=tuple(f"{item.name} x {item.weight:g}" for item in self.recipe.objective),
            rows=int(self.result.get("rows") or 0),
            steps=int(self.student.get("steps") or self.result.get("steps") or 0),
            before=before if isinstance(before, dict) else {},
            trained=final if isinstance(final, dict) else dict(self.student.get("held_out") or {}),
            languages=self.languages,
            changes=self.changes,
            learnt=self.learnt,
            reason=self.reason,
        )


def origin_of(project_folder: Path, run_folder: Path) -> Origin:
    """Gather what is known of a run's student. Raises `BadInput` when the run's recipe cannot be read."""
    parameters = read_job(run_folder).parameters
    described = parameters.get("teacher") or {}
    base = _base_metadata(run_folder / STUDENT_NAME)
    teacher = str(described.get("name", ""))
    return Origin(
        run=run_folder.name,
        recipe=recipe_of(run_folder),
        teacher=teacher,
        terms=_terms(project_folder, described) or str(base.get("general.license", "")),
        student=_provenance(run_folder / STUDENT_NAME),
        base=base,
        result=_run_result(run_folder),
        learnt=tuple(use for use in _learnt(project_folder, run_folder).uses if use.terms.stated),
        reason=str(parameters.get(REASON, "")),
    )


def _learnt(project_folder: Path, run_folder: Path) -> TermsSummary:
    """The terms of the very rows that the run was trained on, whatever became of them in the project since."""
    ids: dict[bool, set[int]] = {False: set(), True: set()}
    try:
        with (run_folder / ROWS_NAME).open(encoding="utf-8") as stream:
            for line in stream:
                row = json.loads(line)
                ids["group" in row and bool(row["group"])].add(int(row["response_id"]))
        with Project.open(project_folder, read_only=True) as project:
            kind: Kind = "preference" if ids[True] else "response"
            return terms_of_rows(project, kind=kind, ids=sorted(ids[kind == "preference"]))
    except (OSError, ValueError, KeyError, TypeError, KnownError):
        return TermsSummary()  # a bundle without its rows or its project: the teacher's own terms still stand


def _provenance(student: Path) -> dict[str, Any]:
    try:
        found = json.loads((student / "student.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _base_metadata(student: Path) -> dict[str, Any]:
    path = student / "tokenizer.gguf"
    if not path.is_file():
        return {}
    return {key: value for key, value in read_header(path).metadata.items() if key.startswith("general.")}


def _terms(project_folder: Path, described: dict[str, Any]) -> str:
    """The terms that the teacher states: as the project noted them, else as its file says."""
    name, path = str(described.get("name", "")), Path(str(described.get("path") or ""))
    try:
        with Project.open(project_folder, read_only=True) as project:
            noted = project.teachers.get(name).terms if name else ""
        return noted or (read_header(path).license if path.is_file() else "")
    except KnownError:
        return ""  # the teacher was removed from the project or the disk since: the base's licence is asked next


def _run_result(run_folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for line in read_journal(run_folder):
        if isinstance(line.event, Finished):
            result = line.event.result
    return result
