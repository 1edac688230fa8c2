"""The header reader agrees with the `gguf` package on good files and says clear words about every bad one."""

from __future__ import annotations

import io
import random
import shutil
import struct
import time
from pathlib import Path

import gguf
import pytest
from gguf.constants import GGML_QUANT_SIZES, LlamaFileType

from kdstudio.errors import BadInput
from kdstudio.models import gguf_reader, gguf_types
from kdstudio.models.gguf_header import GGUFHeader, fingerprint, read_header
from kdstudio.models.gguf_reader import Cursor, LongArray, LongText, vocabulary_fingerprint
from tests.tiny import SPECIAL, tiny_gguf, tiny_model, vocabulary


def test_type_tables_equal_the_gguf_package() -> None:
    theirs = {kind.value: (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
    assert theirs == gguf_types.TENSOR_TYPES
    names = {kind.value: kind.name.split("_", 1)[1] for kind in LlamaFileType if kind.name != "GUESSED"}
    assert names == gguf_types.FILE_TYPES


@pytest.mark.parametrize("options", [{}, {"dtype": "Q4_1"}, {"architecture": "qwen2", "layers": 2}, {"tied": True}])
def test_reads_what_the_gguf_package_reads(options: dict[str, object]) -> None:
    path = tiny_model(**options)
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            assert ours.metadata[key] == field.contents(), key
    assert [(t.name, t.shape, t.type, t.offset, t.bytes) for t in ours.tensors] == [
        (t.name, tuple(map(int, t.shape)), t.tensor_type.name, t.data_offset, t.n_bytes) for t in theirs.tensors
    ]
    assert ours.data_offset == theirs.data_offset
    assert ours.parameters == sum(int(t.n_elements) for t in theirs.tensors)


def test_says_what_the_model_is() -> None:
    header = read_header(tiny_model(dtype="Q8_0"))
    assert (header.architecture, header.name, header.license) == ("llama", "Tiny Test Teacher", "apache-2.0")
    assert (header.layers, header.hidden, header.heads, header.kv_heads, header.context) == (4, 64, 4, 2, 512)
    assert header.quantization == "Q8_0"
    assert header.vocabulary_size == len(vocabulary(160))
    assert "<|im_start|>" in header.template
    assert header.tokenizer_fingerprint == vocabulary_fingerprint(vocabulary(160))


def test_long_arrays_are_stepped_over(tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    tokens = [*SPECIAL, *(f"token {number} " + "x" * (number % 50) for number in range(60_000))]
    writer.add_token_list(tokens)
    writer.add_array("numbers", list(range(5000)))
    writer.add_string("after", "still in step")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    header = read_header(path)
    assert header.metadata["after"] == "still in step"
    assert isinstance(header.metadata["tokenizer.ggml.tokens"], LongArray)
    assert header.metadata["numbers"].count == 5000
    assert header.vocabulary_size == len(tokens)
    assert header.tokenizer_fingerprint == vocabulary_fingerprint(tokens)


@pytest.mark.parametrize("window", [7, 64, 1000])
def test_the_window_shows_the_same_wherever_it_ends(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_header(tiny_model(layers=2))
    monkeypatch.setattr(gguf_reader, "_WINDOW", window)
    assert read_header(tiny_model(layers=2)) == whole


def test_texts_past_the_budget_are_stepped_over(tmp_path: Path) -> None:
    path = tmp_path / "texts.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_string("huge", "x" * (gguf_reader.KEPT_TEXT_BYTES + 1))
    for number in range(5):
        writer.add_string(f"large.{number}", "y" * gguf_reader.KEPT_TEXT_BYTES)
    writer.add_array("list", ["z" * 1000] * 4000)
    writer.add_string("general.name", "still in step")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    header = read_header(path)
    huge, listed = header.metadata["huge"], header.metadata["list"]
    assert isinstance(huge, LongText)
    assert path.read_bytes()[huge.start : huge.end] == b"x" * (gguf_reader.KEPT_TEXT_BYTES + 1)
    assert isinstance(header.metadata["large.4"], LongText)
    assert isinstance(listed, LongArray)
    assert listed.end - listed.start == 4000 * 1008
    assert header.name == "still in step"


def test_a_fingerprint_follows_the_weights_not_the_name(tmp_path: Path) -> None:
    original = tiny_model(layers=2)
    copy = Path(shutil.copy(original, tmp_path / "renamed.gguf"))
    assert fingerprint(copy) == fingerprint(original)
    assert fingerprint(tiny_gguf(tmp_path / "other.gguf", layers=2, seed=9)) != fingerprint(original)
    header = read_header(copy)
    data = bytearray(copy.read_bytes())
    data[header.data_offset + 7] ^= 1
    copy.write_bytes(data)
    assert fingerprint(copy) != fingerprint(original)


def bad_files(folder: Path) -> dict[str, tuple[bytes | None, str]]:
    good = tiny_model(layers=2).read_bytes()
    return {
        "missing": (None, "no such file"),
        "empty": (b"", "empty"),
        "html": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "web page"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
        "pickle": (b"PK\x03\x04" + bytes(200), "zip or pickle"),
        "random": (random.Random(1).randbytes(200_000), "not a GGUF"),
        "random with magic": (b"GGUF" + struct.pack("<I", 3) + random.Random(1).randbytes(200_000), "damaged"),
        "only magic": (b"GGUF", "incomplete"),
        "cut in header": (good[:3000], "incomplete"),
        "cut in weights": (good[:-1000], "incomplete"),
        "old version": (b"GGUF" + struct.pack("<I", 1) + good[8:], "version 1"),
        "big endian": (b"GGUF" + struct.pack(">I", 3) + good[8:], "big-endian"),
    }


@pytest.mark.parametrize("name", list(bad_files(Path())))
def test_bad_files_are_refused_in_words_and_at_once(name: str, tmp_path: Path) -> None:
    content, words = bad_files(tmp_path)[name]
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    for read in (read_header, fingerprint):
        with pytest.raises(BadInput) as caught:
            read(path)
        assert words in str(caught.value)
        assert caught.value.hint
        assert "model.gguf" in caught.value.detail


def test_a_folder_and_an_impossible_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="folder"):
        read_header(tmp_path)
    with pytest.raises(BadInput):
        read_header(Path("a\0b.gguf"))


def test_a_part_of_a_split_model_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "part.gguf"), "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(BadInput, match="one of 3 parts"):
        read_header(tmp_path / "part.gguf")


def _use(header: GGUFHeader) -> None:
    for name in ("architecture", "name", "license", "layers", "hidden", "heads", "kv_heads", "context", "template"):
        getattr(header, name)
    assert header.vocabulary_size >= 0
    assert header.parameters >= 0
    assert isinstance(header.quantization, str)


def test_thousands_of_mutants_raise_nothing_but_bad_input() -> None:
    """Flipped bytes, overwritten numbers, cuts and repeated pieces, mostly in the header."""
    good = tiny_model(layers=2).read_bytes()
    header_end = read_header(tiny_model(layers=2)).data_offset
    rng, path, slowest, accepted = random.Random(7), Path("mutant.gguf"), 0.0, 0
    numbers = [0, 1, 7, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
    for _ in range(5000):
        data = bytearray(good[: header_end + 4096])
        for _ in range(rng.randint(1, 4)):
            at = rng.choice([rng.randrange(header_end), rng.randrange(min(2000, header_end)), rng.randrange(4, 64)])
            match rng.randrange(4):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    data[at : at + 8] = struct.pack("<Q", rng.choice(numbers))
                case 2:
                    data[at : at + 4] = struct.pack("<I", rng.choice(numbers) & 0xFFFFFFFF)
                case _:
                    del data[at : at + rng.randint(1, 64)]
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        size = len(good) if rng.random() < 0.7 else len(data)  # the weights' bytes do not matter, only their number
        began = time.process_time()
        try:
            found = Cursor(path, io.BytesIO(data), size).header()
            _use(GGUFHeader(path, found.metadata, found.tensors, size, found.data_offset, found.tokenizer_fingerprint))
            accepted += 1
        except BadInput:
            pass
        slowest = max(slowest, time.process_time() - began)
    assert 0 < accepted < 4000
    assert slowest < 1.0  # no bomb; what it usually takes is a millisecond
