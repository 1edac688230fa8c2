"""The system's reason reaches the caller also where the safetensors library hides it in a text."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from kdstudio.students import tensor_file
from kdstudio.students.tensor_file import write_tensors


def test_tensors_come_back(tmp_path: Path) -> None:
    write_tensors({"a": torch.arange(3)}, tmp_path / "a.safetensors")
    assert load_file(tmp_path / "a.safetensors")["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("words", "number"),
    [("I/O error: No space left on device (os error 28)", errno.ENOSPC), ("File too large (os error 27)", errno.EFBIG)],
)
def test_a_full_disk_is_the_systems_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, number: int
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError(words)

    monkeypatch.setattr(tensor_file, "save_file", full)
    with pytest.raises(OSError, match=r"a\.safetensors") as caught:
        write_tensors({}, tmp_path / "a.safetensors")
    assert caught.value.errno == number


def test_another_fault_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise SafetensorError("out of order")

    monkeypatch.setattr(tensor_file, "save_file", broken)
    with pytest.raises(SafetensorError, match="out of order"):
        write_tensors({}, tmp_path / "a.safetensors")
