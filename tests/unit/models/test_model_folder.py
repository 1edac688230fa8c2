"""What a model folder must hold, found without opening its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdstudio.errors import BadInput
from kdstudio.models.model_folder import folder_teacher, weight_files

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}


def test_a_whole_folder_is_described(tmp_path: Path) -> None:
    folder = tmp_path / "My-Model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x" * 500)
    spec, known = folder_teacher("", folder)
    assert (spec.name, spec.kind, spec.path) == ("My-Model", "huggingface", str(folder))
    assert (known["layers"], known["context_tokens"], known["bytes"]) == (2, 64, 500)
    assert folder_teacher("other", folder)[0].name == "other"


def test_weights_in_several_files_must_all_be_there(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    (tmp_path / "1.safetensors").touch()
    with pytest.raises(BadInput, match="incomplete"):
        weight_files(tmp_path)
    (tmp_path / "2.safetensors").touch()
    assert [path.name for path in weight_files(tmp_path)] == ["1.safetensors", "2.safetensors"]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        folder_teacher("x", tmp_path / "nowhere")
