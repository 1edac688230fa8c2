"""The training job: from a frozen recipe to a student's folder."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import logging as transformers_logging

from kdstudio import files, settings
from kdstudio.catalogue.objectives import TEACHER_SIGNALS, Signal
from kdstudio.distillation.checkpoint import KEPT, checkpoint_bytes
from kdstudio.distillation.devices import make_accelerator
from kdstudio.distillation.examples import SourceRow, encode_rows
from kdstudio.distillation.frozen_rows import frozen_rows
from kdstudio.distillation.kept_width import narrowed_student
from kdstudio.distillation.mixture import Mixture, mixture_of
from kdstudio.distillation.objectives import needed_signals, reads_preferences
from kdstudio.distillation.opening import Opening, local_teacher
from kdstudio.distillation.randomness import stream_seed
from kdstudio.distillation.ranks import SharedReporter, started
from kdstudio.distillation.reporter import Reporter, TrainingJob
from kdstudio.distillation.rows import TrainingRows, split_rows
from kdstudio.distillation.shards import require_shardable
from kdstudio.distillation.teacher_side import TeacherSide
from kdstudio.distillation.trainer import CHECKPOINTS_NAME, Outcome, Trainer
from kdstudio.errors import BadInput
from kdstudio.recipe import TrainingRecipe, recipe_hash, validate_recipe
from kdstudio.students.build import Student, build
from kdstudio.students.save import open_tokenizer, student_bytes

STUDENT_NAME = "student"


def run(job: TrainingJob) -> dict[str, Any]:
    """Train as the job's recipe says; the result holds `run, steps, final, before, seconds, tokens` and more."""
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    recipe = validate_recipe(job.parameters.get("recipe", {}), TrainingRecipe)
    teacher = local_teacher(job.parameters.get("teacher") or {})
    require_shardable(recipe)
    _require_teacher(recipe, job.parameters.get("teacher") or {}, teacher)
    mixture = mixture_of(recipe, job.parameters)
    sources = frozen_rows(job.run_folder, job.project_folder, recipe.data, preferences=reads_preferences(recipe))
    with started(job.run_folder, recipe.run.processes):
        return _train(job, recipe, teacher, sources, mixture)


def _train(
    job: TrainingJob, recipe: TrainingRecipe, teacher: Path | None, sources: list[SourceRow], mixture: Mixture | None
) -> dict[str, Any]:
    accelerator = make_accelerator(recipe.run)
    torch.set_num_threads(max(1, settings.thread_count() // accelerator.num_processes))
    shared = SharedReporter(job, accelerator)
    student = build(recipe.student, teacher, seed=stream_seed(recipe.run.seed, "student"))
    rows = _rows(shared, recipe, student, sources)
    student = narrowed_student(shared, recipe, student, rows)
    _require_space(job, student)
    folder = job.project_folder
    side = Opening(shared, folder, recipe, student, teacher, rows, sources, accelerator, mixture).side()
    if teacher is not None and student.source != teacher and teacher.exists():
        side.tokenizer = open_tokenizer(teacher)
    trainer = Trainer(shared, recipe, recipe_hash(recipe), student, rows, accelerator, side, _versions(accelerator))
    outcome = trainer.run()
    if outcome.steps and accelerator.is_main_process:
        described = {"run": job.run_folder.name, "recipe_hash": recipe_hash(recipe), "title": recipe.recipe.title}
        measured = {"steps": outcome.steps, "held_out": outcome.held_out}
        student.save(job.run_folder / STUDENT_NAME, {**described, **measured})
        trainer.save_own_weights(job.run_folder / STUDENT_NAME)
    described = {"run": job.run_folder.name, "parameters": student.description["parameters"]}
    return {**_result(outcome, rows, side), **described}


def _require_space(job: TrainingJob, student: Student) -> None:
    """Say that the disk is too small before hours of work, not after."""
    parameters = {name: item for name, item in student.model.named_parameters() if item.requires_grad}
    one = checkpoint_bytes(parameters)
    written = files.folder_bytes(job.run_folder / CHECKPOINTS_NAME)  # of an earlier attempt: each new one replaces one
    needed = max(KEPT * one - written, one) + student_bytes(student.description["parameters"])
    files.require_space(job.run_folder, needed, "Training with its checkpoints and the student")


def _require_teacher(recipe: TrainingRecipe, described: dict[str, Any], teacher: Path | None) -> None:
    if not needed_signals(recipe.objective) & TEACHER_SIGNALS or teacher is not None:
        return
    names = ", ".join(table.name for table in recipe.objective)
    if not described:
        raise BadInput(
            "The recipe needs a teacher", f"{names} reads the teacher's signal.", "Set teacher.name in the recipe."
        )
    raise BadInput(
        "This teacher cannot give its signal",
        f"{described.get('name', '')} is of kind {described.get('kind', '')}; {names} needs log-probs of given text.",
        'Choose a local GGUF teacher, or the objective "supervised".',
    )


def _rows(job: Reporter, recipe: TrainingRecipe, student: Student, sources: list[SourceRow]) -> TrainingRows:
    """Rows in tokens, divided; says which were left out for their length."""
    limit = min(recipe.data.maximum_tokens, student.config.get("max_position_embeddings", recipe.data.maximum_tokens))
    examples, too_long = encode_rows(student.tokenizer, sources, limit)
    if too_long:
        named = ", ".join(str(number) for number in too_long[:20]) + (", ..." if len(too_long) > 20 else "")
        job.warn(
            f"{len(too_long)} rows are too long",
            f"With their prompts they pass {limit:,} tokens; responses {named} are left out.",
            "Raise data.maximum_tokens, or split these rows.",
        )
    sharded = recipe.run.sharding != "none"  # a block is whole during one pass through it, not two at once
    whole = recipe.student.gradient_checkpointing or sharded or Signal.ATTENTION in needed_signals(recipe.objective)
    return split_rows(examples, recipe.data, recipe.run.seed, share_prefix=not whole)


def _versions(accelerator: Accelerator) -> dict[str, str]:
    """Whatever the last digits of a curve depend on."""
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "accelerate", "numpy")}
    versions |= {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
    return versions | {"device": str(accelerator.device), "precision": accelerator.mixed_precision, "system": os.name}


def _result(outcome: Outcome, rows: TrainingRows, side: TeacherSide) -> dict[str, Any]:
    return {
        "steps": outcome.steps,
        "final": {**outcome.held_out, **({"loss": outcome.loss} if outcome.steps else {})},
        "before": outcome.before,
        "refitted": outcome.refitted,
        "seconds": outcome.seconds,
        "tokens": outcome.tokens,
        "tokens_per_second": outcome.tokens / outcome.seconds if outcome.seconds else 0.0,
        "rows": rows.count,
        "held_out_rows": len(rows.held_out),
        "held_out_against": "" if side.judge is None or not rows.held_out else side.judge.kind,
        "student": STUDENT_NAME,
    }
