"""Rows in: import with detection, preview and a line-numbered reject file. (Rows out: `dataset`.)

An import is streamed and one transaction: it happens whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from kdstudio import files
from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs.events import now
from kdstudio.models.pictures import keep, picture_at, with_pictures
from kdstudio.project.content import Kind, NewPreference, NewPrompt, NewResponse
from kdstudio.project.dataset import export_file
from kdstudio.project.format_readers import Item, checked
from kdstudio.project.formats import FORMATS, detect_record
from kdstudio.project.project import Project
from kdstudio.project.records import Record, layout_of, records
from kdstudio.project.text_source import UnusableError, encoding_of

__all__ = [
    "FORMATS",
    "Detected",
    "ImportReport",
    "Item",
    "columns_of",
    "detect",
    "export_file",
    "import_file",
    "report_as_dict",
]
_BATCH = 2000
_PREVIEW = 8
_LOOKED_AT = 1000
_REJECTED_CHARACTERS = 2000
_GROWTH = (4, 10)
"""What an import takes for each byte of its file, with the search index and the log: at least, and for short rows."""
Progress = Callable[[int, int], None]
_PAGE_HINT = "Open its address in a browser, sign in if it asks for that, and download the file itself."
_FORMATS_HINT = "Known: OpenAI messages, ShareGPT, Alpaca, prompt/completion, prompt/chosen/rejected, CSV, plain lines."


@dataclass(frozen=True)
class Detected:
    """What a file seems to be: format, encoding, the columns it has, and its first records as they would be read."""

    format: str
    encoding: str
    layout: str
    columns: tuple[str, ...]
    preview: tuple[Item, ...]
    note: str = ""


@dataclass(frozen=True)
class ImportReport:
    """What an import did. `rows` counts what is new, `duplicates` what was there before."""

    rows: int
    rejected: int
    reject_file: Path | None
    duplicates: int
    format: str
    encoding: str
    prompts: int = 0
    responses: int = 0
    preferences: int = 0


def report_as_dict(report: ImportReport) -> dict[str, Any]:
    """A report as `--json` prints it."""
    return {**asdict(report), "reject_file": str(report.reject_file) if report.reject_file else None}


def detect(path: Path, mapping: Mapping[str, str] | None = None) -> Detected:
    """Find out what a file is from its first records. Raises `BadInput` when nothing in it can be read."""
    encoding = encoding_of(path)
    layout = layout_of(path, encoding)
    name, reason = "", ""
    columns: tuple[str, ...] = ()
    items: list[Item] = []
    for record in islice(records(path, encoding, layout), _LOOKED_AT):
        try:
            value = _value(record, mapping)
            name = name or (layout if layout in ("csv", "lines") else detect_record(value))
            columns = columns or (tuple(map(str, value)) if layout != "lines" else ())
            items.append(checked(FORMATS[name].read(value)))
        except UnusableError as error:
            reason = reason or f"line {record.number}: {error}"
        if len(items) == _PREVIEW:
            break
    if not items:
        if _is_web_page(path):
            raise BadInput("This is a web page", f"{path}: the download saved a page instead of the data.", _PAGE_HINT)
        why = reason or "it has no records"
        raise BadInput("Nothing in this file can be imported", f"{path}: {why}.", _FORMATS_HINT)
    note = "Read as Windows-1252 (Latin-1): it is not UTF-8." if encoding == "cp1252" else ""
    return Detected(name, encoding, layout, columns, tuple(items), note)


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))


def columns_of(path: Path) -> tuple[str, ...]:
    """The keys of a file's first usable record, for mapping a file whose names we do not know; none for plain lines."""
    encoding = encoding_of(path)
    layout = layout_of(path, encoding)
    for record in islice(records(path, encoding, layout) if layout != "lines" else (), _LOOKED_AT):
        if not record.fault and isinstance(record.value, dict):
            return tuple(map(str, record.value))
    return ()


