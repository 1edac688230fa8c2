"""What the gallery offers: the program's recipes and the project's own, and what each needs that the project has."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kdstudio.catalogue.cost import questions
from kdstudio.errors import BadInput, KnownError
from kdstudio.recipe import (
    ElicitationRecipe,
    RecipeHeader,
    RoundsRecipe,
    TrainingRecipe,
    load_recipe,
    override,
    shipped_recipes,
    shipped_rounds_recipes,
    shipped_training_recipes,
)
from kdstudio.ui.widgets.wording import ago, number, plural

if TYPE_CHECKING:
    from kdstudio.models.spec import TeacherSpec
    from kdstudio.project import Project

OWN_FOLDER = "recipes"
MINE, ROUNDS = "mine", "rounds"
FAMILY_WORDS = {
    "": "All",
    "labeling": "Labelling",
    "expansion": "Expansion",
    "curation": "Curation",
    "feedback": "Feedback",
    "self_knowledge": "Self-knowledge",
    ROUNDS: "In rounds",
    "skills": "Skills",
    "verticals": "Verticals",
    MINE: "Mine",
}
"""Family -> its word, in the order in which they are listed."""


@dataclass(frozen=True)
class Offered:
    """A recipe that can be chosen, or a file of the project that cannot be read as one, with its `fault`.

    Either it has a `recipe`, or it is one with `rounds`.
    """

    key: str
    recipe: ElicitationRecipe | None
    path: Path | None = None
    fault: KnownError | None = None
    rounds: RoundsRecipe | None = None

    @property
    def head(self) -> RecipeHeader | None:
        """What it is called; None for a broken file."""
        made = self.recipe or self.rounds
        return made.recipe if made is not None else None

    @property
    def family(self) -> str:
        """The family under which it is listed."""
        if self.path is not None or self.head is None:
            return MINE
        return ROUNDS if self.rounds is not None else self.head.family

    @property
    def title(self) -> str:
        """Its title; a broken file's name."""
        return self.head.title if self.head is not None else self.key

    def found_by(self, text: str) -> bool:
        """Whether each word begins a word of its title, purpose, methods, papers, needs or family."""
        head = self.head
        if head is None:
            return _has(self.key, text)
        parts = (head.id, head.title, head.purpose, FAMILY_WORDS.get(self.family, self.family))
        return _has(" ".join((*parts, *head.methods, *head.references, *head.covers, *head.needs)), text)

    def named_by(self, text: str) -> bool:
        """Whether its title or its methods alone are found by it."""
        return _has(" ".join((self.title, *(self.head.methods if self.head is not None else ()))), text)


def _has(said: str, text: str) -> bool:
    """With hyphens or without: "evol instruct" and "evolinstruct" find Evol-Instruct."""
    plain = f"{said} {said.replace('_', ' ')} {said.replace('-', '')}".casefold()
    return all(re.search(rf"(?<!\w){re.escape(word)}", plain) for word in text.casefold().split())


@dataclass(frozen=True)
class Offer:
    """All recipes, and what the project has to feed them. `tasks`: prompts with a known answer, among the first ones.

    `students`: finished training runs, (id, title, whether it was a round) each.
    """

    recipes: tuple[Offered, ...] = ()
    teachers: tuple[TeacherSpec, ...] = ()
    tags: tuple[str, ...] = ()
    prompts: int = 0
    responses: int = 0
    accepted: int = 0
    tasks: int = 0
    students: tuple[tuple[str, str, bool], ...] = ()


@dataclass(frozen=True)
class Need:
    """Something that a recipe needs, as a person is told, and whether it is there."""

    words: str
    met: bool


_shipped = cache(shipped_recipes)
_shipped_rounds = cache(shipped_rounds_recipes)
_shipped_training = cache(shipped_training_recipes)
_LOOKED_AT = 5_000


