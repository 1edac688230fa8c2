"""What a step did to a row, short enough to show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAXIMUM_CHARACTERS = 2_000  # of one value


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """The columns that a step wrote, as text."""
    return {
        name: shown(value)
        for name, value in after.items()
        if name not in before or (before[name] is not value and before[name] != value)
    }


def shown(value: Any) -> str:
    """A value as text, cut."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAXIMUM_CHARACTERS else f"{text[: MAXIMUM_CHARACTERS - 1]}…"
