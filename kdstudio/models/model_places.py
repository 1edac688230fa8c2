"""Where other programs keep models on this machine, and walking there within bounds.

LM Studio: the `downloadsFolder` of its settings. Ollama: https://docs.ollama.com/faq. Hugging Face:
https://huggingface.co/docs/huggingface_hub/guides/manage-cache. llama.cpp: its `LLAMA_CACHE`.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

MAXIMUM_ENTRIES = 20_000  # below one place
MAXIMUM_SECONDS = 20.0  # for all places together
MAXIMUM_DEPTH = 7
_MAXIMUM_JSON = 1 << 20
_OLLAMA_SERVICE = Path("/usr/share/ollama/.ollama/models")  # where it runs as a user of its own on Linux


class Walk:
    """Looks through folders without following links to folders, until its time is up."""

    def __init__(self, seconds: float | None = None) -> None:
        self._deadline = time.monotonic() + (MAXIMUM_SECONDS if seconds is None else seconds)

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._deadline

    def files(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        """Regular files below `folder` (and links to such), at most so many entries and so deep; none it cannot read.

        Files of a folder come before those in its subfolders, in order of their names.
        """
        left = MAXIMUM_ENTRIES
        waiting = deque([(folder, 0)])
        while waiting and left > 0 and not self.is_over:
            place, depth = waiting.popleft()
            entries = _entries(place, left)
            left -= max(1, len(entries))
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        if depth < MAXIMUM_DEPTH:
                            waiting.append((Path(entry.path), depth + 1))
                    elif entry.is_file():
                        yield entry
                except OSError:
                    continue


def _entries(place: Path, most: int) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return sorted(islice(entries, most), key=lambda entry: entry.name)
    except (OSError, ValueError):  # ValueError: a path that no system can have
        return []


def lm_studio() -> list[Path]:
    """Where LM Studio keeps models: where its settings say, else below its own folder; the old place too."""
    home = Path.home()
    stated = read_small_json(home / ".lmstudio" / "settings.json").get("downloadsFolder")
    moved = isinstance(stated, str) and bool(stated.strip())
    return [Path(str(stated)) if moved else home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"]


def ollama() -> list[Path]:
    """Where Ollama keeps models: `OLLAMA_MODELS`, else the person's and the system service's."""
    if stated := os.environ.get("OLLAMA_MODELS"):
        return [Path(stated)]
    return [Path.home() / ".ollama" / "models", _OLLAMA_SERVICE]


def hugging_face() -> list[Path]:
    """Where Hugging Face's libraries keep what they downloaded."""
    if stated := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return [Path(stated)]
    home = os.environ.get("HF_HOME")
    return [(Path(home) if home else _caches() / "huggingface") / "hub"]


def llama_cpp() -> list[Path]:
    """Where llama.cpp's own programs keep what they downloaded."""
    if stated := os.environ.get("LLAMA_CACHE"):
        return [Path(stated)]
    if sys.platform == "darwin":
        return [Path.home() / "Library" / "Caches" / "llama.cpp"]
    if sys.platform == "win32":
        return [Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "llama.cpp"]
    return [_caches() / "llama.cpp"]


def _caches() -> Path:
    stated = os.environ.get("XDG_CACHE_HOME")
    return Path(stated) if stated else Path.home() / ".cache"


def read_small_json(path: Path) -> dict[str, Any]:
    """A JSON object from a regular file of at most a mebibyte; {} for whatever else is there."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAXIMUM_JSON:
            return {}
        read = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
