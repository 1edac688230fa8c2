"""What is kept of a teacher's file."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from kdstudio.errors import BadInput
from kdstudio.models.teacher_file import free_name, gguf_teacher, name_of
from kdstudio.models.terms import terms_of
from tests.tiny import tiny_model


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("qwen-F16.gguf", "qwen"),
        ("a_iq4_xs.gguf", "a"),
        ("Q8_0.gguf", "Q8_0"),
    ],
)
def test_a_name_comes_from_the_file_without_its_quantization(file: str, name: str) -> None:
    assert name_of(Path(file)) == name


def test_a_taken_name_gets_a_number() -> None:
    assert free_name("a", {"b"}) == "a"
    assert free_name("a", {"a", "a (2)"}) == "a (3)"


def test_spec_and_capabilities_come_from_the_header() -> None:
    spec, capabilities = gguf_teacher("Mine", tiny_model(layers=2))
    assert (spec.name, spec.kind, Path(spec.path).is_absolute()) == ("Mine", "gguf", True)
    assert capabilities["architecture"] == "llama"
    assert capabilities["layers"] == 2
    assert capabilities["context_tokens"] == 512
    assert capabilities["license"] == "apache-2.0"
    assert capabilities["chat_template"] is True
    assert capabilities["terms"] == "apache-2.0"
    assert len(capabilities["fingerprint"]) == 32


def test_a_student_of_ours_passes_on_all_its_terms(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    writer.add_license("other")
    writer.add_string("kdstudio.terms", "openai + apache-2.0 + openai + free: ours")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    _, capabilities = gguf_teacher("", tmp_path / "m.gguf")
    assert capabilities["terms"] == "apache-2.0 + free: ours + openai"
    assert terms_of(capabilities["terms"]).restricted


def test_a_bad_file_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_text("<html>not a model</html>")
    with pytest.raises(BadInput):
        gguf_teacher("", path)
