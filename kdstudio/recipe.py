"""A recipe is data: one TOML file says what a run is, and its hash names it.

Three shapes share the `version = 1` header: an elicitation recipe (a list of steps), a training recipe (student, data,
teacher, objectives, optimiser, run, export) and one with rounds of both. Unknown keys are refused with their line.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomlkit
from pydantic import Field, ValidationError, model_validator

from kdstudio.catalogue.columns import check_columns
from kdstudio.catalogue.coverage import Claim
from kdstudio.catalogue.elicitation import ExampleTable, InputTable, ParameterTable
from kdstudio.catalogue.rounds import (
    AcceptTable,
    MeasureTable,
    RoundElicitTable,
    RoundsTable,
    RoundTrainTable,
    StopTable,
)
from kdstudio.catalogue.steps import STEP_NAMES, EmitStep, LoopStep, Step
from kdstudio.catalogue.training import (
    DataTable,
    ExportTable,
    ObjectiveTable,
    OptimizerTable,
    RewardTable,
    RolloutTable,
    RunTable,
    StudentTable,
    TeacherTable,
)
from kdstudio.errors import BadInput
from kdstudio.registry import Params

MAXIMUM_RECIPE_BYTES = 1 << 20
ASKING_TYPES = ("sample", "score", "rank")


class RecipeHeader(Params):
    """What the recipe is called and which published methods it follows.

    `needs`: prompts, responses, documents, judge, student, teachers; `covers`: further ids of the survey's catalogue;
    `not_for`: what its rows must not be used for, shown before it is started.
    """

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    title: str
    purpose: str = ""
    methods: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    family: str = ""
    covers: tuple[str, ...] = ()
    not_for: str = ""


class ElicitationRecipe(Params):
    """How knowledge is drawn from a teacher."""

    version: Literal[1]
    recipe: RecipeHeader
    input: InputTable = InputTable()
    parameters: dict[str, ParameterTable] = Field(default_factory=dict)
    step: tuple[Step, ...] = Field(min_length=1)
    example: ExampleTable | None = None

    @model_validator(mode="after")
    def _complete(self) -> ElicitationRecipe:
        body = self.step[:-1] if isinstance(self.step[-1], LoopStep) else self.step
        if not any(step.type in ASKING_TYPES for step in body):
            raise ValueError("a recipe needs a step of type 'sample', 'score' or 'rank'")
        if any(isinstance(step, LoopStep) for step in body):
            raise ValueError("a step of type 'loop' can only be the last one")
        if not body or not isinstance(body[-1], EmitStep):
            raise ValueError("the last step must be of type 'emit', or 'emit' and then 'loop'")
        return self


class TrainingRecipe(Params):
    """How a student is made from a teacher and the project's rows."""

    version: Literal[1] = 1
    recipe: RecipeHeader = RecipeHeader(id="train", title="Training")
    student: StudentTable = StudentTable()
    data: DataTable = DataTable()
    teacher: TeacherTable = TeacherTable()
    rollout: RolloutTable = RolloutTable()
    reward: RewardTable = RewardTable()
    objective: tuple[ObjectiveTable, ...] = Field((ObjectiveTable(name="forward_kl"),), min_length=1)
    optimizer: OptimizerTable = OptimizerTable()
    run: RunTable = RunTable()
    export: ExportTable = ExportTable()


class RoundsRecipe(Params):
    """How a student learns from itself: each round elicits, trains and measures, as runs of their own."""

    version: Literal[1]
    recipe: RecipeHeader
    rounds: RoundsTable = RoundsTable()
    stop: StopTable = StopTable()
    elicit: RoundElicitTable
    accept: AcceptTable = AcceptTable()
    train: RoundTrainTable = RoundTrainTable()
    measure: MeasureTable = MeasureTable()


RecipeT = TypeVar("RecipeT", ElicitationRecipe, TrainingRecipe, RoundsRecipe)


