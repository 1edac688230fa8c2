"""Numbers and times as a person reads them, the same on every page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdstudio.errors import KnownError

THIN_SPACE = "\u202f"
KINDS = {
    "elicit": "Asking the teacher",
    "signals": "Storing teacher signals",
    "train": "Training",
    "evaluate": "Evaluating",
    "export": "Exporting",
    "fetch_sample": "Getting the sample teacher",
    "probe": "Testing a teacher",
}
"""What a job of that kind is doing, in the person's words."""


def kind_words(kind: str) -> str:
    """What a job of that kind is doing."""
    return KINDS.get(kind, kind.replace("_", " ").capitalize())


def short_path(path: Path | str) -> str:
    """A path as a person reads it: `~/Documents/x`."""
    home, text = str(Path.home()), str(path)
    return f"~{text[len(home) :]}" if text == home or text.startswith(home + os.sep) else text


def told(error: KnownError) -> str:
    """An error in one run of sentences: its title, what happened, what to do."""
    parts = (error.title, error.detail, error.hint)
    return " ".join(part if part[-1] in ".!?…" else f"{part}." for part in map(str.strip, parts) if part)


def number(value: float) -> str:
    """`12345` -> `12 345` (thin space)."""
    return f"{value:,.0f}".replace(",", THIN_SPACE)


def speed(rate: float) -> str:
    """`12.5 tokens/s`, `1 204 tokens/s`."""
    return f"{number(rate) if rate >= 100 else f'{rate:.1f}'} tokens/s"


def plural(count: int, noun: str) -> str:
    """`1 row`, `5 000 rows`."""
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def short_number(value: float) -> str:
    """`134515008` -> `134.5M`: counts of parameters and tokens."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """`95` -> `1 min 35 s`, to the precision that matters."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def ago(timestamp: str) -> str:
    """A UTC time of ISO 8601 as `just now`, `5 min ago`, `yesterday`, or its date."""
    try:
        then = datetime.fromisoformat(timestamp)
    except ValueError:
        return ""
    seconds = (datetime.now(UTC) - then).total_seconds()
    if seconds < 60:
        return "just now"
    if seconds < 86400:
        return f"{duration(seconds // 60 * 60 if seconds < 3600 else seconds // 3600 * 3600)} ago"
    return "yesterday" if seconds < 2 * 86400 else then.date().isoformat()


def progress_words(progress: Mapping[str, Any], *, over: bool = False) -> str:
    """`185 / 500 rows · 1 204 tokens/s · ETA 2 min` from a journal's progress event; empty when there is none.

    `over`: the job ended, so its stage and ETA are left out.
    """
    parts: list[str] = []
    done, total, unit = progress.get("done", 0), progress.get("total", 0), progress.get("unit", "")
    if progress.get("stage") and not over and progress["stage"] != "train":  # "Training" is said before it
        parts.append(str(progress["stage"]))
    if total and unit == "bytes":
        parts.append(f"{done / 1e6:.0f} / {total / 1e6:.0f} MB")
    elif total:
        parts.append(f"{number(done)} / {number(total)} {unit}")
    elif done:
        parts.append(f"{number(done)} {unit}")
    rate, rate_unit = progress.get("rate") or 0.0, progress.get("rate_unit", "")
    if rate and rate_unit == "bytes/s":
        parts.append(f"{rate / 1e6:.1f} MB/s")
    elif rate:
        parts.append(f"{number(rate) if rate >= 10 else f'{rate:.1f}'} {rate_unit}")
    eta = progress.get("eta")
    if eta is not None and not over:
        parts.append(f"ETA {duration(eta)}")
    return " · ".join(parts)


def fraction(progress: Mapping[str, Any]) -> float | None:
    """Share done in 0..1, or None when the total is not known."""
    total = progress.get("total") or 0
    return min(1.0, (progress.get("done") or 0) / total) if total else None