def import_file(
    project: Project,
    path: Path,
    *,
    kind: Kind | None = None,
    mapping: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Import a file into a project. `kind` "prompt" leaves answers out; "response" and "preference" require them.

    `mapping` is ours -> theirs, for example {"prompt": "question"}. What cannot be read goes, with line and reason, to
    a file in the project's rejects/ folder. `progress` gets (done, total) bytes, and may raise to give the import up.
    Raises `BadInput` when nothing can be read, or a mapped column is nowhere, and `KnownError` when the disk is full;
    then nothing is changed.
    """
    found = detect(path, mapping)
    total = path.stat().st_size
    files.require_space(project.folder, _GROWTH[0] * total, "The import")
    read = FORMATS[found.format].read
    intake, unseen = _Intake(project, path.name), set((mapping or {}).values())
    with _whole(project, _GROWTH[1] * total) as undo, contextlib.ExitStack() as stack:
        rejects = _Rejects(project.folder / "rejects", path, stack)
        undo.callback(rejects.path.unlink, missing_ok=True)
        for count, record in enumerate(records(path, found.encoding, found.layout), start=1):
            unseen.difference_update(record.value if unseen and isinstance(record.value, dict) else ())
            try:
                item = _with_kept_pictures(checked(read(_value(record, mapping))), project.folder, path.parent)
                intake.add(item if kind is None else _fit(item, kind))
            except UnusableError as error:
                rejects.add(record, str(error))
            if progress is not None and count % _BATCH == 0:
                progress(min(record.position, total), total)
        if unseen:
            missing = f"{path} has no {', '.join(sorted(unseen))}."
            raise BadInput("There is no such column", missing, _columns_hint(found))
        intake.store()
    rows = {"prompt": intake.prompts, "response": intake.responses, "preference": intake.preferences}
    counted = rows[kind] if kind else intake.responses or intake.preferences or intake.prompts
    return ImportReport(
        rows=counted,
        rejected=rejects.count,
        reject_file=rejects.path if rejects.count else None,
        duplicates=intake.seen - counted,
        format=found.format,
        encoding=found.encoding,
        prompts=intake.prompts,
        responses=intake.responses,
        preferences=intake.preferences,
    )


@contextlib.contextmanager
def _whole(project: Project, needed: int) -> Iterator[contextlib.ExitStack]:
    """One transaction; what it yields is called back if it fails. Says how much of `needed` a full disk lacks."""
    try:
        with contextlib.ExitStack() as undo:
            with project.transaction():
                yield undo
            undo.pop_all()
    except KnownError as error:
        if error.title != files.FULL:
            raise
        raise files.disk_full(project.database_path, needed) from error


def _columns_hint(found: Detected) -> str:
    return f"It has: {', '.join(found.columns[:20])}." if found.columns else "Plain lines have no columns to map."


class _Rejects:
    """The reject file: made when the first line is rejected, kept only if the import succeeds."""

    def __init__(self, folder: Path, source: Path, stack: contextlib.ExitStack) -> None:
        self.path = folder / f"{files.safe_name(source.stem)}-{now().translate({58: None, 46: None})}.rejected.jsonl"
        self.count = 0
        self._stack = stack
        self._stream: IO[str] | None = None

    def add(self, record: Record, reason: str) -> None:
        """Write a record with its line and the reason."""
        if self._stream is None:
            self._stream = self._stack.enter_context(files.atomic_file(self.path, "w"))
        text = record.raw or ("" if record.value is None else json.dumps(record.value))
        line = {"line": record.number, "reason": reason, "text": text[:_REJECTED_CHARACTERS]}
        self._stream.write(json.dumps(line) + "\n")
        self.count += 1


class _Intake:
    """Takes items into the project by the batch, and counts what was new."""

    def __init__(self, project: Project, source: str) -> None:
        self._rows = project.rows
        self._source = source
        self._batch: list[Item] = []
        self.seen = self.prompts = self.responses = self.preferences = 0

    def add(self, item: Item) -> None:
        """Take one item."""
        self._batch.append(item)
        if len(self._batch) >= _BATCH:
            self.store()

    def store(self) -> None:
        """Write what was taken: prompts first, then what belongs to them."""
        batch, self._batch, source = self._batch, [], self._source
        self.seen += len(batch)
        ids, new = self._rows.put_prompts(
            [NewPrompt(item.messages, item.tags, item.reference, source, extras=item.extras) for item in batch]
        )
        self.prompts += new
        pairs = list(zip(ids, batch, strict=True))
        answers = [
            NewResponse(number, item.response, item.reasoning, item.message, finish_reason="stop", source=source)
            for number, item in pairs
            if item.response is not None
        ]
        if answers:
            self.responses += self._rows.add_responses(answers)
        ranked = [
            NewPreference(number, item.candidates, item.scores, source=source)
            for number, item in pairs
            if item.candidates
        ]
        if ranked:
            self.preferences += self._rows.add_preferences(ranked)


def _value(record: Record, mapping: Mapping[str, str] | None) -> dict[str, Any]:
    """A record's object, with the columns under our names. Raises `UnusableError` when it cannot be used."""
    if record.fault:
        raise UnusableError(record.fault)
    value = record.value
    if not isinstance(value, dict):
        raise UnusableError("it is not a JSON object")
    return value | {ours: value[theirs] for ours, theirs in mapping.items() if theirs in value} if mapping else value


def _with_kept_pictures(item: Item, project_folder: Path, beside: Path) -> Item:
    """Take an item's pictures into the project: those written out in the row, and files below the imported file's.

    Only there, and only pictures: a file of rows from elsewhere must not name what else this machine holds. Addresses
    on the network stay, and so does what is written out in a form that teachers do not see. Raises `UnusableError` for
    a file that is no picture, or too large.
    """

    def kept(address: str) -> str:
        try:
            if address.startswith("data:"):
                return _kept_data(address, project_folder)
            file = (beside / address).resolve()
            is_here = not address.startswith(("http://", "https://")) and file.is_relative_to(beside.resolve())
            return keep(project_folder, file.read_bytes()) if is_here and file.is_file() else address
        except BadInput as error:
            raise UnusableError(f"{error.title}: {error.detail}") from error
        except (OSError, ValueError):
            return address

    messages = with_pictures(item.messages, kept)
    return item if messages == item.messages else replace(item, messages=messages)


def _kept_data(address: str, project_folder: Path) -> str:
    try:
        return keep(project_folder, picture_at(address, None).data)
    except BadInput:
        return address


def _fit(item: Item, kind: Kind) -> Item:
    """Keep of an item what was asked for. Raises `UnusableError` when it lacks that."""
    if kind == "prompt":
        return replace(item, response=None, reasoning="", candidates=[], scores=[], message={})
    if kind == "response" and item.response is None:
        raise UnusableError("it has no response")
    if kind == "preference" and not item.candidates:
        raise UnusableError("it has no chosen and rejected answers")
    return item