def load_recipe(path: Path, shape: type[RecipeT]) -> RecipeT:
    """Read a recipe file. Raises `BadInput` naming the file, the line and what is expected there."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput("The recipe cannot be read", f"{path}: {error.strerror}.", "Check the path.") from error
    if len(data) > MAXIMUM_RECIPE_BYTES:
        raise BadInput("The recipe is too large", f"{path} has {len(data):,} bytes.", "A recipe is a short TOML file.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput("The recipe is not UTF-8 text", f"{path}: {error}.", "Save it as UTF-8.") from error
    return parse_recipe(text, shape, name=str(path))


def parse_recipe(text: str, shape: type[RecipeT], name: str = "recipe") -> RecipeT:
    """Parse and validate the text of a recipe; errors as in `load_recipe`."""
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput("The recipe is not valid TOML", f"{name}: {error}.", "Correct that line.") from error
    recipe = validate_recipe(tables, shape, name=name, text=text)
    if isinstance(recipe, ElicitationRecipe):
        lines = [_line_of(["step", index], text) for index in range(len(recipe.step))]
        tables = {line.strip(" []"): number for number, line in enumerate(text.splitlines(), 1) if line.startswith("[")}
        named = {key: tables.get(f"parameters.{key}", 0) for key in recipe.parameters}
        check_columns(name, recipe.step, recipe.input, recipe.parameters, lines, named)
    return recipe


def validate_recipe(tables: Mapping[str, Any], shape: type[RecipeT], name: str = "recipe", text: str = "") -> RecipeT:
    """Turn parsed tables into a typed recipe. Raises `BadInput` listing every fault with its line."""
    try:
        return shape.model_validate(dict(tables))
    except ValidationError as error:
        found = error.errors()
        inside = {item["loc"][: len(other["loc"])] for item in found for other in found if item is not other}
        # A list that lost a faulty entry is not too short as well
        faults = [
            _fault(item["loc"], item["msg"], item["type"], text)
            for item in found
            if not (item["type"] == "too_short" and item["loc"] in inside)
        ]
        raise BadInput(
            "The recipe has a mistake" if len(faults) == 1 else f"The recipe has {len(faults)} mistakes",
            f"{name}: " + "; ".join(faults[:8]) + ".",
            "Correct or remove the keys named above.",
        ) from error


def _fault(location: Iterable[str | int], message: str, kind: str, text: str) -> str:
    parts = [part for part in location if not (isinstance(part, str) and part in STEP_NAMES)]
    where = ".".join(str(part) for part in parts) or "the file"
    line = _line_of(parts, text)
    said = _SAID.get(kind, message.removeprefix("Value error, "))
    return f"{where}{f' (line {line})' if line else ''}: {said}"


_SAID = {
    "extra_forbidden": "unknown key",
    "missing": "is missing",
    "union_tag_not_found": f'has no type; add type = "..." with one of: {", ".join(STEP_NAMES)}',
}


def _line_of(location: list[str | int], text: str) -> int:
    """Best line for a location: the key within its table, counting array tables. 0 if it is not in the text."""
    if not text or not location:
        return 0
    tables = [part for part in location[:-1] if isinstance(part, str)]
    index = next((part for part in location if isinstance(part, int)), 0)
    key, current, seen, table_line = str(location[-1]), "", -1, 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line.startswith("["):
            current = line.split("#")[0].strip().strip("[]").strip()
            seen += line.startswith("[[") and bool(location) and current == location[0]
            if current == key and not tables:
                return number
        inside = not tables or (current.split(".")[0] == tables[0] and (not line.startswith("[[") or seen == index))
        if inside and tables and line.startswith("[[") and seen == index:
            table_line = number
        if (
            inside
            and (not tables or seen in (-1, index))
            and line.split("=")[0].strip().strip("\"'") == key
            and "=" in line
        ):
            return number
    return table_line


def recipe_hash(recipe: Params) -> str:
    """blake2b-128 (hex) of the parsed, defaulted recipe: comments, order of keys and the example do not change it."""
    tables = recipe.model_dump(mode="json", exclude={"example"} if isinstance(recipe, ElicitationRecipe) else None)
    canonical = json.dumps(tables, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def override(recipe: RecipeT, assignments: Iterable[str]) -> RecipeT:
    """Apply `--set table.key=value` (values as TOML, bare words as text). Raises `BadInput` for an unknown key.

    `objective.0.weight=2` reaches into a list; in an elicitation recipe `sample.max_tokens=60` names the first step
    of that type, and `tone=dry` sets the recipe's own parameter of that name.
    """
    tables = recipe.model_dump(mode="json")
    for assignment in assignments:
        path, separator, value = assignment.partition("=")
        if not separator or not path.strip():
            raise BadInput("Cannot read --set", f"{assignment!r} is not key=value.", "Write for example run.steps=40.")
        _assign(tables, path.strip().split("."), _value(value.strip()), assignment)
    return validate_recipe(tables, type(recipe), name="--set")


def _assign(tables: dict[str, Any], path: list[str], value: Any, assignment: str) -> None:
    target: Any = tables
    if "step" in tables and path[0] in STEP_NAMES:
        target = next((step for step in tables["step"] if step["type"] == path[0]), None)
        path = path[1:]
    elif path[-1] in tables.get("parameters", ()) and path[:-1] in ([], ["parameters"]):
        path = ["parameters", path[-1], "default"]
    for part in path[:-1]:
        if isinstance(target, list) and part.isdigit() and int(part) < len(target):
            target = target[int(part)]
        else:
            target = target.get(part) if isinstance(target, dict) else None
    if not isinstance(target, dict) or not path:
        raise BadInput("Unknown key in --set", f"{assignment!r} names nothing in this recipe.", "See the recipe file.")
    target[path[-1]] = value


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def to_toml(recipe: Params) -> str:
    """The recipe as TOML text, defaults written out: what a person can keep, change and run again."""
    return tomlkit.dumps(_without_none(recipe.model_dump(mode="json")))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


FAMILIES = ("labeling", "expansion", "curation", "feedback", "self_knowledge", "skills", "verticals")


def shipped_recipes() -> dict[str, ElicitationRecipe]:
    """The elicitation recipes that come with the program, by id: those of each family's folder, in that order."""
    return dict(_shipped_by_family())


