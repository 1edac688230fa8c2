"""The search box's small language: words to find, and `tag:`, `teacher:`, `run:`, `differs:`, `status:` to narrow."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kdstudio.project.content import STATUSES

_NARROWED = re.compile(r'(?<!\S)(tag|teacher|run|differs|status):(?:"([^"]*)"|(\S*))')


@dataclass(frozen=True)
class Filter:
    """What a person typed, taken apart. `fault` says what cannot be meant; the rest still holds."""

    search: str = ""
    tag: str = ""
    teacher: str = ""
    run: str = ""
    differs: str = ""
    status: str = ""
    fault: str = ""


def read_filter(text: str) -> Filter:
    """`fox tag:held_out teacher:"My teacher"` -> its parts. The last of two equal keys counts."""
    found: dict[str, str] = {}
    for match in _NARROWED.finditer(text):
        found[match[1]] = match[2] if match[2] is not None else match[3]
    fault = ""
    status = found.get("status", "")
    if status and status not in STATUSES:
        fault = f"There is no status {status!r}: {', '.join(STATUSES)}."
        found["status"] = ""
    search = " ".join(_NARROWED.sub(" ", text).split())
    tag, teacher, run, differs = (found.get(key, "") for key in ("tag", "teacher", "run", "differs"))
    return Filter(search, tag, teacher, run, differs, found.get("status", ""), fault)
