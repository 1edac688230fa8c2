"""A trained student as a GGUF file in the run's folder, so that llama.cpp answers for it: many times faster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdstudio import files
from kdstudio.models.spec import TeacherSpec
from kdstudio.models.student_copy import FILE_NAME, wants_file


def as_file(spec: TeacherSpec, run_folder: Path) -> TeacherSpec:
    """The same model as an F16 file, written once a run; what does not ask for it stays as it is.

    Raises `BadInput` when the model cannot be expressed in GGUF, `KnownError` when the disk is full.
    """
    if not wants_file(spec):
        return spec
    from kdstudio.export.gguf import Identity, estimated_bytes, write_gguf

    path = run_folder / FILE_NAME
    if not path.is_file():
        folder = Path(spec.path)
        files.require_space(run_folder, estimated_bytes(folder, "F16"), "The student as a GGUF file")
        write_gguf(folder, path, "F16", Identity(spec.name))
    return replace(spec, kind="gguf", path=str(path), options={**spec.options, "dequantise": False})
