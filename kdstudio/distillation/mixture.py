"""Learning from the mean of several teachers: who they are, and what a mean of distributions can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdstudio.catalogue.objectives import OBJECTIVES, RUNNING_TEACHER
from kdstudio.distillation.bound import cross_level
from kdstudio.distillation.objectives import uses_own_answers
from kdstudio.errors import BadInput
from kdstudio.models.model_folder import weights_fingerprint
from kdstudio.recipe import TrainingRecipe
from kdstudio.teachers.ensemble import mixture_fingerprint, shares_of

_LOCAL_KINDS = ("gguf", "huggingface")
_ONE_WRITER = ("teacher_mixed", "interleaved")
_ONE_JUDGE = ("judge", "teacher_log_prob")


@dataclass(frozen=True)
class Mixture:
    """The teachers that a recipe weighs: `names`, where their weights are, and `shares` that sum to 1."""

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    shares: tuple[float, ...]

    def fingerprint(self) -> str:
        """Under what the vault holds the mean's signals. Reads a little of every file."""
        return mixture_fingerprint([weights_fingerprint(path) for path in self.paths], self.shares)


def mixture_of(recipe: TrainingRecipe, parameters: Mapping[str, Any]) -> Mixture | None:
    """The mixture that `[teacher] weights` name; None where the recipe names one teacher alone.

    `parameters` are the job's: its `teachers` are the specs of those that the recipe weighs. Raises `BadInput` for one
    that is not there, or that has no weights here, and where the recipe asks what only one teacher can give.
    """
    weights = recipe.teacher.weights
    if not weights:
        return None
    specs = {spec["name"]: spec for spec in parameters.get("teachers") or [parameters.get("teacher") or {"name": ""}]}
    paths = tuple(_path(name, specs.get(name)) for name in weights)
    _require_mean(recipe)
    return Mixture(tuple(weights), paths, tuple(shares_of(len(weights), list(weights.values()))))


def _path(name: str, spec: Mapping[str, Any] | None) -> Path:
    if spec is None:
        raise BadInput(
            "A teacher of the ensemble is missing", f"The job does not say where {name!r} is.", "Start the run again."
        )
    if spec.get("kind") not in _LOCAL_KINDS or not spec.get("path"):
        raise BadInput(
            "This teacher cannot be weighed",
            f"{name} is of kind {spec.get('kind', '')}; an ensemble weighs whole distributions.",
            "Take local teachers: GGUF files or folders.",
        )
    return Path(str(spec["path"])).expanduser()


def _require_mean(recipe: TrainingRecipe) -> None:
    """Raises `BadInput` for what a mean of distributions does not have: inner states, a voice of its own."""
    single = [
        table.name
        for table in recipe.objective
        if set(OBJECTIVES[table.name].needs) & RUNNING_TEACHER or table.name in cross_level.BINDERS
    ]
    if recipe.student.refit:
        single.append("student.refit")
    if uses_own_answers(recipe) and recipe.rollout.source in _ONE_WRITER:
        single.append(f'rollout.source = "{recipe.rollout.source}"')
    if uses_own_answers(recipe) and recipe.reward.kind in _ONE_JUDGE:
        single.append(f'reward.kind = "{recipe.reward.kind}"')
    if single:
        raise BadInput(
            "This asks one teacher",
            f"{', '.join(single)} reads one network; of several there is the mean of their distributions alone.",
            "Take out teacher.weights to learn from one teacher.",
        )
