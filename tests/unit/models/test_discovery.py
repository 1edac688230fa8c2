"""Models are found where LM Studio, Ollama and Hugging Face keep them, in place and only once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdstudio.models import discovery
from kdstudio.models.discovery import FoundModel, find_models


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OLLAMA_MODELS", "HF_HUB_CACHE", "HF_HOME", discovery.SAMPLE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(discovery, "SAMPLE_PACKAGE", "a_package_that_is_not_there")
    home = tmp_path / "user"
    home.mkdir()
    monkeypatch.setattr(Path, "home", lambda: home)


def put(path: Path, size: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def found(*folders: Path) -> list[tuple[str, str]]:
    return sorted((model.source, model.name) for model in find_models(folders))


def test_an_empty_machine() -> None:
    assert found() == []


def test_lm_studio(tmp_path: Path) -> None:
    home = tmp_path / "user" / ".lmstudio"
    put(home / "models" / "publisher" / "model" / "model-Q4_K_M.gguf")
    put(home / "models" / "publisher" / "model" / "mmproj-model.gguf")
    put(home / "models" / "publisher" / "model" / "readme.txt")
    put(home / "models" / "big" / "big-00001-of-00002.gguf")
    put(home / "models" / "big" / "big-00002-of-00002.gguf")
    assert found() == [("LM Studio", "big-00001-of-00002"), ("LM Studio", "model-Q4_K_M")]
    put(tmp_path / "elsewhere" / "a" / "moved.gguf")
    (home / "settings.json").write_text(json.dumps({"downloadsFolder": str(tmp_path / "elsewhere")}))
    assert found() == [("LM Studio", "moved")]


def test_ollama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ollama"
    monkeypatch.setenv("OLLAMA_MODELS", str(folder))
    blob = put(folder / "blobs" / "sha256-abc123", 77)
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:fff"},
        {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:abc123"},
    ]
    manifests = folder / "manifests" / "registry.ollama.ai"
    for name, text in {
        "library/llama3.2/3b": json.dumps({"layers": layers}),
        "someone/model/latest": json.dumps({"layers": [{**layers[1], "digest": "sha256:missing"}]}),
        "library/evil/x": json.dumps({"layers": [{**layers[1], "digest": "sha256:../../secret"}]}),
        "library/torn/x": '{"layers": [',
        "library/odd/x": '{"layers": 3}',
    }.items():
        put(manifests / name).write_text(text)
    assert list(find_models()) == [FoundModel(blob, "llama3.2:3b", 77, "Ollama")]


def test_hugging_face_and_own_folders_and_no_file_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    blob = put(tmp_path / "hf" / "hub" / "models--a--b" / "blobs" / "123")
    link = tmp_path / "hf" / "hub" / "models--a--b" / "snapshots" / "rev" / "b.gguf"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    own = put(tmp_path / "own" / "Mine.GGUF")
    (tmp_path / "own" / "broken.gguf").symlink_to(tmp_path / "nowhere")
    (tmp_path / "own" / "again").symlink_to(tmp_path / "own", target_is_directory=True)
    assert found(tmp_path / "own", own.parent, tmp_path / "missing") == [("Folder", "Mine"), ("Hugging Face", "b")]


def test_walking_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "MAXIMUM_ENTRIES", 150)
    for number in range(100):
        put(tmp_path / "own" / f"{number:03}" / "model.gguf")
    assert 0 < len(found(tmp_path / "own")) < 60
