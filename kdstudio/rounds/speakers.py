"""Who speaks as the student: the one that the rounds begin with, then that of the round before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdstudio.catalogue.training import StudentTable
from kdstudio.errors import BadInput
from kdstudio.models.spec import TeacherSpec
from kdstudio.models.student_copy import student_spec
from kdstudio.models.terms import joined
from kdstudio.models.terms_stamp import terms_stamp
from kdstudio.project import Project
from kdstudio.project.row_terms import terms_of_rows
from kdstudio.rounds.rows import ROWS_NAME

STUDENT_NAME = "student"
_LOCAL = ("gguf", "huggingface")


def student_table(project: Project, table: StudentTable, named: str) -> StudentTable:
    """The training recipe's student, or the one that is named: a run's id, a GGUF file or a folder.

    Raises `BadInput` when there is no such student.
    """
    if not named:
        return table
    path = Path(named).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise BadInput("There is no such file", str(path), "Check the path.")
        return _from(table, "teacher", path)
    if not path.is_dir():
        path = project.runs_folder / project.runs.get(named).id / STUDENT_NAME
        if not (path / "config.json").is_file():
            raise BadInput("This run has no student", f"{named} has not saved one.", "Choose a finished training run.")
    return _from(table, "folder", path)


def of_run(table: StudentTable, folder: Path) -> StudentTable:
    """The same way of training, going on from a student's folder."""
    return _from(table, "folder", folder)


def _from(table: StudentTable, source: str, path: Path) -> StudentTable:
    whole: dict[str, Any] = {"layers": (), "layer_count": 0, "hidden_size": 0, "refit": False}
    return table.model_copy(update={"source": source, "path": str(path.absolute()), **whole})


def starting_speaker(table: StudentTable, teacher: Mapping[str, Any]) -> TeacherSpec | None:
    """The model that the first round's student is before any training; None where training makes it first.

    Raises `BadInput` when the student has no source at all.
    """
    path = table.path or (str(teacher["path"]) if teacher.get("kind") in _LOCAL else "")
    if not path:
        raise BadInput(
            "The student has no source",
            f"{teacher['name']} is not a model on this machine, and no other is named.",
            "Name a student: --student with a GGUF file, a folder or a training run's id.",
        )
    if table.source == "fresh" or table.layers or table.layer_count:
        return None
    place = Path(path).expanduser()
    if place.is_dir():
        return student_spec("student (start)", place)
    if place == Path(str(teacher.get("path") or "")):
        return TeacherSpec(**teacher)
    return TeacherSpec("student (start)", "gguf", path=str(place))


def trained_speaker(project: Project, run_id: str, number: int) -> TeacherSpec:
    """The student of a round."""
    return student_spec(f"student (round {number})", project.runs_folder / run_id / STUDENT_NAME)


def terms_of(project: Project, spec: TeacherSpec) -> str:
    """The stamp of a model's answers: what is known of it, or what its own rows were under where a run trained it."""
    run_folder = Path(spec.path).parent
    if run_folder.parent == project.runs_folder and (run_folder / ROWS_NAME).is_file():
        parameters = project.runs.get(run_folder.name).parameters
        return joined(
            [*_of_rows(project, run_folder / ROWS_NAME, parameters), str(parameters.get("student_terms") or "")]
        )
    known = {stored.spec.name: stored.capabilities for stored in project.teachers.list()}
    return terms_stamp(spec, known.get(spec.name))


def _of_rows(project: Project, path: Path, parameters: Mapping[str, Any]) -> Iterable[str]:
    ids: dict[str, list[int]] = {"response": [], "preference": []}
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            ids["preference" if row.get("group") else "response"].append(int(row["response_id"]))
    teacher = parameters.get("teacher") or None
    responses = terms_of_rows(project, kind="response", ids=ids["response"], teacher=teacher)
    preferences = terms_of_rows(project, kind="preference", ids=ids["preference"])
    return (use.stamp for summary in (responses, preferences) for use in summary.uses)


def as_table(spec: TeacherSpec) -> dict[str, Any]:
    """A spec as a job's parameter."""
    return asdict(spec)
