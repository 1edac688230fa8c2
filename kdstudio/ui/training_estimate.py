"""What the Train page shows before a run: counted from headers and rows, in a background task. No widgets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import psutil

from kdstudio import settings
from kdstudio.errors import BadInput
from kdstudio.models.architectures import student_obstacle
from kdstudio.models.gguf_header import read_header
from kdstudio.models.memory import RunSize, estimate_memory, estimate_seconds, lora_parameters
from kdstudio.models.shape import ModelShape, parameter_count, shape_of_folder, shape_of_header
from kdstudio.ui.widgets.estimate_card import RunEstimate

if TYPE_CHECKING:
    from pathlib import Path

    from kdstudio.models.spec import TeacherSpec
    from kdstudio.project import Project
    from kdstudio.recipe import TrainingRecipe

_CHARACTERS_A_TOKEN = 4.0
_READ_ROWS = 300


def estimate_run(project: Project, recipe: TrainingRecipe, teacher: TeacherSpec | None) -> RunEstimate:
    """Count a run. Raises `BadInput` when it cannot be started at all, and says what is missing."""
    if not recipe.objective:
        raise BadInput("Nothing to learn", "No objective is chosen.", "Choose at least one.")
    teacher_shape = _teacher_shape(teacher)
    student = _student_shape(recipe, teacher_shape)
    rows, held_out, prompt_tokens, response_tokens = _rows(project, recipe)
    if not rows:
        raise BadInput("There are no rows to train on", "The project has no accepted answers.", "Accept some on Data.")
    run = recipe.run
    per_step = run.rows_per_batch * run.accumulation
    steps = run.steps or math.ceil(rows / per_step * run.epochs)
    size = RunSize(steps, run.rows_per_batch, prompt_tokens + response_tokens, response_tokens, rows + held_out)
    lora = recipe.student.adapter == "lora"
    trained = lora_parameters(student, recipe.student.lora_rank) if lora else parameter_count(student)
    needs_teacher = any(table.name != "supervised" for table in recipe.objective)
    beside = teacher_shape if needs_teacher and recipe.teacher.signals == "dense" else None
    memory = estimate_memory(student, size, trained=trained, teacher=beside)
    seconds = run.accumulation * estimate_seconds(
        student, size, threads=settings.thread_count(), trained_share=0.0 if lora else 1.0, teacher=beside
    )
    return RunEstimate(
        student_parameters=parameter_count(student),
        teacher_parameters=parameter_count(teacher_shape) if teacher_shape else 0,
        trained_parameters=trained,
        memory=memory.parts(),
        memory_free=psutil.virtual_memory().available,
        rows=rows,
        held_out=held_out,
        steps=steps,
        seconds=seconds,
        notes=tuple(_notes(memory.total, rows, held_out)),
    )


def _notes(total: int, rows: int, held_out: int) -> list[str]:
    notes = []
    if total > psutil.virtual_memory().available:
        notes.append("This may not fit in memory. Use a smaller batch, fewer layers or LoRA; you can start anyway.")
    if rows < 50:
        notes.append("Few rows: a student learns little from fewer than fifty.")
    if not held_out:
        notes.append("Nothing is held out, so the gap cannot be measured on rows it never saw.")
    return notes


def _teacher_shape(spec: TeacherSpec | None) -> ModelShape | None:
    from pathlib import Path

    if spec is None or spec.kind not in ("gguf", "huggingface"):
        return None
    return shape_of_header(read_header(Path(spec.path))) if spec.kind == "gguf" else shape_of_folder(Path(spec.path))


def _student_shape(recipe: TrainingRecipe, teacher: ModelShape | None) -> ModelShape:
    from pathlib import Path

    table = recipe.student
    if table.source == "folder":
        if not table.path:
            raise BadInput("No folder is chosen", "The student comes from a folder.", "Choose one with its weights.")
        return shape_of_folder(Path(table.path))
    base = _gguf_shape(Path(table.path)) if table.path else teacher
    if base is None:
        raise BadInput(
            "No model to start from",
            "A student is cut from a local teacher's GGUF.",
            "Choose a local teacher or a folder.",
        )
    return base.with_layers(len(table.layers) or table.layer_count or base.layers)


def _gguf_shape(path: Path) -> ModelShape:
    header = read_header(path)
    obstacle = student_obstacle(header)
    if obstacle:
        raise BadInput("This model cannot be a student", obstacle, "Choose a Llama- or Qwen-shaped model.")
    return shape_of_header(header)


def _rows(project: Project, recipe: TrainingRecipe) -> tuple[int, int, float, float]:
    """Rows trained on, rows held out, and mean tokens of prompt and response (by characters where not counted)."""
    total = held_out = 0
    prompt_tokens = response_tokens = 0.0
    tag = recipe.data.held_out_tag
    for prompt, response in project.rows.pairs(status=recipe.data.status):
        total += 1
        held_out += bool(tag) and tag in prompt.tags
        if total <= _READ_ROWS:
            letters = sum(len(str(message.get("content", ""))) for message in prompt.messages)
            prompt_tokens += response.prompt_tokens or letters / _CHARACTERS_A_TOKEN
            response_tokens += response.tokens or len(response.text) / _CHARACTERS_A_TOKEN
    if not tag:
        held_out = round(total * recipe.data.held_out)
    rows = total - held_out
    if recipe.data.limit:
        rows = min(rows, recipe.data.limit)
    seen = max(1, min(total, _READ_ROWS))
    return rows, held_out, prompt_tokens / seen, response_tokens / seen
