"""How a job is told that a student's folder shall answer through a temporary GGUF file of its run."""

from __future__ import annotations

from pathlib import Path

from kdstudio.models.spec import TeacherSpec

FILE_NAME = "student.gguf"
_OPTION = "as_file"


def student_spec(name: str, folder: Path) -> TeacherSpec:
    """A student's folder that speaks in an elicitation under this name."""
    return TeacherSpec(name, "huggingface", path=str(folder), options={_OPTION: True})


def wants_file(spec: TeacherSpec) -> bool:
    """Whether it is a folder that shall answer as a file."""
    return spec.kind == "huggingface" and bool(spec.options.get(_OPTION))
