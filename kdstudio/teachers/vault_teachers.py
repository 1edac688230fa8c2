"""Whose signals a vault holds: what lets a changed teacher file be noticed, and said.

A signal's key is a digest: it tells whether a teacher's signal is there, but not whose signals there are. So the vault
has a small list of names and fingerprints beside it. Without the list nothing is lost but the warning.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from kdstudio import files
from kdstudio.teachers.signals import Draws, Rule, ShapedTail
from kdstudio.teachers.vault import Vault

TEACHERS_NAME, _LOCK_NAME = "teachers.json", "teachers.lock"
_MOST = 1000  # entries; the oldest go
Pair = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class Origin:
    """A teacher that signals are of: its name in the project, where its file was, and what names its weights."""

    name: str
    path: str
    fingerprint: str


@dataclass(frozen=True)
class _Entry:
    """An origin with one of the rules by which it was scored; `draws` 0 is a top-k."""

    name: str
    path: str
    fingerprint: str
    top_k: int
    draws: int = 0
    seed: int = 0
    shape: str = ""

    @property
    def rule(self) -> Rule:
        """As keys hold it."""
        if self.shape:
            return ShapedTail(self.top_k, self.shape)
        return Draws(self.draws, self.seed) if self.draws else self.top_k


def remember_origin(folder: Path, origin: Origin, rule: Rule) -> None:
    """Note that the vault in `folder` holds this teacher's signals by this rule. Raises `KnownError` on a full disk."""
    draws = rule if isinstance(rule, Draws) else Draws(0)
    shaped = rule if isinstance(rule, ShapedTail) else ShapedTail(rule if isinstance(rule, int) else 0, "")
    entry = _Entry(**asdict(origin), **asdict(shaped), draws=draws.count, seed=draws.seed)
    with files.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(str(folder / _LOCK_NAME)):
        known = _read(folder)
        if known[-1:] != [entry]:  # the newest stands last
            kept = [*(other for other in known if other != entry), entry][-_MOST:]
            files.write_text(folder / TEACHERS_NAME, json.dumps([asdict(item) for item in kept], indent=1))


def earlier_signals(vault: Vault, origin: Origin, pairs: Iterable[Pair]) -> int:
    """How many of these (prompt ids, response ids) have signals of a file that stood in this one's place before."""
    found = {
        (entry.fingerprint, entry.rule)
        for entry in _read(vault.folder)
        if entry.fingerprint != origin.fingerprint and _is(entry, origin.name, origin.path)
    }
    return sum(any(vault.has(vault.key(*known, *pair)) for known in found) for pair in pairs) if found else 0


def known_fingerprints(folder: Path, name: str, path: str) -> list[str]:
    """Under what the vault in `folder` holds signals of a teacher by this name or from this path, the newest first."""
    found = (entry.fingerprint for entry in reversed(_read(folder)) if _is(entry, name, path))
    return list(dict.fromkeys(found))


def _is(entry: _Entry, name: str, path: str) -> bool:
    return bool((name and entry.name == name) or (path and entry.path == path))


def _read(folder: Path) -> list[_Entry]:
    """The list; what is not as `remember_origin` wrote it is left out."""
    try:
        described = json.loads((folder / TEACHERS_NAME).read_text(encoding="utf-8"))
        return [_Entry(**item) for item in described if _is_entry(item)]
    except (OSError, ValueError, TypeError, RecursionError):
        return []


def _is_entry(item: object) -> bool:
    if not isinstance(item, dict) or set(item) | {"shape"} != set(_Entry.__annotations__):
        return False  # until November 2026 no tail had a shape
    words, numbers = ("name", "path", "fingerprint", "shape"), ("top_k", "draws", "seed")
    return all(isinstance(item.get(key, ""), str) for key in words) and all(
        isinstance(item[key], int) for key in numbers
    )
