"""The export job: every format that was asked for, each written, loaded again, compared and described.

Everything happens in a temporary folder beside its target. It takes the target's name only when all formats are
written and checked; a file that failed its check is kept aside under another name and said.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import filelock

from kdstudio import files
from kdstudio.distillation.reporter import Reporter
from kdstudio.errors import BadInput, Stopped
from kdstudio.evaluation.held_out import STUDENT_NAME, MeasuredRows, recipe_of, rows_of_run, run_folder_of
from kdstudio.evaluation.torch_logits import TorchLogits, load_student
from kdstudio.export.cards import card
from kdstudio.export.certificate import Certificate, read_certificates
from kdstudio.export.check import exportable
from kdstudio.export.formats import FOLDER_FORMAT, chosen_formats, needed_bytes
from kdstudio.export.origin import origin_of
from kdstudio.export.production import Production
from kdstudio.students.save import open_tokenizer

OWNER_NAME = "run.txt"


class ExportJob(Reporter, Protocol):
    """A job with its project and its parameters: `run`, `quantizations`, `name`, `safetensors`."""

    project_folder: Path
    parameters: dict[str, Any]


def run(job: ExportJob) -> dict[str, Any]:
    """Export; returns `files`: path, quantization, bytes, passed, top1_agreement, kl, positions of each.

    Raises `BadInput` when the student cannot be exported, `KnownError` when a check fails or the disk is full.
    """
    run_folder = run_folder_of(job.project_folder, str(job.parameters.get("run", "")))
    student, wanted = run_folder / STUDENT_NAME, chosen_formats(job.parameters)
    reason = exportable(student)
    if reason is not None:
        raise BadInput("This student cannot be exported", reason, "Train a student from another base.")
    origin, title = origin_of(job.project_folder, run_folder), _title(job, run_folder)
    name = files.safe_name(title, fallback="student").replace(" ", "-")
    exports = job.project_folder / "exports"
    with _alone(job, exports):
        target = _target(exports, name, run_folder.name)
        needed = needed_bytes(student, wanted)
        files.require_space(exports, needed, "The export")
        rows = rows_of_run(run_folder, job.project_folder, open_tokenizer(student))
        with files.atomic_folder(target, needed=needed) as temporary:
            _keep_earlier(target, temporary, name, wanted)
            trained = TorchLogits(load_student(student))
            production = Production(
                job, student, name, origin.identity(title), rows, trained, temporary, exports / target.name
            )
            certificates = production.run(wanted)
            trained.close()
            files.write_text(temporary / "README.md", card(origin.facts(title), read_certificates(temporary)))
            files.write_text(temporary / OWNER_NAME, run_folder.name + "\n")
    return _result(target, certificates, rows)


def _title(job: ExportJob, run_folder: Path) -> str:
    recipe = recipe_of(run_folder)
    return " ".join(str(job.parameters.get("name") or recipe.export.name or recipe.recipe.title).split())


@contextmanager
def _alone(job: ExportJob, exports: Path) -> Iterator[None]:
    """One export of a project at a time; what a killed one left behind goes."""
    with files.disk_errors(exports):
        exports.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(str(exports / ".lock"))
    while not _taken(lock):
        if not job.continues():
            raise Stopped("Nothing was exported.")
    try:
        files.remove_temporaries(exports)
        yield
    finally:
        lock.release()


def _taken(lock: filelock.BaseFileLock) -> bool:
    try:
        lock.acquire(timeout=0.5)
    except filelock.Timeout:
        return False
    return True


def _target(exports: Path, name: str, run: str) -> Path:
    """NAME, or NAME-2, ... when that folder holds another run's files: nobody's export is written over."""
    number, folder = 1, exports / name
    while folder.exists() and _owner(folder) != run:
        number += 1
        folder = exports / f"{name}-{number}"
    return folder


def _owner(folder: Path) -> str:
    try:
        return (folder / OWNER_NAME).read_text("utf-8").strip()
    except OSError:
        return ""


def _keep_earlier(target: Path, temporary: Path, name: str, wanted: list[str]) -> None:
    """Carry over what an earlier export of this run wrote in other formats: the new folder replaces the old one."""
    if not target.is_dir():
        return
    replaced = {f"{name}-safetensors" if item == FOLDER_FORMAT else f"{name}-{item}.gguf" for item in wanted}
    # Both are written anew, and writing into a shared file would change the old folder too.
    replaced |= {"README.md", OWNER_NAME}
    for entry in target.iterdir():
        if entry.name in replaced or entry.name.startswith(files.TEMPORARY_MARK):
            continue
        if entry.is_dir():
            shutil.copytree(entry, temporary / entry.name, copy_function=_link)
        else:
            _link(entry, temporary / entry.name)


def _link(source: str | Path, target: str | Path) -> str:
    """A second name for the same bytes where the disk can do that, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return str(target)


def _result(target: Path, certificates: list[Certificate], rows: MeasuredRows) -> dict[str, Any]:
    return {
        "folder": str(target),
        "card": str(target / "README.md"),
        "text": rows.text,
        "files": [
            {
                "path": str(target / item.file),
                "quantization": item.quantization,
                "bytes": item.bytes,
                "passed": item.passed,
                "top1_agreement": item.top1_agreement,
                "kl": item.kl,
                "positions": item.positions,
                "note": item.note,
            }
            for item in certificates
        ],
    }
