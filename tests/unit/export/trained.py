"""A project with a really trained tiny student, made once per test process and copied for each test."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdstudio.distillation.job import run as train
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.child import Job
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.project.content import NewPrompt, NewResponse
from kdstudio.recipe import TrainingRecipe, recipe_hash, validate_recipe
from tests.tiny import tiny_gguf

RUN = "20260101-000000-train-test"
WORDS = ("fox", "mouse", "king", "robot", "river", "mountain", "lantern", "song", "story", "forest")


def recipe(**tables: Any) -> TrainingRecipe:
    base: dict[str, Any] = {
        "recipe": {"id": "tiny", "title": "Tiny Student"},
        "student": {"layer_count": 2},
        "data": {"held_out": 0.4},
        "teacher": {"name": "tiny", "signals": "dense"},
        "objective": [{"name": "forward_kl"}],
        "run": {"steps": 2, "rows_per_batch": 4, "evaluate_every": 2, "checkpoint_every": 2, "device": "cpu"},
    }
    return validate_recipe(base | tables, TrainingRecipe)


@contextmanager
def job_in(project: Path, kind: str, parameters: dict[str, Any], name: str = "") -> Iterator[Job]:
    """A real job of a real run folder."""
    folder = project / "runs" / (name or f"20260101-000001-{kind}-test")
    run_files.write_job(folder, run_files.JobFile(kind, parameters))
    job = Job(folder)
    try:
        yield job
    finally:
        job._journal.close()


def journal(job: Job) -> list[dict[str, Any]]:
    """What the job has said so far."""
    return [json.loads(line) for line in (job.run_folder / "events.jsonl").read_text().splitlines()]


@functools.cache
def _made() -> Path:
    home = Path(tempfile.mkdtemp(prefix="kdstudio-trained-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    teacher = tiny_gguf(home / "teacher.gguf", context=256)
    with Project.create(home / "tiny") as project:
        prompts = [NewPrompt([{"role": "user", "content": f"the {a} and the {b}"}]) for a in WORDS for b in WORDS[:4]]
        project.rows.add_prompts(prompts)
        project.rows.add_responses(
            NewResponse(prompt.id, f"there was once a {prompt.text} who said hello to the king", status="accepted")
            for prompt in list(project.rows.prompts())
        )
        spec = TeacherSpec("tiny", "gguf", path=str(teacher))
        project.teachers.add(spec, {"terms": "apache-2.0"})
        folder = project.folder
    chosen = recipe()
    parameters = {
        "recipe": chosen.model_dump(mode="json"),
        "recipe_hash": recipe_hash(chosen),
        "teacher": asdict(spec),
    }
    with job_in(folder, "train", parameters, RUN) as job:
        assert job.run(train) == 0
    return folder


def trained_project(target: Path) -> Path:
    """A copy of the project in `target`; its only run is `RUN`, its teacher "tiny" lies beside the original."""
    return Path(shutil.copytree(_made(), target / "tiny.kdstudio"))


def teacher_path() -> Path:
    return _made().parent / "teacher.gguf"