@functools.cache  # they are frozen, and come with the program: reading all of them takes a quarter of a second
def _shipped_by_family() -> dict[str, ElicitationRecipe]:
    folder = resources.files("kdstudio").joinpath("resources", "recipes")
    found: dict[str, ElicitationRecipe] = {}
    for family in FAMILIES:
        inside = folder.joinpath(family)
        entries = inside.iterdir() if inside.is_dir() else ()
        for entry in sorted(entries, key=lambda item: item.name):
            if entry.name.endswith(".toml"):
                recipe = parse_recipe(entry.read_text("utf-8"), ElicitationRecipe, name=f"{family}/{entry.name}")
                found[recipe.recipe.id] = recipe
    return found


def shipped_training_recipes() -> dict[str, TrainingRecipe]:
    """The training recipes that come with the program, by id."""
    return dict(_shipped("training", TrainingRecipe))


def shipped_rounds_recipes() -> dict[str, RoundsRecipe]:
    """The recipes with rounds that come with the program, by id."""
    return dict(_shipped("rounds", RoundsRecipe))


def claims() -> list[Claim]:
    """What of the survey's catalogue the shipped recipes say that they cover."""
    headers: list[tuple[str, RecipeHeader]] = [("elicit", recipe.recipe) for recipe in shipped_recipes().values()]
    headers += [("train", recipe.recipe) for recipe in shipped_training_recipes().values()]
    headers += [("rounds", recipe.recipe) for recipe in shipped_rounds_recipes().values()]
    return [Claim(verb, header.id, next(iter(header.references), ""), header.covers) for verb, header in headers]


@functools.cache
def _shipped(name: str, shape: type[RecipeT]) -> dict[str, RecipeT]:
    folder = resources.files("kdstudio").joinpath("resources", "recipes", name)
    entries = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".toml")), key=lambda item: item.name)
    found = {entry.name: parse_recipe(entry.read_text("utf-8"), shape, name=entry.name) for entry in entries}
    return {recipe.recipe.id: recipe for recipe in found.values()}


def find_training_recipe(name: str) -> TrainingRecipe:
    """A shipped training recipe by id, or a file by path. Raises `BadInput` when there is neither."""
    return _found(name, shipped_training_recipes(), TrainingRecipe, "training recipe")


def find_rounds_recipe(name: str) -> RoundsRecipe:
    """A shipped recipe with rounds by id, or a file by path. Raises `BadInput` when there is neither."""
    return _found(name, shipped_rounds_recipes(), RoundsRecipe, "recipe with rounds")


def _found(name: str, recipes: Mapping[str, RecipeT], shape: type[RecipeT], what: str) -> RecipeT:
    if name in recipes and not Path(name).exists():
        return recipes[name]
    if Path(name).suffix == ".toml" or Path(name).exists():
        return load_recipe(Path(name), shape)
    raise BadInput(
        "Unknown recipe", f"There is no {what} called {name!r}.", f"Known: {', '.join(recipes)}; or a .toml file."
    )


def find_elicitation_recipe(name: str) -> ElicitationRecipe:
    """A shipped recipe by id, or a file by path. Raises `BadInput` when there is neither."""
    recipes = shipped_recipes()
    if name in recipes:
        return recipes[name]
    if Path(name).suffix == ".toml" or Path(name).exists():
        return load_recipe(Path(name), ElicitationRecipe)
    raise BadInput(
        "Unknown recipe", f"There is no recipe called {name!r}.", f"Known: {', '.join(recipes)}; or give a .toml file."
    )
