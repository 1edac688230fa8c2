"""The rows a run trains on, frozen into its folder at its first start.

A person goes on curating while a run is interrupted; what it resumes with must be what it began with.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from kdstudio import files
from kdstudio.catalogue.training import DataTable
from kdstudio.distillation.examples import SourceRow
from kdstudio.errors import BadInput, KnownError
from kdstudio.project import Project

ROWS_NAME = "rows.jsonl"


def frozen_rows(run_folder: Path, project_folder: Path, table: DataTable, *, preferences: bool) -> list[SourceRow]:
    """The rows of this run, read from the project and frozen at the first call.

    With `preferences` each candidate of a preference is a row of its group. Raises `BadInput` when there are none.
    """
    path = run_folder / ROWS_NAME
    if not path.is_file():
        read = _preference_rows if preferences else _response_rows
        rows = list(read(project_folder, table))
        if not rows:
            raise _nothing(
                "preferences with a better and a worse response" if preferences else "responses", table.status
            )
        with files.atomic_file(path, "w") as stream:
            for row in rows:
                stream.write(json.dumps(dataclasses.asdict(row)) + "\n")
    return list(_read(path))


def _nothing(what: str, status: str) -> BadInput:
    return BadInput(
        "There are no rows to train on",
        f"The project has no {'accepted ' if status == 'accepted' else ''}{what}.",
        "Elicit or import some, then accept them on the Data page.",
    )


def _response_rows(project_folder: Path, table: DataTable) -> Iterator[SourceRow]:
    with Project.open(project_folder, read_only=True) as project:
        for prompt, response in project.rows.pairs(status=table.status):
            if response.status != "rejected":
                yield SourceRow(
                    prompt.id,
                    response.id,
                    prompt.conversation,
                    response.text,
                    tuple(prompt.tags),
                    response.reasoning if table.reasoning == "think_tags" else "",
                    reference=prompt.reference,
                )


def _preference_rows(project_folder: Path, table: DataTable) -> Iterator[SourceRow]:
    """Candidates of every preference that can teach something: two different scores, and no empty text among them."""
    with Project.open(project_folder, read_only=True) as project:
        for row in project.rows.preferences(status=table.status):
            usable = len(set(row.scores)) > 1 and all(text.strip() for text in row.candidates)
            if row.status == "rejected" or not usable:
                continue
            prompt = project.rows.prompt(row.prompt_id)
            for text, score in zip(row.candidates, row.scores, strict=True):
                yield SourceRow(
                    prompt.id, row.id, prompt.conversation, text, tuple(prompt.tags), group=row.id, score=score
                )


def _read(path: Path) -> Iterator[SourceRow]:
    try:
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                row = json.loads(line)
                yield SourceRow(**{**row, "messages": tuple(row["messages"]), "tags": tuple(row["tags"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KnownError(
            "The run's rows cannot be read", f"{path}: {error}", "Start the training anew: this run cannot go on."
        ) from error
