"""The records of a file, whatever its layout: JSONL, one JSON value (an array or several values), CSV, plain lines.

Every record comes with its line and, if it cannot be used, the reason. A file is never held in memory as a whole.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kdstudio.errors import BadInput
from kdstudio.project.content import text_fault
from kdstudio.project.text_source import JSON_SUFFIXES, MAXIMUM_LINE, TOO_LONG, UnusableError, open_text, read_lines

MAXIMUM_DEPTH = 64
_BLOCK = 1 << 20
_SHOWN = 2000


@dataclass(slots=True)
class Record:
    """A record with its place in the file (line; `position`: bytes read); `fault` says why it cannot be used."""

    number: int
    value: Any
    fault: str = ""
    raw: str = ""
    position: int = 0


def layout_of(path: Path, encoding: str) -> str:
    """How the records are laid out: csv (by suffix), jsonl, json (an array or values over many lines), or lines."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return "csv"
    first = next((line for line in read_lines(path, encoding) if line.text.strip()), None)
    text = first.text.strip() if first is not None else ""
    as_json = suffix in JSON_SUFFIXES
    if text.startswith("[") and as_json:
        return "json"
    if text.startswith("{"):
        return "json" if suffix == ".json" and not _is_whole(text) else "jsonl"
    return "jsonl" if as_json else "lines"


def _is_whole(text: str) -> bool:
    try:
        parse_json(text)
    except UnusableError:
        return False
    return True


def records(path: Path, encoding: str, layout: str) -> Iterator[Record]:
    """All records of a file. Raises `BadInput` when a JSON file breaks off, or is none: it cannot be read on then."""
    if layout == "csv":
        return _csv_records(path, encoding)
    if layout == "json":
        return _json_records(path, encoding)
    return _json_lines(path, encoding) if layout == "jsonl" else _plain_lines(path, encoding)


def _plain_lines(path: Path, encoding: str) -> Iterator[Record]:
    for line in read_lines(path, encoding):
        if line.text.strip():
            yield Record(line.number, {"text": line.text}, line.fault, line.text, line.end)


def _json_lines(path: Path, encoding: str) -> Iterator[Record]:
    for line in read_lines(path, encoding):
        text = line.text
        if not text.strip():
            continue
        record = Record(line.number, None, line.fault, text, line.end)
        if not line.fault:
            try:
                record.value = parse_json(text)
                if "\\u" in text:  # the line itself is sound; only an escape can bring in what cannot be kept
                    record.fault = value_fault(record.value)
            except UnusableError as error:
                record.fault = str(error)
        yield record


# ------------------------------------------------------------------------------------------------------------- JSON
def _no_constant(name: str) -> None:
    raise UnusableError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise UnusableError(f"the number {text[:20]} is too large")
    return number


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


