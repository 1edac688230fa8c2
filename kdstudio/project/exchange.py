"""Rows in and out: import with detection, preview and a line-numbered reject file; export to the usual formats.

An import is streamed and one transaction: it happens whole or not at all.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from kdstudio import files
from kdstudio.errors import BadInput
from kdstudio.jobs.events import now
from kdstudio.project.content import Kind, NewPreference, NewPrompt, NewResponse, Preference, Prompt, Response
from kdstudio.project.formats import FORMATS, Item, checked, detect_record
from kdstudio.project.project import Project
from kdstudio.project.text_source import (
    MAXIMUM_ARRAY_FILE,
    MAXIMUM_LINE,
    UnusableError,
    encoding_of,
    parse_record,
    read_lines,
)

__all__ = ["FORMATS", "Detected", "ImportReport", "columns_of", "detect", "export_file", "import_file"]
_BATCH = 2000
_PREVIEW = 8
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Detected:
    """What a file seems to be: format, encoding, the columns it has, and its first records as they would be read."""

    format: str
    encoding: str
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


@dataclass
class _Record:
    """A record with its place in the file; `value` is None where `fault` says why."""

    number: int
    value: Any
    fault: str = ""
    raw: str = ""
    position: int = 0


@dataclass
class _Tally:
    prompts: int = 0
    responses: int = 0
    preferences: int = 0
    seen: int = 0
    rejected: int = 0
    rejects: IO[str] | None = field(default=None, repr=False)


def detect(path: Path, mapping: Mapping[str, str] | None = None) -> Detected:
    """Find out what a file is from its first records. Raises `BadInput` when nothing in it can be read."""
    encoding = encoding_of(path)
    shape = _shape(path, encoding)
    name, reason = "", "it has no records"
    columns: tuple[str, ...] = ()
    items: list[Item] = []
    for record in islice(_records(path, encoding, shape), 50):
        try:
            value = _usable(record)
            value = _mapped(value, mapping)
            name = name or (shape if shape in ("csv", "lines") else detect_record(value))
            columns = columns or (tuple(map(str, value)) if shape != "lines" else ())
            items.append(checked(FORMATS[name].read(value)))
        except UnusableError as error:
            reason = f"line {record.number}: {error}"
        if len(items) == _PREVIEW:
            break
    if not items:
        raise BadInput("Nothing in this file can be imported", f"{path}: {reason}.", _FORMATS_HINT)
    note = "Read as Windows-1252 (Latin-1): it is not UTF-8." if encoding == "cp1252" else ""
    return Detected(name, encoding, columns, tuple(items), note)


def columns_of(path: Path) -> tuple[str, ...]:
    """The keys of a file's first usable record, for mapping a file whose names we do not know; none for plain lines."""
    encoding = encoding_of(path)
    shape = _shape(path, encoding)
    for record in islice(_records(path, encoding, shape) if shape != "lines" else (), 50):
        if not record.fault and isinstance(record.value, dict):
            return tuple(map(str, record.value))
    return ()


