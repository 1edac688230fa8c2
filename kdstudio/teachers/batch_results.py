"""Which line of a batch's results belongs to which question, whatever order they came in and whatever became of them.

No line is taken for a question that it may not belong to: two lines of one name tell nothing, since one of them must be
another question's. What belongs to nobody is kept all the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import IO

from kdstudio.teachers.batch_wire import line_of, name_in

_NAME = re.compile(rb"[0-9a-f]{32}")


@dataclass(frozen=True)
class ResultLine:
    """A line as it came; `number` counts from 1, `name` is "" for one that belongs to no question of the batch."""

    number: int
    name: str
    raw: str


def result_lines(file: IO[bytes], names: Collection[str]) -> Iterator[ResultLine]:
    """All lines that hold anything, in order; the file is read twice. A line that came twice is given once."""
    lines: dict[str, set[int]] = {}
    for raw in _lines(file):
        lines.setdefault(_name_of(raw, names), set()).add(hash(raw))
    seen = Counter[str]()
    for number, raw in enumerate(_lines(file), 1):
        name = _name_of(raw, names)
        told = name if len(lines[name]) == 1 else ""
        seen[told] += 1
        if not told or seen[told] == 1:
            yield ResultLine(number, told, raw.decode("utf-8", "replace"))


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    return (line for raw in file if (line := raw.strip()))


def _name_of(raw: bytes, names: Collection[str]) -> str:
    """The one name of ours that a line carries; a broken line may still hold it somewhere."""
    line = line_of(raw)
    found = {name_in(line)} if line else {name.decode() for name in _NAME.findall(raw)}
    ours = {name for name in found if name in names}
    return ours.pop() if len(ours) == 1 else ""
