"""Reading safetensors without torch: exact numbers, and clear words for damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from kdstudio.errors import BadInput
from kdstudio.export.weights import FloatType, converted, read_weights, to_bfloat16, to_float32

SAMPLE = torch.randn(5, 7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("target", "wanted"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)]
)
def test_converts_as_torch_does(tmp_path: Path, dtype: torch.dtype, target: FloatType, wanted: torch.dtype) -> None:
    tensor = SAMPLE.to(dtype)
    save_file({"weight": tensor, "vector": tensor[0].clone()}, tmp_path / "model.safetensors")
    for stored in read_weights(tmp_path).values():
        data = b"".join(bytes(block) for block in converted(stored, target))
        expected = (tensor if stored.name == "weight" else tensor[0]).float().to(wanted)
        assert data == expected.contiguous().view(torch.uint8).numpy().tobytes()


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_bfloat16_rounds_as_torch_rounds(values: list[float]) -> None:
    array = np.array(values, np.float32)
    ours = to_float32(to_bfloat16(array), "BF16")
    theirs = torch.from_numpy(array).bfloat16().float().numpy()
    np.testing.assert_array_equal(ours, theirs)


def test_shards_named_by_the_index_are_joined(tmp_path: Path) -> None:
    save_file({"a": SAMPLE}, tmp_path / "one.safetensors")
    save_file({"b": SAMPLE + 1}, tmp_path / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = read_weights(tmp_path)
    np.testing.assert_array_equal(found["b"].data, (SAMPLE + 1).numpy())
    assert found["a"].shape == (5, 7)


def test_an_index_cannot_lead_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file({"a": SAMPLE}, tmp_path / "secret.safetensors")
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (tmp_path / "in" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput):
        read_weights(tmp_path / "in")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(BadInput, match="Pickled weights are refused"):
        read_weights(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no weights"):
        read_weights(tmp_path)


def _file(header: object, data: bytes = b"\0" * 16) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


GOOD = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x02",
        b"<!DOCTYPE html><html><body>not found</body></html>",
        (1 << 62).to_bytes(8, "little") + b"{}",
        _file(b"not json"),
        _file(b"[" * 100_000),
        _file([]),
        _file({"a": 3}),
        _file({"a": GOOD | {"dtype": "I64"}}),
        _file({"a": GOOD | {"shape": [5]}}),
        _file({"a": GOOD | {"shape": [-4]}}),
        _file({"a": GOOD | {"data_offsets": [-16, 0]}}),
        _file({"a": GOOD | {"data_offsets": [8, 24]}}),
        _file({"a": GOOD}, b"\0" * 15),
    ],
)
def test_damaged_files_are_bad_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BadInput, match="cannot be read"):
        read_weights(tmp_path)
