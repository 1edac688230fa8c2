"""llama.cpp's quantizer through us: every format of the catalogue, what fell back, and failures that leave nothing."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import gguf
import pytest
from gguf.quants import dequantize

from kdstudio.catalogue.quantizations import QUANTIZATIONS
from kdstudio.errors import BadInput, KnownError
from kdstudio.export.quantize import quantize
from kdstudio.models.gguf_header import read_header
from tests.tiny import tiny_gguf, tiny_model

QUANTIZED = [entry.key for entry in QUANTIZATIONS if not entry.direct]


@pytest.mark.parametrize("key", QUANTIZED)
def test_every_format_of_the_catalogue(tmp_path: Path, key: str) -> None:
    source = tiny_model(hidden=256, layers=1, dtype="F16")
    made = quantize(source, tmp_path / "q.gguf", key, threads=1)
    header = read_header(tmp_path / "q.gguf")
    assert header.quantization == key
    assert header.metadata["general.file_type"] == QUANTIZATIONS[key].llama_ftype
    assert made.bytes == header.bytes < source.stat().st_size
    assert made.fallbacks == 0
    assert made.note == ""
    assert sum(made.tensor_types.values()) == len(header.tensors)
    before, after = (
        {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors} for path in (source, tmp_path / "q.gguf")
    )
    for name, tensor in after.items():
        exact = before[name].data.astype("float32").ravel()
        got = dequantize(tensor.data, tensor.tensor_type).ravel()
        assert ((exact - got) ** 2).mean() <= 0.02 * (exact**2).mean() + 1e-12, name


def test_rows_that_k_quants_cannot_split_are_reported(tmp_path: Path) -> None:
    made = quantize(tiny_model(), tmp_path / "q.gguf", "Q4_K_M", threads=1)
    assert made.fallbacks > 0
    assert "not a multiple of 256" in made.note
    assert "Q5_0" in made.tensor_types
    assert quantize(tiny_model(), tmp_path / "r.gguf", "Q8_0", threads=1).note == ""


def test_the_tokenizer_and_names_stay(tmp_path: Path) -> None:
    quantize(tiny_model(), tmp_path / "q.gguf", "Q8_0", threads=1)
    before, after = read_header(tiny_model()), read_header(tmp_path / "q.gguf")
    assert before.tokenizer_fingerprint == after.tokenizer_fingerprint
    assert before.template == after.template
    assert before.name == after.name


def test_direct_and_unknown_formats_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a quantization"):
        quantize(tiny_model(), tmp_path / "q.gguf", "F16")
    with pytest.raises(BadInput, match="Unknown quantization"):
        quantize(tiny_model(), tmp_path / "q.gguf", "Q1")


def test_a_quantized_source_is_refused_in_words(tmp_path: Path) -> None:
    quantize(tiny_model(), tmp_path / "q.gguf", "Q4_0", threads=1)
    with pytest.raises(KnownError, match="failed") as caught:
        quantize(tmp_path / "q.gguf", tmp_path / "again.gguf", "Q8_0", threads=1)
    assert "requantiz" in caught.value.detail
    assert [path.name for path in tmp_path.iterdir()] == ["q.gguf"]


def test_bad_files_are_bad_input(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"<html>")
    with pytest.raises(BadInput):
        quantize(tmp_path / "bad.gguf", tmp_path / "q.gguf", "Q8_0")


def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path / "source.gguf", hidden=256)
    out = tmp_path / "q.gguf"
    out.write_bytes(b"earlier")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(KnownError, match="Quantizing to Q8_0 failed") as caught:
            quantize(source, out, "Q8_0", threads=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "free on the disk" in caught.value.detail
    assert out.read_bytes() == b"earlier"
    assert {path.name for path in tmp_path.iterdir()} == {"source.gguf", "q.gguf"}
