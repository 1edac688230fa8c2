"""The frozen parameters of jobs, built in one place for the window and the command line. No torch, no Qt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdstudio.recipe import ElicitationRecipe, recipe_hash


def elicitation_parameters(
    recipe: ElicitationRecipe,
    teacher: Mapping[str, Any],
    *,
    status: str = "any",
    tag: str = "",
    limit: int = 0,
    seed: int = 0,
    values: Mapping[str, Any] | None = None,
    trial: int = 0,
) -> dict[str, Any]:
    """What a job of kind `elicit` needs: `teacher` is a spec as a dict, `limit` 0 asks about all prompts.

    A `trial` goes through so many rows, shows what each step does to them, and writes nothing into the project.
    """
    return {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe_hash(recipe),
        "teacher": dict(teacher),
        "status": status,
        "tag": tag,
        "limit": limit,
        "seed": seed,
        "values": dict(values or {}),
        **({"trial": trial} if trial else {}),
    }


def key_names(teacher: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the secrets that a job with this teacher needs."""
    return (str(teacher["key_name"]),) if teacher.get("key_name") else ()
