"""Shapes from both kinds of model, what can be a student, and the pair report."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest

from kdstudio.errors import BadInput
from kdstudio.models.architectures import student_obstacle
from kdstudio.models.gguf_header import read_header
from kdstudio.models.pair import compare
from kdstudio.models.shape import parameter_count, shape_of_config, shape_of_folder, shape_of_header
from kdstudio.models.terms import TERMS, terms_of
from tests.tiny import tiny_gguf, tiny_model

CONFIG = {
    "model_type": "llama", "num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 414, "max_position_embeddings": 512,
}  # fmt: skip


def test_a_header_and_a_config_give_one_shape(tmp_path: Path) -> None:
    assert shape_of_config(CONFIG) == shape_of_header(read_header(tiny_model()))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert shape_of_folder(tmp_path) == shape_of_config(CONFIG)
    assert parameter_count(shape_of_config(CONFIG), layers=2) == parameter_count(shape_of_config(CONFIG).with_layers(2))


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"model_type": "llama"}', "[" * 100_000])
def test_a_folder_that_is_no_model(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInput):
        shape_of_folder(tmp_path)


@pytest.mark.parametrize("value", [None, "64", -1, 0, 1.5, True, 1 << 70, {}])
def test_sizes_that_are_no_sizes(value: object) -> None:
    with pytest.raises(BadInput, match="hidden"):
        shape_of_config({**CONFIG, "hidden_size": value})


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"config\.json"):
        shape_of_folder(tmp_path / "none")


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_students_can_be_made_of_llamas_and_qwens(architecture: str) -> None:
    assert student_obstacle(read_header(tiny_model(architecture=architecture))) == ""


def other_model(path: Path, architecture: str, **values: int) -> Path:
    writer = gguf.GGUFWriter(str(path), architecture)
    for name, value in values.items():
        writer.add_uint32(f"{architecture}.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_what_cannot_be_a_student_is_said_before_training(tmp_path: Path) -> None:
    assert "'gemma3'" in student_obstacle(read_header(other_model(tmp_path / "a.gguf", "gemma3")))
    assert "mixture" in student_obstacle(read_header(other_model(tmp_path / "b.gguf", "llama", expert_count=8)))
    assert "no weights" in student_obstacle(read_header(other_model(tmp_path / "c.gguf", "llama")))


def test_a_pair_of_one_vocabulary() -> None:
    report = compare(read_header(tiny_model()), read_header(tiny_model(layers=2)))
    assert report.same_tokens
    assert report.can_train
    assert {finding.level for finding in report.findings} == {"good"}
    assert "Apache 2.0" in report.findings[-1].title


def test_a_pair_of_two_vocabularies() -> None:
    report = compare(read_header(tiny_model()), read_header(tiny_model(merges=50)))
    assert not report.same_tokens
    assert report.can_train
    assert any(finding.level == "obstacle" and "vocabulary" in finding.title for finding in report.findings)


def test_other_templates_sizes_and_students_are_noted(tmp_path: Path) -> None:
    small = read_header(tiny_model(layers=2, context=128))
    bare = read_header(tiny_gguf(tmp_path / "bare.gguf", template=None))
    titles = [finding.title for finding in compare(small, bare).findings]
    assert "The student has no chat template" in titles
    assert "The student is larger than its teacher" in titles
    assert any("shorter" in finding.title for finding in compare(bare, small).findings)
    assert any(finding.title == "Their chat templates differ" for finding in compare(bare, small).findings)
    vocabulary = read_header(other_model(tmp_path / "v.gguf", "gemma3"))
    assert not compare(small, vocabulary).can_train


def test_terms() -> None:
    assert terms_of("Apache-2.0").free
    assert not terms_of("llama3").free
    assert terms_of("").name == "not stated"
    assert "Read the model's terms" in terms_of("other").says
    assert all(terms.says for terms in TERMS.values())
