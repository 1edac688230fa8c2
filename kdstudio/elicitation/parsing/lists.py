"""The entries of a list that a model wrote: a JSON array, numbered, bulleted, or set apart by blank lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdstudio.elicitation.parsing.base import UnparsableError
from kdstudio.elicitation.parsing.structured import as_text, json_objects

_MARK = re.compile(
    r"([ \t]*)(?:#{1,6} )?([*_]{2}(?=[\dA-Za-z#]))?"
    r"(?:(?:(?:question|instruction|task|step|example|prompt|item|problem|query|q)[ \t]*)?"
    r"[#(\[]?(\d{1,4})[ \t]?(?:[.):\]]{1,2}|-(?=\s))|([-*+•·–‣◦▪])(?=\s|$))"
    r"([*_]{2})?(?=[\s\"'“«(]|$|[^\W\d])[ \t]*",
    re.IGNORECASE,
)
_FENCE = re.compile(r"[ \t]*(?:```|~~~)")
_RULE = re.compile(r"[ \t]*([-*_#=])\1{2,}[ \t]*")
_ARRAY = re.compile(r"^[ \t]*\[", re.MULTILINE)
_AFTER_ARRAY = re.compile(r"\][ \t]*(?:\n|$|```)")
_SPACE = re.compile(r"\s*")
_ARRAYS_TRIED = 20
_QUOTES = {'"': '"', "“": "”", "'": "'", "«": "»", "„": "“"}


def parse_list(answer: str, names: Sequence[str], finished: bool = True) -> dict[str, Any]:
    """The entries, as strings, under the first name.

    The first of these forms that the answer has: a JSON array at the beginning of a line, or an object with one; a
    numbered or bulleted list, nested lists and paragraphs staying with their entry; blocks between blank lines; lines.
    What comes before the list, and a remark after it, are left out. Of a cut answer the entry at the end is dropped.
    """
    text = _unfenced(answer.strip())
    ended = finished or answer.rstrip(" \t").endswith("\n")
    entries = _json_array(text, names[0])
    if entries is None:
        entries = _marked(text, ended)
    if entries is None:
        entries = _blocks(text, ended)
    whole = [plain for entry in entries if (plain := _unquoted(entry))]
    if not whole:
        raise UnparsableError("the answer holds no list" if finished else "the answer holds no whole entry of a list")
    return {names[0]: whole}


def _unfenced(text: str) -> str:
    """A list that is wholly in a code block, without the fences."""
    if not _FENCE.match(text):
        return text
    _, _, inside = text.partition("\n")
    return inside.rstrip().removesuffix("```").removesuffix("~~~").rstrip()


def _unquoted(entry: str) -> str:
    entry = entry.strip()
    inside = entry[1:-1]
    closing = _QUOTES.get(entry[:1])
    quoted = len(entry) > 2 and closing is not None and entry.endswith(closing) and closing not in inside
    return inside.strip() if quoted else entry


# --------------------------------------------------------------------------------------------------------------- JSON
def _json_array(text: str, name: str) -> list[str] | None:
    for number, found in enumerate(_ARRAY.finditer(text)):
        if number == _ARRAYS_TRIED:
            break
        if elements := _elements(text, found.end()):
            return elements
    if text.startswith("{"):
        for value in json_objects(text):
            lists = [inner for inner in value.values() if isinstance(inner, list)]
            chosen = value.get(name) if len(lists) != 1 else lists[0]
            return [as_text(entry) for entry in chosen] if isinstance(chosen, list) else None
    return None


def _elements(text: str, place: int) -> list[str]:
    """The elements of the array that begins at `place`, read one by one: of a half array, those that are whole.

    None, when it is no list's array but a mark such as [1] or [note].
    """
    decoder, found, closed = json.JSONDecoder(strict=False), list[Any](), False
    while True:
        place = _after_space(text, place)
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            break
        place = _after_space(text, end)
        if place == len(text) and isinstance(value, int | float):
            break  # the rest of the number may be missing
        found.append(value)
        closed = _AFTER_ARRAY.match(text, place) is not None
        if not text.startswith(",", place):
            break
        place += 1
    sure = closed or bool(found and isinstance(found[0], str | dict)) or _after_space(text, place) == len(text)
    return [as_text(value) for value in found] if sure else []


def _after_space(text: str, place: int) -> int:
    space = _SPACE.match(text, place)
    return space.end() if space else place


# -------------------------------------------------------------------------------------------------------------- marks
@dataclass
class _Entry:
    lines: list[str]
    after: list[str] = field(default_factory=list)  # from the first paragraph that is not indented


def _marked(text: str, ended: bool) -> list[str] | None:
    """The entries of a list whose first mark says how the others look; None without any mark."""
    entries: list[_Entry] = []
    kind, indent, blank = "", 0, False
    for line, fenced in _lines(text):
        mark = None if fenced else _MARK.match(line)
        this = "" if mark is None else mark[4] or "number"
        if mark and (not entries or (this == kind and len(mark[1]) <= indent + 1)):
            if not entries:
                kind, indent = this, len(mark[1])
            entries.append(_Entry([_rest(line, mark)]))
        elif entries:
            last = entries[-1]
            outside = blank and not fenced and mark is None and bool(line.strip()) and not line[:1].isspace()
            (last.after if outside or last.after else last.lines).append(line)
        blank = not line.strip()
    return _texts(entries, ended) if entries else None


def _rest(line: str, mark: re.Match[str]) -> str:
    """The line after its mark; a bold sign that was opened before the mark is closed nowhere else then."""
    rest = line[mark.end() :]
    return rest.replace(mark[2], "", 1) if mark[2] and not mark[5] else rest


def _texts(entries: list[_Entry], ended: bool) -> list[str]:
    """A remark after the last entry is no part of it, unless the others have such paragraphs too."""
    *others, last = entries
    paragraphs = any(entry.after for entry in others)
    if last.after and not paragraphs:
        last.after, ended = [], True
    kept = entries if ended else others
    return ["\n".join([*entry.lines, *entry.after]).strip() for entry in kept]


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it is code: inside a fence, or one."""
    inside = False
    for line in text.split("\n"):
        fence = _FENCE.match(line) is not None
        yield line, inside or fence
        inside ^= fence


# ------------------------------------------------------------------------------------------------------------- blocks
def _blocks(text: str, ended: bool) -> list[str]:
    blocks: list[list[str]] = [[]]
    for line, fenced in _lines(text):
        if fenced or (line.strip() and not _RULE.fullmatch(line)):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    entries = ["\n".join(block) for block in blocks if block]
    if len(entries) == 1:
        entries = [line for line in entries[0].split("\n") if line.strip()]
    if len(entries) > 1 and entries[0].rstrip().endswith(":"):
        entries = entries[1:]
    return entries if ended else entries[:-1]
