"""The rows a run trains on, frozen into its folder at its first start.

A person goes on curating while a run is interrupted; what it resumes with must be what it began with.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from kdstudio import files
from kdstudio.distillation.examples import SourceRow
from kdstudio.errors import BadInput, KnownError
from kdstudio.project import Project

ROWS_NAME = "rows.jsonl"


def frozen_rows(run_folder: Path, project_folder: Path, status: str) -> list[SourceRow]:
    """The rows of this run, read from the project and frozen at the first call.

    `status`: "accepted", or "any" for all that were not rejected. Raises `BadInput` when there are none.
    """
    path = run_folder / ROWS_NAME
    if not path.is_file():
        rows = list(_project_rows(project_folder, status))
        if not rows:
            raise BadInput(
                "There are no rows to train on",
                "The project has no accepted responses." if status == "accepted" else "The project has no responses.",
                "Elicit or import responses, then accept them on the Data page.",
            )
        with files.atomic_file(path, "w") as stream:
            for row in rows:
                stream.write(json.dumps(dataclasses.asdict(row)) + "\n")
    return list(_read(path))


def _project_rows(project_folder: Path, status: str) -> Iterator[SourceRow]:
    with Project.open(project_folder, read_only=True) as project:
        for prompt, response in project.rows.pairs(status=status):
            if response.status != "rejected":
                yield SourceRow(prompt.id, response.id, tuple(prompt.messages), response.text, tuple(prompt.tags))


def _read(path: Path) -> Iterator[SourceRow]:
    try:
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                row = json.loads(line)
                yield SourceRow(
                    row["prompt_id"], row["response_id"], tuple(row["messages"]), row["text"], tuple(row["tags"])
                )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KnownError(
            "The run's rows cannot be read", f"{path}: {error}", "Start the training anew: this run cannot go on."
        ) from error