def parse_json(text: str) -> Any:
    """Read one JSON value. Raises `UnusableError` for what is no JSON by the rules: NaN, too deep, numbers too long.

    Of a key that stands twice in an object the last value counts, as everywhere.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise UnusableError(_TOO_DEEP) from None
    except json.JSONDecodeError as error:  # it counts lines within `text`; a file's own are counted elsewhere
        place = f" at character {error.pos + 1:,}" if error.pos < len(text) else " at its end"
        raise UnusableError(f"it is not valid JSON{place}: {error.msg}") from None
    except ValueError as error:
        raise UnusableError(f"it is not valid JSON: {error}") from None
    if text.count("[") + text.count("{") > MAXIMUM_DEPTH and _is_deep(value):
        raise UnusableError(_TOO_DEEP)
    return value


_TOO_DEEP = f"it is nested deeper than {MAXIMUM_DEPTH} levels"


def _is_deep(value: Any) -> bool:
    """Whether lists and objects stand more than `MAXIMUM_DEPTH` deep in each other."""
    level = [value]
    for _ in range(MAXIMUM_DEPTH):
        inside: list[Any] = []
        for entry in level:
            if isinstance(entry, dict):
                inside += entry.values()
            elif isinstance(entry, list):
                inside += entry
        level = inside
    return any(isinstance(entry, dict | list) for entry in level)


def value_fault(value: Any) -> str:
    """Why some text in a JSON value, keys included, cannot be kept; "" if all can."""
    waiting = [value]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, dict):
            waiting += entry.keys()
            waiting += entry.values()
        elif isinstance(entry, list):
            waiting += entry
        elif isinstance(entry, str) and (fault := text_fault(entry)):
            return fault
    return ""


def _json_records(path: Path, encoding: str) -> Iterator[Record]:
    with open_text(path, encoding) as stream:
        for number, value, end in _JSONValues(path, stream):
            fault = _TOO_DEEP if _is_deep(value) else value_fault(value)
            yield Record(number, value, fault, "", end)


class _JSONValues:
    """The entries of a JSON array, or JSON values after each other, as (line, value, characters read)."""

    def __init__(self, path: Path, stream: IO[str]) -> None:
        self._path = path
        self._stream = stream
        self._text = ""
        self._at = 0
        self._line = 1
        self._read = 0
        self._over = False

    def __iter__(self) -> Iterator[tuple[int, Any, int]]:
        in_array = self._peek() == "["
        self._at += in_array
        while (mark := self._peek()) not in ("", "]"):
            number = self._line
            yield number, self._value(), self._read
            mark = self._peek()
            if in_array and mark == ",":
                self._at += 1
            elif in_array and mark != "]":
                raise self._broken("a comma or the end of the list is missing" if mark else "the list does not end")
        self._at += in_array
        if self._peek():
            raise self._broken("something stands after its end")

    def _more(self) -> bool:
        """Read on, twice as much as is left over; False at the end of the file."""
        block = self._stream.read(max(_BLOCK, len(self._text) - self._at))
        self._over = not block
        self._read += len(block)
        self._text = self._text[self._at :] + block
        self._at = 0
        return not self._over

    def _peek(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            rest = self._text[self._at : self._at + 1]
            if rest and not rest.isspace():
                return rest
            if not rest and (self._over or not self._more()):
                return ""
            if rest:
                self._line += rest == "\n"
                self._at += 1

    def _value(self) -> Any:
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise self._broken(_TOO_DEEP) from None
            except UnusableError as error:
                raise self._broken(str(error)) from None
            except ValueError as error:
                if len(self._text) - self._at > MAXIMUM_LINE:
                    longest = f"{MAXIMUM_LINE >> 20} MiB"
                    raise self._broken(f"it is broken here, or an entry is longer than {longest}") from None
                if not self._more():
                    raise self._broken(str(error).partition(":")[0]) from None
            else:
                if end < len(self._text) or not self._more():  # a number at the end may go on in the next block
                    self._line += self._text.count("\n", self._at, end)
                    self._at = end
                    return value

    def _broken(self, why: str) -> BadInput:
        place = f"{self._path}, line {self._line}"
        return BadInput("The file is not valid JSON", f"{place}: {why}.", "Convert it to JSONL: one object a line.")


# -------------------------------------------------------------------------------------------------------------- CSV
def _csv_records(path: Path, encoding: str) -> Iterator[Record]:
    csv.field_size_limit(MAXIMUM_LINE)
    with open_text(path, encoding) as stream:
        head = stream.read(64 << 10)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(head)
    with open_text(path, encoding) as stream:
        lines = _BoundedLines(stream)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            number, lines.fault = reader.line_num + 1, ""
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Record(number, None, f"the CSV cannot be read: {error}", "", lines.read)
                continue
            if header is None:
                header = cells
            elif cells:
                fault = lines.fault or next((fault for cell in cells if (fault := text_fault(cell))), "")
                if len(cells) > len(header):
                    fault = f"it has {len(cells)} cells, the header {len(header)}"
                yield Record(number, dict(zip(header, cells, strict=False)), fault, "", lines.read)


class _BoundedLines:
    """Lines for the csv module, which stops at NUL and keeps whatever it gets. `fault` tells of such a line."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.read = 0
        self.fault = ""

    def __iter__(self) -> _BoundedLines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(MAXIMUM_LINE)
        self.read += len(line)
        if not line:
            raise StopIteration
        if len(line) == MAXIMUM_LINE and line[-1] not in "\r\n":
            while (rest := self._stream.readline(MAXIMUM_LINE)) and rest[-1] not in "\r\n":
                self.read += len(rest)
            self.fault = TOO_LONG
            return line[:_SHOWN].replace('"', "") + "\n"
        if "\x00" in line:
            self.fault = text_fault(line)
            return line.replace("\x00", "")
        return line


def _delimiter(head: str) -> str:
    first = head.splitlines()[0] if head else ""
    return max(",;\t", key=first.count)