_FORMATS_HINT = "Known: OpenAI messages, ShareGPT, Alpaca, prompt/completion, prompt/chosen/rejected, CSV, plain lines."


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
    Raises `BadInput` when nothing can be read; then nothing is changed.
    """
    found = detect(path, mapping)
    reject_file = project.folder / "rejects" / f"{files.safe_name(path.stem)}-{now()[:19].replace(':', '')}.jsonl"
    reader = FORMATS[found.format].read
    tally, total = _Tally(), path.stat().st_size
    with contextlib.ExitStack() as stack:
        stack.enter_context(project.transaction())
        tally.rejects = stack.enter_context(files.atomic_file(reject_file, "w"))
        batch: list[Item] = []
        for record in _records(path, found.encoding, _shape(path, found.encoding)):
            try:
                batch.append(_fit(checked(reader(_mapped(_usable(record), mapping))), kind))
            except UnusableError as error:
                _reject(tally, record, str(error))
            if len(batch) >= _BATCH:
                _store(project, batch, path.name, tally)
                batch = []
                if progress is not None:
                    progress(min(record.position, total), total)
        _store(project, batch, path.name, tally)
    if not tally.rejected:
        reject_file.unlink(missing_ok=True)
    rows = {"prompt": tally.prompts, "response": tally.responses, "preference": tally.preferences}
    counted = rows[kind] if kind else tally.responses or tally.preferences or tally.prompts
    return ImportReport(
        rows=counted,
        rejected=tally.rejected,
        reject_file=reject_file if tally.rejected else None,
        duplicates=tally.seen - counted,
        format=found.format,
        encoding=found.encoding,
        prompts=tally.prompts,
        responses=tally.responses,
        preferences=tally.preferences,
    )


def _reject(tally: _Tally, record: _Record, reason: str) -> None:
    tally.rejected += 1
    if tally.rejects is not None:
        line = {"line": record.number, "reason": reason, "text": record.raw[:2000]}
        tally.rejects.write(json.dumps(line) + "\n")


def _usable(record: _Record) -> Any:
    if record.fault:
        raise UnusableError(record.fault)
    if not isinstance(record.value, dict):
        raise UnusableError("it is not a JSON object")
    return record.value


def _mapped(value: Mapping[str, Any], mapping: Mapping[str, str] | None) -> Mapping[str, Any]:
    if not mapping:
        return value
    return {**value, **{ours: value[theirs] for ours, theirs in mapping.items() if theirs in value}}


def _fit(item: Item, kind: Kind | None) -> Item:
    """Keep of an item what was asked for. Raises `UnusableError` when it lacks that."""
    if kind == "prompt":
        return replace(item, response=None, reasoning="", candidates=[], scores=[])
    if kind == "response" and item.response is None:
        raise UnusableError("it has no response")
    if kind == "preference" and not item.candidates:
        raise UnusableError("it has no chosen and rejected answers")
    return item


def _store(project: Project, batch: list[Item], source: str, tally: _Tally) -> None:
    """Write a batch: prompts first, then what belongs to them."""
    if not batch:
        return
    tally.seen += len(batch)
    prompts = [NewPrompt(item.messages, item.tags, item.reference, source) for item in batch]
    ids, new = project.rows.put_prompts(prompts)
    tally.prompts += new
    pairs = list(zip(ids, batch, strict=True))
    tally.responses += project.rows.add_responses(
        NewResponse(number, item.response, item.reasoning, finish_reason="stop", source=source)
        for number, item in pairs
        if item.response is not None
    )
    tally.preferences += project.rows.add_preferences(
        NewPreference(number, item.candidates, item.scores, source=source) for number, item in pairs if item.candidates
    )


def _shape(path: Path, encoding: str) -> str:
    """How the records are laid out: csv, lines, array or jsonl; by suffix for CSV, else by the first character."""
    if path.suffix.lower() in (".csv", ".tsv"):
        return "csv"
    first = next((line.text.strip() for line in read_lines(path, encoding) if line.text.strip()), "")
    if first.startswith("{"):
        return "jsonl"
    if first.startswith("[") and path.suffix.lower() in (".json", ".jsonl"):
        return "array"
    return "jsonl" if path.suffix.lower() in (".jsonl", ".json") else "lines"


def _records(path: Path, encoding: str, shape: str) -> Iterator[_Record]:
    if shape == "csv":
        yield from _csv_records(path, encoding)
    elif shape == "array":
        yield from _array_records(path, encoding)
    else:
        yield from _line_records(path, encoding, as_json=shape == "jsonl")


def _line_records(path: Path, encoding: str, *, as_json: bool) -> Iterator[_Record]:
    for line in read_lines(path, encoding):
        if not line.text.strip():
            continue
        record = _Record(line.number, {"text": line.text}, line.fault, line.text, line.end)
        if as_json and not line.fault:
            try:
                record.value = parse_record(line.text)
            except UnusableError as error:
                record.fault = str(error)
        yield record


def _array_records(path: Path, encoding: str) -> Iterator[_Record]:
    """A JSON array as one value. Numbers count entries, since an array has no lines of its own."""
    if path.stat().st_size > MAXIMUM_ARRAY_FILE:
        raise BadInput(
            "The file is too large for one JSON value", f"{path}.", "Convert it to JSONL: one object a line."
        )
    try:
        values = parse_record(path.read_text(encoding, "surrogateescape"))
    except UnusableError as error:
        raise BadInput(
            "The file is not valid JSON", f"{path}: {error}.", "Convert it to JSONL: one object a line."
        ) from error
    for number, value in enumerate(values if isinstance(values, list) else [values], start=1):
        yield _Record(number, value, "", json.dumps(value)[:2000])


def _csv_records(path: Path, encoding: str) -> Iterator[_Record]:
    csv.field_size_limit(MAXIMUM_LINE)
    with path.open("r", encoding=encoding, errors="surrogateescape", newline="") as stream:
        head = stream.read(64 << 10)
        stream.seek(0)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(head)
        reader = csv.DictReader(_without_nul(stream), delimiter=delimiter)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield _Record(reader.line_num, None, f"the CSV cannot be read: {error}")
                continue
            fault = "it has more cells than the header" if None in row else ""
            yield _Record(reader.line_num, row, fault, json.dumps(row, default=str)[:2000])


def _without_nul(stream: IO[str]) -> Iterator[str]:
    """Python's csv module stops at NUL; the row keeps a mark, so that it is rejected by the same rule as elsewhere."""
    return (line.replace("\x00", "\udc00") for line in stream)


def _delimiter(head: str) -> str:
    first = head.splitlines()[0] if head else ""
    return max(",;\t", key=first.count)


def export_file(
    project: Project, out: Path, format_name: str, *, kind: Kind = "response", status: str = "accepted"
) -> int:
    """Write rows of one kind to a file, atomically; returns how many. `status` "" takes all.

    Raises `BadInput` for a format that cannot hold that kind of row.
    """
    chosen = FORMATS[format_name]
    if (format_name == "preference") != (kind == "preference") and not (format_name == "csv" and kind == "preference"):
        raise BadInput("This format does not fit", f"{chosen.label} does not hold {kind}s.", "Choose another format.")
    count = 0
    rows = _rows(project, kind, status)
    with files.atomic_file(out, "w") as stream:
        if format_name == "csv":
            return _write_csv(stream, (chosen.write(*row) for row in rows))
        for row in rows:
            record = chosen.write(*row)
            stream.write((record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)) + "\n")
            count += 1
    return count


def _write_csv(stream: IO[str], records: Iterable[Any]) -> int:
    columns = ["system", "prompt", "completion", "reasoning", "chosen", "rejected", "tags", "reference"]
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\r\n")
    writer.writeheader()
    count = 0
    for record in records:
        writer.writerow(record)
        count += 1
    return count


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


def report_as_dict(report: ImportReport) -> dict[str, Any]:
    """A report as `--json` prints it."""
    return {**asdict(report), "reject_file": str(report.reject_file) if report.reject_file else None}
