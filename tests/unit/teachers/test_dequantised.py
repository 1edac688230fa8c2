"""Slow formats run from a 16-bit copy that is made once and holds the same weights."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from kdstudio import settings
from kdstudio.errors import KnownError
from kdstudio.models.gguf_header import fingerprint, read_header
from kdstudio.teachers import dequantised
from kdstudio.teachers.dequantised import exact_copy, f16_copy, f32_copy, fast_copy
from tests.tiny import tiny_model
from tests.unit.teachers.test_llama import answers, ask, teacher_of


def test_the_copy_holds_the_same_weights_and_metadata() -> None:
    source = tiny_model(dtype="Q4_1", layers=2)
    copy = f16_copy(source)
    assert copy.is_relative_to(settings.cache_folder())
    original, expanded = gguf.GGUFReader(source), gguf.GGUFReader(copy)
    found = {tensor.name: tensor for tensor in expanded.tensors}
    for tensor in original.tensors:
        exact = gguf.dequantize(tensor.data, tensor.tensor_type)
        ours = gguf.dequantize(found[tensor.name].data, found[tensor.name].tensor_type)
        assert np.allclose(exact, ours, rtol=2**-11, atol=1e-7)
    assert read_header(copy).tokenizer_fingerprint == read_header(source).tokenizer_fingerprint
    assert read_header(copy).template == read_header(source).template


def test_it_is_made_once() -> None:
    source = tiny_model(dtype="Q4_1", layers=2)
    first = f16_copy(source)
    made = first.stat().st_mtime_ns
    assert f16_copy(source) == first
    assert first.stat().st_mtime_ns == made
    assert not list(first.parent.glob(".kdtmp-*"))


def test_the_teacher_says_so_and_keeps_the_originals_fingerprint() -> None:
    source = tiny_model(dtype="Q4_1", layers=2)
    with_copy, without = teacher_of(source), teacher_of(source, dequantise=False)
    assert "16-bit copy" in with_copy.notes[0]
    assert without.notes == []
    assert with_copy.capabilities == without.capabilities
    assert with_copy.capabilities.fingerprint == fingerprint(source)
    assert answers(with_copy, [ask("a", "hello")])["a"].text
    assert answers(without, [ask("a", "hello")])["a"].text


@pytest.mark.parametrize("dtype", ["F16", "Q4_1", "Q8_0"])
def test_a_precise_teacher_runs_from_a_32_bit_copy_of_exactly_its_weights(dtype: str) -> None:
    source = tiny_model(dtype=dtype, layers=2)
    precise = teacher_of(source, precise=True)
    assert len(precise.notes) == 1
    assert f"Its {dtype} weights run from a 32-bit copy" in precise.notes[0]
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(f32_copy(source)).tensors}
    for tensor in gguf.GGUFReader(source).tensors:
        exact = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert np.allclose(exact, found[tensor.name].data.reshape(exact.shape), rtol=1e-6, atol=1e-8)
    assert precise.capabilities.fingerprint == fingerprint(source)
    assert answers(precise, [ask("a", "hello")])["a"].text
    precise.close()


def test_a_precise_teacher_that_is_in_32_bits_or_too_large_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype, limit in (("F32", dequantised.MAXIMUM_EXACT_BYTES), ("F16", 1000)):
        monkeypatch.setattr(dequantised, "MAXIMUM_EXACT_BYTES", limit)
        path = tiny_model(dtype=dtype, layers=2)
        assert exact_copy(path, read_header(path)) is None


@pytest.mark.parametrize("dtype", ["F32", "F16", "Q4_0", "Q8_0"])
def test_fast_formats_run_as_they_are(dtype: str) -> None:
    path = tiny_model(dtype=dtype, layers=2)
    assert fast_copy(path, read_header(path)) is None


def test_large_teachers_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_model(dtype="Q4_1", layers=2)
    monkeypatch.setattr(dequantised, "MAXIMUM_COPY_BYTES", 1000)
    assert fast_copy(path, read_header(path)) is None


def test_a_failure_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    path: Path = tiny_model(dtype="Q4_1", layers=2)
    monkeypatch.setattr("llama_cpp.llama_model_quantize", lambda *_: 1)
    with pytest.raises(KnownError, match="could not be expanded"):
        f16_copy(path)
    assert [entry.suffix for entry in (settings.cache_folder() / "f16").iterdir()] == [".lock"]


def test_a_full_disk_is_said_before_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdstudio.files.free_bytes", lambda _: 1000)
    with pytest.raises(KnownError, match="The disk is full"):
        f16_copy(tiny_model(dtype="Q4_1", layers=2))
