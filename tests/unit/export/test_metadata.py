"""Our reading of GGUF metadata against the `gguf` package's, value by value and type by type."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from kdstudio.errors import BadInput
from kdstudio.export.metadata import Kind, read_metadata
from tests.tiny import tiny_model


def write(path: Path) -> None:
    writer = gguf.GGUFWriter(str(path), "llama")
    for number, (kind, value) in enumerate(
        [
            (Kind.UINT8, 200),
            (Kind.INT8, -3),
            (Kind.UINT16, 60000),
            (Kind.INT16, -30000),
            (Kind.UINT32, 4000000000),
            (Kind.INT32, -2),
            (Kind.FLOAT32, 0.25),
            (Kind.BOOL, True),
            (Kind.STRING, "Grüße"),
            (Kind.UINT64, 1 << 60),
            (Kind.INT64, -(1 << 60)),
            (Kind.FLOAT64, 0.1),
        ]
    ):
        writer.add_key_value(f"one.{number}", value, kind)
        writer.add_key_value(f"many.{number}", [value, value], Kind.ARRAY, sub_type=kind)
    writer.add_key_value("odd", [b"\xff\xfe", b"plain"], Kind.ARRAY, sub_type=Kind.STRING)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("made", [True, False])
def test_equals_the_package(tmp_path: Path, made: bool) -> None:
    path = tmp_path / "m.gguf" if made else tiny_model()
    if made:
        write(path)
    ours = read_metadata(path)
    theirs = {key: field for key, field in gguf.GGUFReader(path).fields.items() if not key.startswith("GGUF.")}
    assert list(ours) == list(theirs)
    for key, field in theirs.items():
        assert ours[key].type == field.types[0], key
        if field.types[0] == Kind.ARRAY:
            assert ours[key].item == field.types[-1], key
        if key != "odd":
            assert ours[key].value == field.contents(), key


def test_tokens_that_are_no_text_survive(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    assert read_metadata(tmp_path / "m.gguf", "odd")["odd"].value == [b"\xff\xfe", "plain"]


def test_prefix_and_bad_files(tmp_path: Path) -> None:
    assert all(key.startswith("tokenizer.") for key in read_metadata(tiny_model(), "tokenizer."))
    (tmp_path / "bad.gguf").write_bytes(tiny_model().read_bytes()[:900])
    with pytest.raises(BadInput):
        read_metadata(tmp_path / "bad.gguf")
