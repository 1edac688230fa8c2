"""Rows out: a project's rows as a file that other programs read. The file appears whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from kdstudio import files
from kdstudio.errors import BadInput
from kdstudio.models.pictures import PREFIX, picture_at, with_pictures
from kdstudio.project.content import Kind, Preference, Prompt, Response
from kdstudio.project.format_writers import CSV_COLUMNS, UnfitError
from kdstudio.project.formats import FORMATS
from kdstudio.project.project import Project

Progress = Callable[[int], None]
_REPORTED = 1000


def export_file(
    project: Project,
    out: Path,
    format_name: str,
    *,
    kind: Kind = "response",
    status: str = "accepted",
    progress: Progress | None = None,
) -> int:
    """Write rows of one kind to a file, atomically; returns how many. `status` "" takes all.

    `progress` gets the rows written, and may raise to give up. Raises `BadInput` for a format that cannot hold that
    kind of row, or meets a row that it cannot hold whole or whose picture is gone (then nothing is written).
    """
    chosen = FORMATS[format_name]
    if (format_name == "preference") != (kind == "preference") and not (format_name == "csv" and kind == "preference"):
        raise BadInput("This format does not fit", f"{chosen.label} does not hold {kind}s.", "Choose another format.")
    if out.is_dir():
        raise BadInput("This is a folder", f"{out} cannot be written as a file.", "Give a file's name.")
    count = 0
    with _text_file(out, "utf-8-sig" if format_name == "csv" else "utf-8") as stream:
        write = _csv_writer(stream) if format_name == "csv" else _line_writer(stream)
        for prompt, response, preference in _rows(project, kind, status):
            row = _with_whole_pictures(prompt, project.folder), response, preference
            try:
                write(chosen.write(*row))
            except UnfitError as error:
                raise _refusal(chosen.label, kind, row, str(error)) from None
            count += 1
            if progress is not None and count % _REPORTED == 0:
                progress(count)
    return count


def _with_whole_pictures(prompt: Prompt, project_folder: Path) -> Prompt:
    """A prompt whose pictures other programs can read: the project's own as data URLs. Raises `BadInput`."""
    if all(isinstance(message.get("content"), str) for message in prompt.messages):
        return prompt

    def whole(address: str) -> str:
        return picture_at(address, project_folder).data_url if address.startswith(PREFIX) else address

    return replace(prompt, messages=tuple(with_pictures(prompt.messages, whole)))


def _refusal(label: str, kind: Kind, row: tuple[Prompt, Response | None, Preference | None], why: str) -> BadInput:
    number = next(item for item in reversed(row) if item is not None).id
    hint = (
        "Export prompt, chosen, rejected" if kind == "preference" else "Export OpenAI messages, which keep everything"
    )
    return BadInput(
        "A row does not fit into this format",
        f"{label} cannot hold {kind} {number}: {why}. Nothing was written.",
        f"{hint}, or reject the row first.",
    )


@contextlib.contextmanager
def _text_file(out: Path, encoding: str) -> Iterator[IO[str]]:
    """A text file that is the same on every system: line ends are written as they are given."""
    with files.atomic_file(out) as raw:
        stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
        yield stream
        stream.flush()
        stream.detach()


def _line_writer(stream: IO[str]) -> Callable[[Any], object]:
    def write(record: Any) -> None:
        stream.write((record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)) + "\n")

    return write


def _csv_writer(stream: IO[str]) -> Callable[[Any], object]:
    """Rows under a header, as a spreadsheet reads them: a byte-order mark (see the encoding), CRLF."""
    writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    return writer.writerow


def _rows(project: Project, kind: Kind, status: str) -> Iterator[tuple[Prompt, Response | None, Preference | None]]:
    if kind == "prompt":
        yield from ((prompt, None, None) for prompt in project.rows.prompts(status=status))
    elif kind == "response":
        yield from ((prompt, response, None) for prompt, response in project.rows.pairs(status=status or "any"))
    else:
        yield from (
            (project.rows.prompt(preference.prompt_id), None, preference)
            for preference in project.rows.preferences(status=status)
        )
