"""Reading a stranger's file line by line: which encoding it has, and which lines cannot be used and why.

The rules: a byte-order mark decides (UTF-8, UTF-16, UTF-32); without one, UTF-16 is recognised by its zero bytes, then
UTF-8 is tried, and a CSV or text file that is no UTF-8 from its first kilobytes on is read as Windows-1252 (Latin-1),
which is said. Line ends may be LF or CRLF. A line is refused when it is longer than 16 MiB, holds NUL, or is not valid
in the file's encoding.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdstudio.errors import BadInput

MAXIMUM_LINE = 16 << 20
MAXIMUM_DEPTH = 64
MAXIMUM_ARRAY_FILE = 1 << 30
_SAMPLE = 1 << 20
_CONTROLS = bytes(range(1, 9)) + bytes(range(14, 32))
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class UnusableError(Exception):
    """A line or record that cannot be imported; the message is the reason in the reject file."""


@dataclass(frozen=True)
class SourceLine:
    """One line of a file. `fault` is why it cannot be used ("" if it can); `end` is about the byte after it."""

    number: int
    text: str
    fault: str
    end: int


def encoding_of(path: Path) -> str:
    """The encoding of a file by the rules above. Raises `BadInput` for one that is missing, empty or binary."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_SAMPLE)
    except OSError as error:
        raise BadInput("The file cannot be read", f"{path}: {error.strerror}.", "Check the path.") from error
    if not head.strip(b"\x00\r\n\t \xef\xbb\xbf"):
        raise BadInput("The file is empty", f"{path} holds no text.", "Choose another file.")
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if max(even, odd) > len(head) // 5 and min(even, odd) < len(head) // 50:
        return "utf-16-le" if odd > even else "utf-16-be"
    controls = len(head) - len(head.translate(None, _CONTROLS))
    if even + odd > len(head) // 20 or controls > len(head) // 20:
        raise BadInput("This is not a text file", f"{path} holds binary data.", "Import JSONL, CSV or plain text.")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        as_json = path.suffix.lower() in (".json", ".jsonl")  # RFC 8259: JSON is UTF-8, so that a bad line is the fault
        return "utf-8" if as_json or error.start > 4096 else "cp1252"
    return "utf-8"


def read_lines(path: Path, encoding: str) -> Iterator[SourceLine]:
    """The lines of a file, without their ends; what cannot be used comes with its fault and a cut text."""
    position = 0
    with path.open("r", encoding=encoding, errors="surrogateescape", newline="\n") as stream:
        number = 0
        while line := stream.readline(MAXIMUM_LINE + 1):
            number += 1
            position += len(line)
            if len(line) > MAXIMUM_LINE and not line.endswith("\n"):
                head = line[:2000]
                while line and not line.endswith("\n"):
                    line = stream.readline(MAXIMUM_LINE)
                    position += len(line)
                yield SourceLine(number, head, f"the line is longer than {MAXIMUM_LINE >> 20} MiB", position)
                continue
            text = line.rstrip("\r\n")
            yield SourceLine(number, text, text_fault(text), position)


def text_fault(text: str) -> str:
    """Why a text cannot be kept; "" if it can."""
    if "\x00" in text:
        return "it holds a NUL character"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return "it is not valid text in the file's encoding, or holds half a character (a lone surrogate)"
    return ""


def parse_record(text: str) -> Any:
    """Read one JSON value. Raises `UnusableError` for what is no JSON by the rules: NaN, too deep, numbers too long.

    Of a key that stands twice in an object the last value counts, as everywhere.
    """
    if text.count("[") + text.count("{") > MAXIMUM_DEPTH and _depth(text) > MAXIMUM_DEPTH:
        raise UnusableError(f"it is nested deeper than {MAXIMUM_DEPTH} levels")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise UnusableError("it is nested too deeply") from None
    except ValueError as error:
        raise UnusableError(f"it is not valid JSON: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _depth(text: str) -> int:
    """Deepest nesting of brackets outside strings."""
    deepest = level = 0
    for match in _TOKENS.finditer(text):
        token = match.group()
        if token in ("[", "{"):
            level += 1
            deepest = max(deepest, level)
        elif token in ("]", "}"):
            level -= 1
    return deepest


_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')
