"""Learning from the mean of several teachers: whose stored signals a recipe's `[teacher] weights` mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdstudio.errors import BadInput
from kdstudio.models.model_folder import weights_fingerprint
from kdstudio.recipe import TrainingRecipe
from kdstudio.teachers.ensemble import mixture_fingerprint

_LOCAL_KINDS = ("gguf", "huggingface")


def mixture_named(recipe: TrainingRecipe, parameters: Mapping[str, Any]) -> str:
    """The fingerprint under which the vault holds the mixture's signals; "" where the recipe names one teacher alone.

    `parameters` are the job's: its `teachers` are the specs of those that the recipe weighs. Raises `BadInput` for one
    that is not there, or that has no weights here.
    """
    if not recipe.teacher.weights:
        return ""
    specs = {spec["name"]: spec for spec in parameters.get("teachers") or [parameters.get("teacher") or {"name": ""}]}
    fingerprints = [_fingerprint(name, specs.get(name)) for name in recipe.teacher.weights]
    return mixture_fingerprint(fingerprints, list(recipe.teacher.weights.values()))


def _fingerprint(name: str, spec: Mapping[str, Any] | None) -> str:
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
    return weights_fingerprint(Path(str(spec["path"])).expanduser())


def require_stored_alone(recipe: TrainingRecipe, *, running: bool) -> None:
    """Raises `BadInput` for what only one running teacher can give: own answers, inner states, a refit."""
    if running or recipe.student.refit:
        what = "student.refit" if recipe.student.refit and not running else ", ".join(t.name for t in recipe.objective)
        raise BadInput(
            "An ensemble does not run beside the student",
            f"{what} asks a running teacher; of several, the mean of their stored signals is read.",
            "Take out teacher.weights to learn from one teacher.",
        )
