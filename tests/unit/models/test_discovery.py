"""Models are found where LM Studio, Ollama and Hugging Face keep them, in place and only once."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from kdstudio.models import discovery, model_places
from kdstudio.models.discovery import FoundModel, describe_models, find_models
from kdstudio.models.model_places import Walk
from tests.tiny import tiny_model


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = ("OLLAMA_MODELS", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "LLAMA_CACHE", "XDG_CACHE_HOME")
    for name in (*places, discovery.SAMPLE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(model_places, "_OLLAMA_SERVICE", tmp_path / "service")
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
    monkeypatch.setattr(model_places, "MAXIMUM_ENTRIES", 150)
    for number in range(100):
        put(tmp_path / "own" / f"{number:03}" / "model.gguf")
    assert 0 < len(found(tmp_path / "own")) < 60


def ollama_store(folder: Path, digest: str, *, text: str = "") -> Path:
    """A manifest and its blob as `ollama pull` leaves them; returns the place of the blob."""
    layers = [
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": 1},
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:eee", "size": 1},
    ]
    manifest = {"schemaVersion": 2, "config": {"digest": "sha256:ccc"}, "layers": layers}
    put(folder / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "1b").write_text(
        text or json.dumps(manifest)
    )
    return folder / "blobs" / f"sha256-{digest}"


def snapshot(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*"))


def test_everywhere_at_once_described_and_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user, real = tmp_path / "user", tiny_model(layers=2)
    blob = ollama_store(user / ".ollama" / "models", "ab12")
    blob.parent.mkdir()
    shutil.copy(real, blob)
    studio = put(user / ".lmstudio" / "models" / "pub" / "Tiny-GGUF" / "Tiny-Q8_0.gguf")
    shutil.copy(tiny_model(dtype="Q8_0"), studio)
    cached = put(user / ".cache" / "huggingface" / "hub" / "models--a--b" / "blobs" / "123")
    shutil.copy(tiny_model(layers=2, template=None), cached)
    for revision in ("one", "two"):
        link = cached.parents[1] / "snapshots" / revision / "b.gguf"
        link.parent.mkdir(parents=True)
        link.symlink_to(Path("../../blobs/123"))
    shutil.copy(real, put(user / ".cache" / "llama.cpp" / "c.gguf"))
    put(user / ".cache" / "lm-studio" / "models" / "torn.gguf")
    before = snapshot(user)
    found = {item.found.name: item for item in describe_models()}
    assert snapshot(user) == before
    assert sorted((item.found.source, name) for name, item in found.items()) == [
        ("Hugging Face", "b"),
        ("LM Studio", "Tiny-Q8_0"),
        ("LM Studio", "torn"),
        ("Ollama", "tiny:1b"),
        ("llama.cpp", "c"),
    ]
    assert found["tiny:1b"].found.path == blob
    card = found["Tiny-Q8_0"].card
    assert card is not None
    assert (card.quantization, card.context, card.license, card.bytes) == (
        "Q8_0",
        512,
        "apache-2.0",
        studio.stat().st_size,
    )
    assert "<|im_start|>" in card.template
    cached_card = found["b"].card
    assert cached_card is not None
    assert cached_card.template == ""
    assert found["torn"].card is None
    assert "not a GGUF file" in found["torn"].problem


def test_links_in_circles_and_to_nowhere_end(tmp_path: Path) -> None:
    own = tmp_path / "own"
    put(own / "a" / "good.gguf")
    (own / "a" / "up").symlink_to(own, target_is_directory=True)
    (own / "x.gguf").symlink_to(own / "y.gguf")
    (own / "y.gguf").symlink_to(own / "x.gguf")
    (own / "self").symlink_to(own / "self")
    (own / "again.gguf").symlink_to(own / "a" / "good.gguf")
    assert found(own, own / "self", tmp_path / "self" / "self") == [("Folder", "again")]


def test_what_cannot_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    put(own / "good.gguf")
    (own / "folder.gguf").mkdir()
    os.mkfifo(own / "pipe.gguf")
    closed = own / "closed"
    put(closed / "hidden.gguf")
    closed.chmod(0)
    try:
        names = found(own, Path("a\0b"), Path("~nobody-at-all/models"), own / "good.gguf")
    finally:
        closed.chmod(0o700)
    assert ("Folder", "good") in names
    assert set(names) <= {("Folder", "good"), ("Folder", "hidden")}  # root may read everything


@pytest.mark.parametrize("stated", ["\0", "~nobody-at-all", 7, "", None, ["x"], {"a": 1}, "x" * 5000, "\ud800"])
def test_odd_settings_of_lm_studio(stated: object, tmp_path: Path) -> None:
    home = tmp_path / "user" / ".lmstudio"
    home.mkdir()
    (home / "settings.json").write_text(json.dumps({"downloadsFolder": stated}))
    assert found() == []


@pytest.mark.parametrize(
    "text",
    [
        *("not json", "[]", "null", "{", "[" * 100_000, '{"layers": {"a": 1}}', '{"layers": [null, 1, "x", [], {}]}'),
        '{"layers": [{"mediaType": "application/vnd.ollama.image.model"}]}',
        '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": ["sha256:ab12"]}]}',
        '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../user/secret"}]}',
        '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:a\\u0000b"}]}',
        '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:' + "a" * 5000 + '"}]}',
        "9" * 10_000,
        " " * (2 << 20),
    ],
)
def test_manifests_that_are_none(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "user" / ".ollama" / "models"
    put(ollama_store(folder, "ab12", text=text))
    put(tmp_path / "user" / "secret")
    os.mkfifo(folder / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "pipe")
    assert found() == []


def test_time_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "own" / "model.gguf")
    assert list(Walk(0.0).files(tmp_path / "own")) == []
    monkeypatch.setattr(model_places, "MAXIMUM_SECONDS", 0.0)
    assert found(tmp_path / "own") == []


def crowd(folder: Path, number: int) -> None:
    folder.mkdir(parents=True)
    for name in range(number):
        os.close(os.open(folder / f"{name}.gguf", os.O_CREAT | os.O_WRONLY))


def test_a_crowded_folder_takes_no_room_from_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_places, "MAXIMUM_ENTRIES", 1000)
    crowd(tmp_path / "own", 1500)
    put(tmp_path / "user" / ".lmstudio" / "models" / "good.gguf")
    names = found(tmp_path / "own")
    assert ("LM Studio", "good") in names
    assert len(names) == model_places.MAXIMUM_ENTRIES + 1


@pytest.mark.slow
def test_a_hundred_thousand_entries_wide_and_deep(tmp_path: Path) -> None:
    crowd(tmp_path / "wide", 100_000)
    for number in range(1000):
        (tmp_path / "manifests" / str(number) / "/".join("abcdefghi")).mkdir(parents=True)
    (tmp_path / "user" / ".ollama").symlink_to(tmp_path / "manifests", target_is_directory=True)
    began = time.process_time()
    assert len(found(tmp_path / "wide", tmp_path / "manifests")) == model_places.MAXIMUM_ENTRIES
    assert time.process_time() - began < 10
