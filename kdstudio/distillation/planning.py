"""How long a run is."""

from __future__ import annotations

import math

from kdstudio.recipe import TrainingRecipe


def planned_steps(recipe: TrainingRecipe, rows: int) -> int:
    """Optimiser steps of a run over so many training rows."""
    if recipe.run.steps:
        return recipe.run.steps
    per_epoch = math.ceil(rows / (recipe.run.rows_per_batch * recipe.run.accumulation))
    return max(1, math.ceil(recipe.run.epochs * per_epoch))
