"""From a journal's row to a row of the project: a journal comes from another process, perhaps another version.

Keys that this version does not know are left out; a value of the wrong type makes the row unusable, with the reason.
Characters that no database or file can hold (NUL, half of a surrogate pair) become U+FFFD: an answer that was paid for
is not thrown away over one of them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from kdstudio.project import row_values
from kdstudio.project.content import STATUSES, NewPreference, NewPrompt, NewResponse, canonical, text_fault

NewRow = NewPrompt | NewResponse | NewPreference
_CLASSES: dict[str, type[NewPrompt | NewResponse | NewPreference]] = {
    "prompt": NewPrompt,
    "response": NewResponse,
    "preference": NewPreference,
}
_TYPES: dict[str, type] = {
    **dict.fromkeys(("prompt_id", "seed", "prompt_tokens", "tokens"), int),
    **dict.fromkeys(("messages", "tags", "candidates", "scores"), list),
    **dict.fromkeys(("extras", "message", "sampling"), dict),
}
_UNFIT = re.compile("[\x00\ud800-\udfff]")
_MAXIMUM_INTEGER = (1 << 63) - 1


class UnusableRowError(Exception):
    """A journal's row that cannot be kept; the message says why."""


def prompt_fingerprint(row: Mapping[str, Any]) -> str:
    """The fingerprint, in hex, that the prompt of a journal's row will have in the project.

    Raises `UnusableRowError` when it cannot be kept.
    """
    made = new_row("prompt", row, "")
    if not isinstance(made, NewPrompt):
        raise UnusableRowError("it is no prompt")
    return row_values.prompt_fingerprint(made).hex()


def prompt_named(row: Mapping[str, Any]) -> bytes | None:
    """The fingerprint by which a row names a prompt that its run wrote; None when it names one by id.

    Raises `UnusableRowError` for what is no fingerprint.
    """
    named = row.get("prompt")
    if named is None or row.get("prompt_id"):
        return None
    try:
        return bytes.fromhex(named)
    except (TypeError, ValueError):
        raise UnusableRowError("its prompt is no fingerprint") from None


def new_row(kind: str, row: Mapping[str, Any], run: str) -> NewRow:
    """The row of an event of `run`. Raises `UnusableRowError` when it lacks or garbles what a row needs."""
    if kind not in _CLASSES:
        raise UnusableRowError(f"{kind!r} is no kind of row")
    chosen = _CLASSES[kind]
    fields = {item.name: item for item in dataclasses.fields(chosen)}
    values = {name: _value(name, row[name]) for name in fields if row.get(name) is not None}
    if "run" in fields:
        values.setdefault("run", run)
    elif run and isinstance(provenance := values.get("extras", {}).get("provenance"), dict):
        provenance.setdefault("run", run)
    required = [name for name, item in fields.items() if _required(item)]
    if missing := [name for name in required if name not in values]:
        raise UnusableRowError(f"it lacks {', '.join(missing)}")
    if values.get("status", "pending") not in STATUSES:
        raise UnusableRowError(f"{values['status']!r} is no status")
    made = chosen(**values)
    if isinstance(made, NewPreference) and not 2 <= len(made.candidates) == len(made.scores):
        raise UnusableRowError("it needs two answers or more, and a score for each")
    return made


def clean(text: str) -> str:
    """A text without the characters that cannot be kept."""
    return _UNFIT.sub("\ufffd", text) if text_fault(text) else text


def _required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _value(name: str, value: Any) -> Any:
    expected = _TYPES.get(name, str)
    if name in ("tags", "candidates") and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise UnusableRowError(f"{name!r} is not a list of texts")
    if name == "scores" and not (isinstance(value, list) and all(_is_score(one) for one in value)):
        raise UnusableRowError(f"{name!r} is not a list of finite numbers")
    if not isinstance(value, expected) or isinstance(value, bool):
        raise UnusableRowError(f"{name!r} is not a {expected.__name__}")
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int):
        if abs(value) > _MAXIMUM_INTEGER:
            raise UnusableRowError(f"{name!r} is too large")
        return value
    return json.loads(clean(canonical(value)))