def read_offer(project: Project) -> Offer:
    """Read everything; for a background task."""
    from kdstudio.project.table import RowTable

    with closing(RowTable(project.folder)) as table:
        tags = tuple(table.tags())
    counts = dict.fromkeys(("prompt", "response"), 0)
    for (kind, status), count in project.rows.counts().items():
        if kind in counts and status != "rejected":
            counts[kind] += count
    shipped = tuple(Offered(key, recipe) for key, recipe in _shipped().items())
    rounds = tuple(Offered(key, None, rounds=recipe) for key, recipe in _shipped_rounds().items())
    _shipped_training()  # read here, beside the window, so that the form of rounds opens at once
    return Offer(
        (*own_recipes(project.folder / OWN_FOLDER), *shipped, *rounds),
        tuple(stored.spec for stored in project.teachers.list()),
        tags,
        counts["prompt"],
        counts["response"],
        project.rows.counts().get(("response", "accepted"), 0),
        sum(bool(prompt.reference) for prompt in project.rows.prompts(limit=_LOOKED_AT)),
        tuple(_students(project)),
    )


def _students(project: Project) -> Iterator[tuple[str, str, bool]]:
    for run in project.runs.list("train"):
        if run.state == "finished" and (project.runs_folder / run.id / "student" / "config.json").is_file():
            yield run.id, f"{run.title} · {ago(run.created)}", "rounds" in run.parameters


def own_recipes(folder: Path) -> tuple[Offered, ...]:
    """The recipes in a folder, by file name; those that cannot be read come last and carry their fault."""
    found = map(offered_file, sorted(folder.glob("*.toml")))
    return tuple(sorted(found, key=lambda offered: offered.head is None))


def offered_file(path: Path) -> Offered:
    """A file as something to choose, whatever is in it."""
    try:
        if _has_rounds(path):
            return Offered(path.name, None, path, rounds=load_recipe(path, RoundsRecipe))
        return Offered(path.name, load_recipe(path, ElicitationRecipe), path)
    except KnownError as error:
        detail = error.detail.replace(f"{path}", path.name)
        return Offered(path.name, None, path, BadInput(error.title, detail, error.hint))


def _has_rounds(path: Path) -> bool:
    """Whether a file means to be a recipe with rounds; what is wrong with one that is none is said by its reader."""
    try:
        return {"elicit", "rounds"} & tomllib.loads(path.read_text("utf-8-sig")).keys() != set()
    except (OSError, ValueError, RecursionError):
        return False


def questions_words(recipe: ElicitationRecipe) -> str:
    """`1 question a row`, `about 12 questions a row` where lists decide."""
    count = questions(recipe.step)
    guessed = any(step.type in ("expand", "chunk") for step in recipe.step)
    rounds = next((step.rounds for step in recipe.step if step.type == "loop"), 1)
    times = f" × {rounds} rounds" if rounds > 1 else ""
    return f"{'about ' if guessed else ''}{plural(count, 'question')} a row{times}"


def speakers_wanted(recipe: ElicitationRecipe) -> set[str]:
    """Who speaks beside the teacher: judge, student."""
    return {str(getattr(step, "speaker", "teacher")) for step in recipe.step} - {"teacher"}


def needs_of(recipe: ElicitationRecipe, offer: Offer) -> list[Need]:
    """What a recipe needs, said with what the project has."""
    wanted = dict.fromkeys((*recipe.recipe.needs, *sorted(speakers_wanted(recipe))))
    return [_need(name, offer) for name in wanted]


def _need(name: str, offer: Offer) -> Need:
    teachers = len(offer.teachers)
    match name:
        case "prompts":
            return _counted("prompt", offer.prompts)
        case "responses":
            return _counted("response", offer.responses)
        case "documents":
            return Need("documents of yours", met=True)
        case "judge" | "student":
            few = "none yet" if not teachers else "only itself"
            return Need(f"needs a {name}: {few}" if teachers < 2 else f"a {name}", met=teachers > 1)
        case "teachers":
            there = f"{number(teachers)} teachers" if teachers > 1 else f"needs two teachers: {teachers or 'none'} yet"
            return Need(there, met=teachers > 1)
    return Need(name, met=True)


