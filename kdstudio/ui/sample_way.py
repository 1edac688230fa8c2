"""What Home's buttons do with the sample project: the same calls that a person makes on the other pages.

Functions for background tasks; no widgets.
"""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdstudio import settings
from kdstudio.errors import KnownError

if TYPE_CHECKING:
    from kdstudio.project import Project

SAMPLE_TOKENS = 48
"""The sample's answers are one sentence of about 30 tokens; what runs on is cut off and rejected."""
Start = tuple[str, dict[str, Any], tuple[str, ...]]
"""A job's title, its parameters, and the names of the keys it needs."""


def sample_file(name: str) -> Path:
    """A file of the shipped sample."""
    with resources.as_file(resources.files("kdstudio").joinpath("resources", "sample", name)) as path:
        return path


def sample_project_folder() -> Path:
    """Where the sample project is made: `KD Studio/` in the person's documents, or in `KDSTUDIO_HOME`."""
    if os.environ.get("KDSTUDIO_HOME"):
        return settings.data_folder() / "projects" / "Sample.kdstudio"
    documents = Path.home() / "Documents"
    return (documents if documents.is_dir() else Path.home()) / "KD Studio" / "Sample.kdstudio"


def find_sample_teacher() -> Path | None:
    """The sample teacher, if it is on this machine already."""
    from kdstudio.models.discovery import sample_teacher

    return sample_teacher()


def import_prompts(project: Project) -> int:
    """Add the sample's prompts; returns how many were new."""
    from kdstudio.project.exchange import import_file

    return import_file(project, sample_file("prompts.jsonl"), kind="prompt").rows


def add_teacher(project: Project, path: Path) -> str:
    """Add a GGUF file as a teacher, named after the file; returns the name. Raises `BadInput` for a bad file."""
    from kdstudio.models.teacher_file import free_name, gguf_teacher

    spec, capabilities = gguf_teacher("", path)
    known = project.teachers.list()
    for teacher in known:
        if teacher.spec.path == spec.path:
            return teacher.spec.name
    free = free_name(spec.name, {teacher.spec.name for teacher in known})
    project.teachers.add(replace(spec, name=free), capabilities)
    return free


def ask_parameters(project: Project) -> Start:
    """The elicitation of the sample: recipe "answer", every prompt once, greedy."""
    from kdstudio.jobs.requests import elicitation_parameters
    from kdstudio.recipe import find_elicitation_recipe, override

    recipe = override(find_elicitation_recipe("answer"), [f"sample.max_tokens={SAMPLE_TOKENS}"])
    teacher = _teacher(project)
    parameters = elicitation_parameters(recipe, teacher)
    return f"{recipe.recipe.title} with {teacher['name']}", parameters, _key_names(teacher)


def train_parameters(project: Project) -> Start:
    """The training of the sample, from its shipped recipe, with this project's teacher."""
    from kdstudio.recipe import TrainingRecipe, load_recipe, recipe_hash

    teacher = _teacher(project)
    recipe = load_recipe(sample_file("train.toml"), TrainingRecipe)
    recipe = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"name": teacher["name"]})})
    parameters = {"recipe": recipe.model_dump(mode="json"), "recipe_hash": recipe_hash(recipe), "teacher": teacher}
    return recipe.recipe.title, parameters, _key_names(teacher)


def _teacher(project: Project) -> dict[str, Any]:
    teachers = project.teachers.list()
    if not teachers:
        raise KnownError("There is no teacher yet", "This project has none.", "Get the sample teacher first.")
    return asdict(teachers[0].spec)


def _key_names(teacher: dict[str, Any]) -> tuple[str, ...]:
    return (str(teacher["key_name"]),) if teacher.get("key_name") else ()
