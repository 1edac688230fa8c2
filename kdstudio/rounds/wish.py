"""What a person last wanted of the rounds in a plan's folder, so that a window that was killed goes on as it was told.

Only the window writes it: rounds of the command line end with their caller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kdstudio import files

WISH_NAME = "wish.json"


@dataclass(frozen=True)
class Wish:
    """`go`: they shall run. `reason`: why restricted rows may be trained on. `error`: the words they ended with."""

    go: bool = False
    reason: str = ""
    error: Mapping[str, str] = field(default_factory=dict)


def read_wish(folder: Path) -> Wish:
    """The wish in a plan's folder; one that cannot be read is none."""
    try:
        kept = json.loads((folder / WISH_NAME).read_text("utf-8"))
        return Wish(bool(kept["go"]), str(kept["reason"]), dict(kept["error"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Wish()


def write_wish(folder: Path, wish: Wish) -> None:
    """Keep it. Raises `KnownError` when the disk does not take it."""
    files.write_text(folder / WISH_NAME, json.dumps(asdict(wish)))
