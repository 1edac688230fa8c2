"""Which rows a run begins with: chosen once, when it begins, so that continuing it asks neither fewer nor others.

A run that was not answered once has not begun: a person may have mended its prompts, or only now imported some. What
a recipe draws from and compares with is fixed at the same time: the run's own rows reach the project while it goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from kdstudio import files
from kdstudio.catalogue.steps import DrawStep
from kdstudio.elicitation.pools import draws
from kdstudio.errors import BadInput
from kdstudio.project import Project
from kdstudio.recipe import ElicitationRecipe

FILE_NAME = "prompts.json"


@dataclass(frozen=True)
class Inputs:
    """Ids of prompts or responses, paths of documents, or numbers; and what the run draws from, step by step."""

    source: str
    roots: list[Any]
    last_prompt: int = 0
    drawn_from: dict[int, list[int]] = field(default_factory=dict)


def inputs_of(
    run_folder: Path,
    project: Project,
    parameters: Mapping[str, Any],
    recipe: ElicitationRecipe,
    recipe_hash: str,
    *,
    begun: bool,
) -> Inputs:
    """This run's rows, in order: from its folder if it has `begun`, else chosen now and kept there."""
    path = run_folder / FILE_NAME
    if begun and (kept := _kept(path, recipe.input.source)) is not None:
        return kept
    chosen = Inputs(
        recipe.input.source,
        _Choice(run_folder.name, project, parameters, recipe, recipe_hash).roots(),
        project.rows.last_ids()["prompt"],
        {index: _drawn_from(project, step) for index, step in draws(recipe.step).items()},
    )
    files.write_text(path, json.dumps({"version": 1, **asdict(chosen)}))
    return chosen


def _kept(path: Path, source: str) -> Inputs | None:
    """What is in the run's folder; None if it is not ours or damaged: what was answered is in the journal anyway."""
    try:
        found = json.loads(path.read_text("utf-8"))
        if "prompts" in found:  # written before recipes had other inputs than prompts
            return Inputs("prompts", [int(number) for number in found["prompts"]])
        drawn_from = {int(index): list(ids) for index, ids in found["drawn_from"].items()}
        kept = Inputs(str(found["source"]), list(found["roots"]), int(found["last_prompt"]), drawn_from)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return kept if kept.source == source else None


def _drawn_from(project: Project, step: DrawStep) -> list[int]:
    if step.source == "responses":
        pairs = project.rows.pairs(status=step.status)
        return [response.id for prompt, response in pairs if not step.tag or step.tag in prompt.tags]
    found = project.rows.prompts(status=step.status, tag=step.tag)
    return [prompt.id for prompt in found if prompt.status != "rejected"]


@dataclass(frozen=True)
class _Choice:
    """Choosing the rows of one new run."""

    run_id: str
    project: Project
    parameters: Mapping[str, Any]
    recipe: ElicitationRecipe
    recipe_hash: str

    def roots(self) -> list[Any]:
        limit = int(self.parameters.get("trial", 0) or self.parameters.get("limit", 0))
        match self.recipe.input.source:
            case "nothing":
                return list(range(1, (limit or self.recipe.input.rows) + 1))
            case "documents":
                return self._documents()[: limit or None]
            case "responses":
                return list(islice(self._responses(), limit or None))
        return list(islice(self._prompts(), limit or None))

    def _status(self) -> str:
        status = str(self.parameters.get("status", ""))
        return status if status not in ("", "any") else self.recipe.input.status

    def _tag(self) -> str:
        return str(self.parameters.get("tag", "")) or self.recipe.input.tag

    def _prompts(self) -> Any:
        """Prompts that fit status and tag, are not rejected, and have no answer of this teacher and recipe."""
        teacher = str(self.parameters["teacher"]["name"])
        anew = not self.parameters.get("only_unanswered", True) or self._new_seed()
        found = self.project.rows.prompts(
            status=self._status(),
            tag=self._tag(),
            unanswered_by=None if anew else (teacher, self.recipe_hash, self.run_id),
        )
        held_out = self._held_out()
        return (prompt.id for prompt in found if prompt.status != "rejected" and prompt.id not in held_out)

    def _responses(self) -> Any:
        tag, held_out = self._tag(), self._held_out()
        pairs = self.project.rows.pairs(status=self._status())
        return (
            response.id
            for prompt, response in pairs
            if response.status != "rejected" and (not tag or tag in prompt.tags) and prompt.id not in held_out
        )

    def _held_out(self) -> frozenset[int]:
        """Prompts that only measure: a round never asks them."""
        return frozenset(self.parameters.get("leave_out") or ())

    def _documents(self) -> list[str]:
        from kdstudio.elicitation.documents import documents_in

        name = self.recipe.input.paths
        paths = [line.strip() for line in str(self.recipe.parameters[name].default).splitlines() if line.strip()]
        if not paths:
            raise BadInput("There are no documents", f"The parameter {name!r} is empty.", "Name files or folders.")
        return [str(path.resolve()) for path in documents_in(paths)]

    def _new_seed(self) -> bool:
        """Whether earlier runs asked the same of the same teacher, but none with this seed: a wish for more."""
        earlier = [
            run.parameters
            for run in self.project.runs.list("elicit")
            if run.id != self.run_id
            and not run.parameters.get("trial")
            and run.parameters.get("recipe_hash") == self.recipe_hash
            and run.parameters.get("teacher", {}).get("name") == self.parameters["teacher"]["name"]
        ]
        seed = int(self.parameters.get("seed", 0))
        return bool(earlier) and all(int(other.get("seed", 0)) != seed for other in earlier)
