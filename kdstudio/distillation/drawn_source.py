"""Whether a run that learns from random draws reads stored ones: then its teacher need not run at all."""

from __future__ import annotations

import json
from pathlib import Path

from kdstudio import files
from kdstudio.catalogue.objectives import OBJECTIVES, TEACHER_SIGNALS
from kdstudio.distillation.objectives import uses_own_answers
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.stored_signals import StoredDraws, has_draws
from kdstudio.recipe import TrainingRecipe
from kdstudio.teachers.signals import Draws
from kdstudio.teachers.vault import Vault

CHOICE_NAME = "stored_draws.json"
_OBJECTIVE = "random_sampled_topk"


def drawn_source(
    run_folder: Path,
    vault: Vault,
    recipe: TrainingRecipe,
    rows: TrainingRows,
    fingerprint: str,
    *,
    outcomes: int,
    name: str,
    path: str,
) -> StoredDraws | None:
    """The stored draws that this run learns from; None where its teacher runs beside it.

    Taken where nothing else is asked of the teacher and every row has as many draws as the recipe wants, of the run's
    seed or of seed 0. The choice is kept in the run's folder: a run that goes on reads what it began with. Raises
    `KnownError` where that is gone.
    """
    wanted = _wanted(recipe)
    if wanted is None:
        return None
    chosen = _chosen_before(run_folder)
    if chosen is None:
        rules = [Draws(wanted, seed) for seed in dict.fromkeys((recipe.run.seed, 0))]
        chosen = next((rule for rule in rules if has_draws(vault, rows, fingerprint, rule)), Draws(0))
        described = json.dumps({"draws": chosen.count, "seed": chosen.seed})
        files.write_text(run_folder / CHOICE_NAME, described)
    if not chosen.count:
        return None
    return StoredDraws(vault, rows, fingerprint, chosen, outcomes=outcomes, name=name, path=path)


def _wanted(recipe: TrainingRecipe) -> int | None:
    """How many draws a token all objectives that read the teacher want; None if any wants something else."""
    reading = [table for table in recipe.objective if set(OBJECTIVES[table.name].needs) & TEACHER_SIGNALS]
    counts = {int(table.parameters["draws"]) if table.name == _OBJECTIVE else 0 for table in reading}
    if len(counts) != 1 or 0 in counts or uses_own_answers(recipe):
        return None
    return counts.pop()


def _chosen_before(run_folder: Path) -> Draws | None:
    try:
        described = json.loads((run_folder / CHOICE_NAME).read_text(encoding="utf-8"))
        return Draws(int(described["draws"]), int(described["seed"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