def needs_of_rounds(recipe: RoundsRecipe, offer: Offer) -> list[Need]:
    """What a recipe with rounds needs, said with what the project has."""
    found = []
    for name in recipe.recipe.needs:
        match name:
            case "prompts" if recipe.stop.figure == "accuracy":
                words = plural(offer.tasks, "task") if offer.tasks else "needs tasks with known answers: none yet"
                found.append(Need(words, met=bool(offer.tasks)))
            case "responses":
                words = f"{number(offer.accepted)} accepted" if offer.accepted else "needs accepted responses: none yet"
                found.append(Need(words, met=bool(offer.accepted)))
            case "student":
                there = bool(offer.students or local_teachers(offer))
                found.append(Need("a student here" if there else "needs a model on this machine", met=there))
            case _:
                found.append(_need(name, offer))
    return found


def recipes_of_rounds(recipe: RoundsRecipe) -> tuple[ElicitationRecipe, TrainingRecipe]:
    """How a round asks and how it trains, as the recipe sets them. Raises `BadInput` for one that is not there."""
    asked, trained = recipe.elicit.recipe, recipe.train.recipe
    elicitation = _shipped().get(asked) or load_recipe(Path(asked), ElicitationRecipe)
    training = _shipped_training().get(trained) or load_recipe(Path(trained), TrainingRecipe)
    return override(elicitation, recipe.elicit.set), override(training, recipe.train.set)


def local_teachers(offer: Offer) -> list[TeacherSpec]:
    """Those that can be trained: models on this machine."""
    return [spec for spec in offer.teachers if spec.kind in ("gguf", "huggingface")]


def _counted(noun: str, count: int) -> Need:
    return Need(plural(count, noun) if count else f"needs {noun}s: none yet", met=bool(count))


_DOCUMENTS = (".txt", ".md", ".html", ".htm", ".pdf", ".docx")


@dataclass(frozen=True)
class Wanted:
    """Which rows a run would begin with."""

    recipe: ElicitationRecipe
    hash: str
    teacher: str
    status: str = "any"
    tag: str = ""
    limit: int = 0


@dataclass(frozen=True)
class Counted:
    """So many rows would begin, or `more` than that; `nothing` says why there are none."""

    rows: int
    more: bool = False
    nothing: str = ""
    noun: str = field(default="row")


def count_rows(project: Project, wanted: Wanted, most: int = 20_000) -> Counted:
    """How many rows a run would begin with; for a background task."""
    source, limit = wanted.recipe.input.source, min(wanted.limit or most + 1, most + 1)
    match source:
        case "nothing":
            return Counted(wanted.limit or wanted.recipe.input.rows)
        case "documents":
            return _documents(wanted, limit)
        case "responses":
            pairs = project.rows.pairs(status=_or(wanted.status, wanted.recipe.input.status))
            tag = wanted.tag or wanted.recipe.input.tag
            fit = sum(
                response.status != "rejected" and (not tag or tag in prompt.tags)
                for (prompt, response), _ in zip(pairs, range(most + 1), strict=False)
            )
            found, noun, why = min(fit, limit), "response", "No response matches."
        case _:
            prompts = project.rows.prompts(
                status=_or(wanted.status, wanted.recipe.input.status),
                tag=wanted.tag or wanted.recipe.input.tag,
                limit=limit,
                unanswered_by=(wanted.teacher, wanted.hash, ""),
            )
            found, noun = sum(prompt.status != "rejected" for prompt in prompts), "prompt"
            why = "Nothing to ask: no prompt matches, or this teacher has answered all with this recipe."
    return Counted(min(found, most), found > most, "" if found else why, noun)


def _or(chosen: str, of_the_recipe: str) -> str:
    return chosen if chosen not in ("", "any") else of_the_recipe


def _documents(wanted: Wanted, limit: int) -> Counted:
    """Files that are named, and those in folders that are. Raises `BadInput` for one that is not there."""
    table = wanted.recipe.parameters[wanted.recipe.input.paths]
    named = [Path(line.strip()).expanduser() for line in str(table.default).splitlines() if line.strip()]
    if gone := [path for path in named if not path.exists()]:
        raise BadInput("A document is not there", str(gone[0]), "Choose it again, or take it off the list.")
    count = 0
    for path in named:
        inside = (path,) if path.is_file() else path.rglob("*")
        count += sum(path.is_file() or one.suffix.lower() in _DOCUMENTS for one in inside)
    why = "Choose documents first." if not named else "" if count else "The folders hold no documents."
    return Counted(min(count, limit), nothing=why, noun="document")
