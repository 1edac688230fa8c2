"""Which rows a student is measured on: those its run held out, exactly as its trainer divided them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdstudio.distillation.examples import Example, SourceRow, encode_rows
from kdstudio.distillation.frozen_rows import ROWS_NAME, frozen_rows
from kdstudio.distillation.objectives import reads_preferences
from kdstudio.distillation.rows import split_rows
from kdstudio.errors import BadInput
from kdstudio.evaluation.logits import Pair
from kdstudio.jobs.folder import read_job
from kdstudio.models.conversation import Tokenizer
from kdstudio.project import Project
from kdstudio.recipe import TrainingRecipe, validate_recipe

STUDENT_NAME = "student"


@dataclass(frozen=True)
class MeasuredRows:
    """Rows to measure on, with their messages. `text` says what they are, `held_out` whether none was learnt.

    `run_folder`: of the run that held them out.
    """

    examples: tuple[Example, ...]
    messages: dict[int, tuple[dict[str, Any], ...]]
    text: str
    held_out: bool
    run_folder: Path | None = None

    @property
    def pairs(self) -> list[Pair]:
        """(prompt ids, response ids) of every row."""
        return [(item.prompt_ids.tolist(), item.response_ids.tolist()) for item in self.examples]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max((item.tokens for item in self.examples), default=0)

    def first(self, limit: int) -> MeasuredRows:
        """At most `limit` rows (0: all)."""
        chosen = self.examples[:limit] if limit else self.examples
        return replace(self, examples=chosen)

    def prompts(self, count: int) -> list[Example]:
        """`count` rows with different prompts, spread evenly."""
        distinct = list({item.prompt_id: item for item in self.examples}.values())
        if count <= 0 or not distinct:
            return []
        count = min(count, len(distinct))
        return [distinct[index * len(distinct) // count] for index in range(count)]


def run_folder_of(project_folder: Path, run: str) -> Path:
    """The folder of a training run with a finished student. Raises `BadInput` when there is none."""
    folder = project_folder / "runs" / run
    if not run or Path(run).name != run or not folder.is_dir():
        raise BadInput("Unknown run", f"The project has no run {run!r}.", "See: kdstudio jobs PROJECT")
    if not (folder / STUDENT_NAME / "config.json").is_file():
        raise BadInput(
            "This run has no student",
            f"{run} is no training run, or has not saved its student yet.",
            "Choose a finished training run.",
        )
    return folder


def recipe_of(run_folder: Path) -> TrainingRecipe:
    """The frozen recipe of a training run."""
    return validate_recipe(read_job(run_folder).parameters.get("recipe", {}), TrainingRecipe, name=run_folder.name)


def rows_of_run(run_folder: Path, project_folder: Path, tokenizer: Tokenizer, maximum_tokens: int = 0) -> MeasuredRows:
    """The rows that a run held out; if it held out none, those it trained on, and `text` says so.

    `maximum_tokens` leaves out longer rows (0: only what the recipe leaves out).
    """
    recipe = recipe_of(run_folder)
    sources = frozen_rows(run_folder, project_folder, recipe.data, preferences=reads_preferences(recipe))
    limit = min(recipe.data.maximum_tokens, maximum_tokens or recipe.data.maximum_tokens)
    rows = split_rows(encode_rows(tokenizer, sources, limit)[0], recipe.data, recipe.run.seed)
    held = [
        example for example in map(rows.examples.__getitem__, rows.held_out) if not example.group or example.score > 0
    ]
    if held:
        measured = _measured(held, sources, "responses of rows that were held out from training", held_out=True)
        return replace(measured, run_folder=run_folder)
    learnt = [rows.examples[index] for index in rows.training]
    return _measured(learnt, sources, "responses the student was trained on (none was held out)", held_out=False)


def rows_of_project(project_folder: Path, tokenizer: Tokenizer, maximum_tokens: int) -> MeasuredRows:
    """The project's accepted rows (if none is, all that were not rejected), for a file of unknown origin."""
    sources: list[SourceRow] = []
    with Project.open(project_folder, read_only=True) as project:
        for status in ("accepted", "any"):
            sources = [
                SourceRow(prompt.id, response.id, prompt.conversation, response.text, tuple(prompt.tags))
                for prompt, response in project.rows.pairs(status=status)
                if response.status != "rejected"
            ]
            if sources:
                break
    examples = encode_rows(tokenizer, sources, maximum_tokens)[0]
    return _measured(
        examples, sources, "responses of the project; the file may have been trained on them", held_out=False
    )


def rows_for_file(
    project_folder: Path, metadata: dict[str, Any], tokenizer: Tokenizer, maximum_tokens: int
) -> MeasuredRows:
    """Rows for a GGUF file with this `metadata`: what its run held out if we made it, else `rows_of_project`."""
    run = str(metadata.get("kdstudio.run", ""))
    folder = project_folder / "runs" / run
    if run and Path(run).name == run and (folder / ROWS_NAME).is_file():
        return rows_of_run(folder, project_folder, tokenizer, maximum_tokens)
    return rows_of_project(project_folder, tokenizer, maximum_tokens)


def _measured(examples: Sequence[Example], sources: Sequence[SourceRow], text: str, *, held_out: bool) -> MeasuredRows:
    if not examples:
        raise BadInput(
            "There is nothing to measure on",
            "The project has no response that fits the model.",
            "Elicit or import responses, then accept them on the Data page.",
        )
    wanted = {item.prompt_id for item in examples}
    messages = {row.prompt_id: row.messages for row in sources if row.prompt_id in wanted}
    return MeasuredRows(tuple(examples), messages, text, held_out)
