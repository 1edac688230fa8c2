"""Several training recipes made comparable: what one leaves unsaid is as in the first, and what must be equal is.

Teacher, student and rows decide what can be reached at all; recipes that differ there are refused. Everything else is
what a comparison is about, and is listed as how a recipe differs from the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdstudio.catalogue.objectives import OBJECTIVES, Signal
from kdstudio.catalogue.training import ObjectiveTable, RewardTable, RolloutTable
from kdstudio.errors import BadInput
from kdstudio.recipe import RecipeHeader, TrainingRecipe

BASELINE = "Supervised baseline"
_STUDENT = ("source", "path", "layers", "layer_count", "hidden_size")
_SHARED_TABLES = ("student", "data", "teacher", "optimizer", "run")
_NOT_COMPARED = ("recipe", "version", "export")

Spec = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One side of a comparison: its name, its recipe, and whether it is the baseline."""

    name: str
    recipe: TrainingRecipe
    baseline: bool = False


def fair_entries(recipes: Sequence[TrainingRecipe], teacher_of: Callable[[TrainingRecipe], Spec]) -> list[Entry]:
    """The recipes with what they leave unsaid filled in from the first, and the supervised baseline.

    The baseline is the first recipe learning from text alone; a recipe that is the same is the baseline itself.
    `teacher_of` gives a recipe's teacher as the project knows it ({} without one). Raises `BadInput` when there is no
    recipe, and when no comparison of them would be fair.
    """
    if not recipes:
        raise BadInput("Which recipes?", "Nothing was named.", "Name one training recipe or more, each a .toml file.")
    first = recipes[0]
    filled = [_filled(recipe, first) for recipe in recipes]
    for recipe in filled:
        _refuse_preferences(recipe)
    for recipe in filled[1:]:
        _require_equal("students", student_of(recipe), student_of(filled[0]), recipe)
        _require_equal("rows", recipe.data.model_dump(), filled[0].data.model_dump(), recipe)
        _require_equal("teachers", teacher_of(recipe), teacher_of(filled[0]), recipe)
    named = [Entry(name, recipe) for name, recipe in zip(_names(filled), filled, strict=True)]
    return _with_baseline(named, baseline_of(filled[0]))


def baseline_of(recipe: TrainingRecipe) -> TrainingRecipe:
    """The same recipe learning from reference text alone, without own answers, which text does not read."""
    header = RecipeHeader(id=recipe.recipe.id, title=BASELINE)
    changed = {"objective": (ObjectiveTable(name="supervised"),), "rollout": RolloutTable(), "reward": RewardTable()}
    return recipe.model_copy(update={"recipe": header, **changed})


def student_of(recipe: TrainingRecipe) -> Spec:
    """Which network it is, not how it is trained."""
    return {key: value for key, value in recipe.student.model_dump(mode="json").items() if key in _STUDENT}


def work_of(tables: Mapping[str, Any]) -> Spec:
    """What a run does: a recipe's tables without its words, its seed and its export."""
    work = {name: table for name, table in tables.items() if name not in _NOT_COMPARED}
    return {**work, "run": {key: value for key, value in work.get("run", {}).items() if key != "seed"}}


def is_supervised(tables: Mapping[str, Any]) -> bool:
    """Whether a recipe's tables learn from reference text alone."""
    return [table.get("name") for table in tables.get("objective", [])] == ["supervised"]


def differences(tables: Mapping[str, Any], first: Mapping[str, Any]) -> Spec:
    """`table.key` -> value, where a recipe's tables are not the first's; without steps, which the budget sets."""
    ours, theirs = _flat(work_of(tables)), _flat(work_of(first))
    return {
        key: value for key, value in ours.items() if value != theirs.get(key) and key not in ("run.steps", "run.epochs")
    }


def _flat(tables: Mapping[str, Any]) -> Spec:
    flat: Spec = {}
    for name, table in tables.items():
        flat |= {f"{name}.{key}": value for key, value in table.items()} if isinstance(table, dict) else {name: table}
    return flat


def _filled(recipe: TrainingRecipe, first: TrainingRecipe) -> TrainingRecipe:
    """`recipe` with the keys that its file leaves out of a shared table taken from the first."""
    tables = {}
    for name in _SHARED_TABLES:
        own = getattr(recipe, name)
        said = {key: getattr(own, key) for key in own.model_fields_set}
        if name == "run" and "epochs" in said:
            said.setdefault("steps", 0)
        tables[name] = getattr(first, name).model_copy(update=said)
    return recipe.model_copy(update=tables)


def writes_answers(recipe: TrainingRecipe) -> bool:
    """Whether the student writes while it trains, so that its tokens are known only afterwards."""
    return recipe.rollout.share > 0 or recipe.rollout.replay != "off" or Signal.ROLLOUTS in _needed(recipe)


def _needed(recipe: TrainingRecipe) -> set[Signal]:
    return {signal for table in recipe.objective for signal in OBJECTIVES[table.name].needs}


def _refuse_preferences(recipe: TrainingRecipe) -> None:
    if Signal.PREFERENCES in _needed(recipe) and not writes_answers(recipe):
        raise BadInput(
            "This would not be a fair comparison",
            f"{recipe.recipe.title} learns from preferences, the baseline from responses: they share no rows.",
            "Train it by itself, and measure both students on the Evaluate page.",
        )


def _require_equal(what: str, ours: Spec, theirs: Spec, recipe: TrainingRecipe) -> None:
    differing = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if not differing:
        return
    told = "; ".join(f"{key} {_said(ours.get(key))} instead of {_said(theirs.get(key))}" for key in differing[:4])
    raise BadInput(
        "This would not be a fair comparison",
        f"{recipe.recipe.title} and the first recipe have different {what}: {told}.",
        f"Give all recipes the same {what}; what a recipe does not say is taken from the first.",
    )


def _said(value: Any) -> str:
    return repr(value) if value not in ("", None, (), []) else "nothing"


def _names(recipes: Sequence[TrainingRecipe]) -> list[str]:
    """Titles, numbered where one comes again."""
    names: list[str] = []
    for recipe in recipes:
        title, number = recipe.recipe.title.strip() or recipe.recipe.id, 2
        name = title
        while name in names:
            name, number = f"{title} ({number})", number + 1
        names.append(name)
    return names


def _with_baseline(entries: list[Entry], baseline: TrainingRecipe) -> list[Entry]:
    for place, entry in enumerate(entries):
        if not differences(entry.recipe.model_dump(mode="json"), baseline.model_dump(mode="json")):
            return [*entries[:place], Entry(entry.name, entry.recipe, baseline=True), *entries[place + 1 :]]
    name = BASELINE if all(entry.name != BASELINE for entry in entries) else f"{BASELINE} of the first"
    return [*entries, Entry(name, baseline, baseline=True)]
