"""Reading a stranger's file line by line: which encoding it has, and which lines cannot be used and why.

The rules: a byte-order mark decides (UTF-8, UTF-16, UTF-32); without one, UTF-16 is recognised by its zero bytes, then
UTF-8 is tried, and a file (not JSON, which is always UTF-8) that is none from its first kilobytes on is read as
Windows-1252 (Latin-1), which is said. Line ends may be LF or CRLF. A line is refused when it is longer than 16 MiB,
holds NUL, or is not valid in the file's encoding.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kdstudio.errors import BadInput
from kdstudio.project.content import text_fault

MAXIMUM_LINE = 16 << 20
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
_SHOWN = 2000
_SAMPLE = 1 << 20
_CONTROLS = bytes(range(1, 9)) + bytes(range(14, 32))
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BYTEWISE = {"utf-8", "utf-8-sig", "cp1252"}
"""Encodings in which the byte 10 always ends a line."""

UNREADABLE = "\udcff"
"""Stands for bytes that the encoding does not know. It is half a character, so that `text_fault` finds it."""
_MARKING = "kdstudio.marking"


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return UNREADABLE, error.end


codecs.register_error(_MARKING, _mark)


class UnusableError(Exception):
    """A line or record that cannot be imported; the message is the reason in the reject file."""


@dataclass(slots=True)
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
    if not head.strip(b"\x00\r\n\t \xef\xbb\xbf\xff\xfe"):
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
        as_json = path.suffix.lower() in JSON_SUFFIXES  # RFC 8259: JSON is UTF-8, so that a bad line is the fault
        return "utf-8" if as_json or error.start > 4096 else "cp1252"
    return "utf-8"


def open_text(path: Path, encoding: str) -> IO[str]:
    """Open a file for reading; each unreadable byte becomes `UNREADABLE`, line ends stay as they are."""
    return path.open("r", encoding=encoding, errors=_MARKING, newline="")


def read_lines(path: Path, encoding: str) -> Iterator[SourceLine]:
    """The lines of a file, without their ends; what cannot be used comes with its fault and a cut text."""
    return _read_bytes(path, encoding) if encoding in _BYTEWISE else _read_text(path, encoding)


def _read_bytes(path: Path, encoding: str) -> Iterator[SourceLine]:
    codec, position, number = encoding.removesuffix("-sig"), 0, 0
    with path.open("rb") as stream:
        while raw := stream.readline(MAXIMUM_LINE + 1):
            number += 1
            position += len(raw)
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if len(raw) > MAXIMUM_LINE and not raw.endswith(b"\n"):
                head = raw[:_SHOWN].decode(codec, "replace")
                while raw and not raw.endswith(b"\n"):
                    raw = stream.readline(MAXIMUM_LINE)
                    position += len(raw)
                yield SourceLine(number, head, TOO_LONG, position)
                continue
            try:
                text = raw.decode(codec)
            except UnicodeDecodeError:
                text = raw.decode(codec, _MARKING)
            text = text.rstrip("\r\n")
            # Bytes that were decoded strictly hold no half characters; only NUL is left to look for.
            yield SourceLine(number, text, text_fault(text) if UNREADABLE in text or "\x00" in text else "", position)


def _read_text(path: Path, encoding: str) -> Iterator[SourceLine]:
    position, number = 0, 0
    with path.open("r", encoding=encoding, errors=_MARKING, newline="\n") as stream:
        while line := stream.readline(MAXIMUM_LINE + 1):
            number += 1
            position += len(line)
            if len(line) > MAXIMUM_LINE and not line.endswith("\n"):
                head = line[:_SHOWN]
                while line and not line.endswith("\n"):
                    line = stream.readline(MAXIMUM_LINE)
                    position += len(line)
                yield SourceLine(number, head, TOO_LONG, position)
                continue
            text = line.rstrip("\r\n")
            yield SourceLine(number, text, text_fault(text), position)


TOO_LONG = f"the line is longer than {MAXIMUM_LINE >> 20} MiB"
