"""What the Train page shows before a run: counted from headers and rows, in a background task. No widgets."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from kdstudio import settings
from kdstudio.catalogue.objectives import TEACHER_SIGNALS, Signal
from kdstudio.errors import BadInput
from kdstudio.models.gguf_header import read_header
from kdstudio.models.memory import RunSize, estimate_memory, estimate_seconds, lora_parameters
from kdstudio.models.shape import ModelShape, embedding_parameters, parameter_count, shape_of_folder, shape_of_header
from kdstudio.ui import training_choice as choice
from kdstudio.ui.training_rows import RowSizes, row_sizes
from kdstudio.ui.training_student import read_pair
from kdstudio.ui.widgets.estimate_card import RunEstimate

if TYPE_CHECKING:
    from kdstudio.models.spec import TeacherSpec
    from kdstudio.project import Project
    from kdstudio.recipe import TrainingRecipe

_PROCESSOR_FACTS = Path("/proc/cpuinfo")
_BF16_FLAGS = ("avx512_bf16", "amx_bf16")
_FEW_ROWS = 50


def estimate_run(project: Project, recipe: TrainingRecipe, teacher: TeacherSpec | None) -> RunEstimate:
    """Count a run. Raises `BadInput` when it could not even begin, and says what is missing."""
    if not recipe.objective:
        raise BadInput("Nothing to learn", "No objective is chosen.", "Choose at least one.")
    names, rollout = [table.name for table in recipe.objective], recipe.rollout.model_dump()
    pair = read_pair(recipe, teacher, needs_signals=choice.compares_tokens(names))
    rows = row_sizes(project, recipe)
    if rows.training <= 0:
        ranked = choice.reads_preferences(names, rollout)
        raise BadInput("There are no rows to train on", *_what_to_accept(project, rows, ranked=ranked))
    size = _run_size(recipe, rows)
    student, beside = pair.student, pair.teacher if _runs_beside(recipe, names, rollout) else None
    trained = _trained(recipe, student)
    further = _further(project, recipe) if beside is not None else ()
    counted = estimate_memory(student, size, trained=trained, teacher=beside, further=further)
    memory = {**counted.parts(), **_reference(recipe, student)}
    seconds = estimate_seconds(
        student,
        size,
        threads=settings.thread_count(),
        trained_share=min(1.0, trained / parameter_count(student)),
        teacher=beside,
        further=further,
    )
    return RunEstimate(
        student_parameters=parameter_count(student),
        teacher_parameters=parameter_count(pair.teacher) if pair.teacher else 0,
        trained_parameters=trained,
        memory=memory,
        memory_free=psutil.virtual_memory().available,
        rows=rows.training,
        held_out=rows.held_out,
        steps=math.ceil(size.steps / recipe.run.accumulation),
        seconds=seconds,
        notes=(*pair.notes, *_notes(sum(memory.values()), rows, own=choice.uses_own_answers(names, rollout))),
    )


def _runs_beside(recipe: TrainingRecipe, names: list[str], rollout: dict[str, Any]) -> bool:
    read = bool(choice.needs_of(names) & TEACHER_SIGNALS) and recipe.teacher.signals == "dense"
    return read or bool(choice.why_running(names, rollout, recipe.reward.model_dump()))


def _further(project: Project, recipe: TrainingRecipe) -> tuple[ModelShape, ...]:
    """The teachers that are mixed with the recipe's first; one whose file is gone is not counted."""
    found = []
    for name in recipe.teacher.weights:
        spec = project.teachers.get(name).spec
        if name != recipe.teacher.name and spec.path and Path(spec.path).exists():
            path = Path(spec.path)
            found.append(shape_of_folder(path) if path.is_dir() else shape_of_header(read_header(path)))
    return tuple(found)


def _reference(recipe: TrainingRecipe, student: ModelShape) -> dict[str, int]:
    """The student as it began, where an objective compares with it; adapters stand beside it anyway."""
    needed = Signal.REFERENCE_MODEL in choice.needs_of(table.name for table in recipe.objective)
    return {"reference": parameter_count(student) * 4} if needed and recipe.student.adapter == "full" else {}


def _run_size(recipe: TrainingRecipe, rows: RowSizes) -> RunSize:
    """Forward passes count as steps here: gradients of `accumulation` of them are gathered for one optimiser step."""
    run = recipe.run
    passes = run.accumulation
    steps = run.steps or math.ceil(rows.training / (run.rows_per_batch * passes) * run.epochs)
    return RunSize(
        steps * passes,
        run.rows_per_batch,
        rows.prompt_tokens + rows.response_tokens,
        rows.response_tokens,
        rows.training + rows.held_out,
        longest=rows.longest,
        held_out=rows.held_out,
        measurements=1 + math.ceil(steps / run.evaluate_every) if rows.held_out else 0,
        bf16=run.precision == "bf16" or (run.precision == "auto" and run.device in ("auto", "cpu") and _cpu_has_bf16()),
    )


def _trained(recipe: TrainingRecipe, student: ModelShape) -> int:
    if recipe.student.adapter != "full":
        return lora_parameters(student, recipe.student.lora_rank)
    frozen = embedding_parameters(student) if recipe.student.freeze_embeddings else 0
    return parameter_count(student) - frozen


@functools.cache
def _cpu_has_bf16() -> bool:
    """Whether "auto" takes 16 bits on this processor, without asking torch. Known on Linux only; else no."""
    try:
        words = set(_PROCESSOR_FACTS.read_text("utf-8", "replace").split())
    except OSError:
        return False
    return any(flag in words for flag in _BF16_FLAGS)


def _what_to_accept(project: Project, rows: RowSizes, *, ranked: bool) -> tuple[str, str]:
    counts = project.rows.counts()
    if ranked and not rows.held_out:
        waiting = counts.get(("preference", "pending"), 0)
        if waiting:
            return f"{waiting:,} preferences wait for your decision; none is accepted.", "Accept some on Data."
        return "The project has no preferences.", "Import or rank some on Data."
    pending = counts.get(("response", "pending"), 0)
    if rows.held_out:
        return f"All {rows.held_out:,} rows are held out.", "Hold out fewer, or accept more answers on Data."
    if pending:
        return f"{pending:,} answers wait for your decision; none is accepted.", "Accept some on Data."
    if counts.get(("prompt", "pending"), 0) + counts.get(("prompt", "accepted"), 0):
        return "The prompts have no accepted answers yet.", "Generate answers on Data, then accept some."
    return "The project has no rows.", "Import some on Data."


def _notes(total: int, rows: RowSizes, *, own: bool) -> list[str]:
    notes = []
    if own:
        notes.append("The time to write its own answers is not counted: it takes longer than this.")
    if total > psutil.virtual_memory().available:
        notes.append("This may not fit in memory. Use a smaller batch, fewer layers or LoRA; you can start anyway.")
    if rows.training < _FEW_ROWS:
        notes.append(f"Few rows: a student learns little from fewer than {_FEW_ROWS}.")
    if not rows.tagged:
        notes.append("No row has the held-out tag, and the run would refuse to start. Correct the tag or leave it out.")
    elif not rows.held_out:
        notes.append("Nothing is held out, so the gap cannot be measured on rows it never saw.")
    return notes
