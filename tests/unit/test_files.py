"""Atomic files and folders, safe names, space."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdstudio import files
from kdstudio.errors import KnownError


def test_a_file_is_replaced_only_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with contextlib.suppress(RuntimeError), files.atomic_file(path, "w") as stream:
        stream.write("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_measured_while_a_job_writes_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.gguf").write_bytes(b"12345")
    (tmp_path / f"{files.TEMPORARY_MARK}control-1").write_bytes(b"half")
    (tmp_path / f"{files.TEMPORARY_MARK}folder").mkdir()
    (tmp_path / f"{files.TEMPORARY_MARK}folder" / "b.gguf").write_bytes(b"half")
    gone = tmp_path / "gone"
    monkeypatch.setattr(files, "files_below", lambda folder, found=files.files_below: [*found(folder), gone])
    assert files.folder_bytes(tmp_path) == 5
    monkeypatch.undo()
    assert list(files.files_below(tmp_path, ".gguf")) == [tmp_path / "deep" / "a.gguf"]
    assert list(files.files_below(gone)) == []


def test_a_folder_is_replaced_only_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with files.atomic_folder(target) as folder:
        (folder / "weights").write_bytes(b"old")
    with contextlib.suppress(RuntimeError), files.atomic_folder(target) as folder:
        (folder / "weights").write_bytes(b"half")
        raise RuntimeError
    assert (target / "weights").read_bytes() == b"old"
    with files.atomic_folder(target) as folder:
        (folder / "other").write_bytes(b"new")
    assert [entry.name for entry in target.iterdir()] == ["other"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_is_said_in_words_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(KnownError, match="disk is full"), files.atomic_file(path, "w"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"


def test_missing_space_is_counted_before_the_write(tmp_path: Path) -> None:
    files.require_space(tmp_path, 1, "A byte")
    with pytest.raises(KnownError) as caught:
        files.require_space(tmp_path / "not" / "there", 1 << 60, "An export")
    assert "An export needs" in caught.value.detail
    assert "bytes) and try again" in caught.value.hint


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{files.TEMPORARY_MARK}a").mkdir()
    (tmp_path / f"{files.TEMPORARY_MARK}b").touch()
    (tmp_path / "kept").touch()
    assert files.remove_temporaries(tmp_path) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


@given(st.text(max_size=300))
def test_a_safe_name_is_one_plain_component(name: str) -> None:
    safe = files.safe_name(name)
    assert safe
    assert len(safe) <= 130
    assert not set(safe) & set('/\\:*?"<>|\0\n\r')
    assert safe not in (".", "..")
    assert not safe.startswith((".", " "))
    assert not safe.endswith((".", " "))


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "C:\\x", "con", "NUL.txt", "", "...", "a\x00b", "/abs", "com1.gguf"]
)
def test_hostile_names_are_defused(name: str) -> None:
    safe = files.safe_name(name)
    assert safe.split(".")[0].strip().lower() not in {"con", "nul", "com1", ""}
    assert ".." not in Path(safe).parts
    assert "/" not in safe
    assert "\\" not in safe


def test_bytes_are_readable() -> None:
    assert [files.readable_bytes(count) for count in (0, 1536, 5 << 20, 3 << 40)] == [
        "0 bytes",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 TiB",
    ]
