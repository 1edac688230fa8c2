"""What the command line says about terms of use before it trains, and the reason that it asks for."""

from __future__ import annotations

from typing import Any

from kdstudio.cli.output import say
from kdstudio.errors import BadInput
from kdstudio.project import Project
from kdstudio.project.row_terms import recorded_terms, terms_of_training
from kdstudio.recipe import TrainingRecipe


def asked_reason(project: Project, recipe: TrainingRecipe, parameters: dict[str, Any], reason: str) -> dict[str, Any]:
    """Say which terms apply; returns what the job's parameters keep of it: nothing on free terms alone.

    Raises `BadInput` when some are restricted and no reason is given.
    """
    summary = terms_of_training(project, recipe, parameters["teacher"])
    try:
        kept = recorded_terms(project, parameters, summary, reason)
    except BadInput as error:
        raise BadInput(error.title, error.detail, f"{error.hint} Add --reason TEXT.") from None
    for use in summary.restricted:
        say(f"Terms of use: {use.words}. {use.terms.says}")
    return kept
