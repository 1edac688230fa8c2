"""A folder's card: what config, weight headers, tokenizer settings and README say, cut and cleaned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdstudio.errors import BadInput
from kdstudio.models.model_card import BaseModel, TypeShare, model_card
from tests.tiny import CHATML
from tests.unit.models.test_model_folder import CONFIG

README = """---
license: apache-2.0
language:
- en
- fr
tags: [tiny, "test"]
base_model: org/base
datasets:
  - org/rows
---
# A model
"""


def write_weights(path: Path, **tensors: tuple[str, list[int]]) -> None:
    """A safetensors file with a header alone: no card reads what follows."""
    header = {name: {"dtype": kind, "shape": shape, "data_offsets": [0, 0]} for name, (kind, shape) in tensors.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "Tiny-Model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(CONFIG))
    (made / "README.md").write_text(README)
    (made / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    (made / "chat_template.jinja").write_text(CHATML)
    write_weights(made / "model.safetensors", embed=("BF16", [100, 8]), norm=("F32", [8]))
    return made


def test_a_card_of_a_folder(folder: Path) -> None:
    card = model_card(folder)
    assert (card.name, card.architecture, card.tokenizer) == ("Tiny-Model", "qwen2", "Qwen2Tokenizer")
    assert (card.layers, card.hidden, card.context, card.vocabulary) == (2, 8, 64, 100)
    assert card.types == (TypeShare("BF16", 1, 800, 1600), TypeShare("F32", 1, 8, 32))
    assert (card.parameters, card.quantization, card.bits_per_weight) == (808, "BF16", round(8 * 1632 / 808, 2))
    assert (card.license, card.terms.name, card.terms.free) == ("apache-2.0", "Apache 2.0", True)
    assert (card.languages, card.tags, card.datasets) == (("en", "fr"), ("tiny", "test"), ("org/rows",))
    assert card.base_models == (BaseModel("org/base"),)
    assert (card.template, card.template_known, card.template_too_long) == (CHATML, True, False)


def test_what_a_folder_does_not_say_is_left_open(folder: Path) -> None:
    for name in ("README.md", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    card = model_card(folder)
    assert (card.license, card.languages, card.tokenizer, card.template) == ("", (), "", "")
    assert not card.terms.stated


def test_a_template_in_the_tokenizers_settings_is_found(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert model_card(folder).template == "d"


@pytest.mark.parametrize(
    "weights",
    [
        b"",
        b"\xff" * 8,
        b"\x02\0\0\0\0\0\0\0[]",
        b'\x0d\0\0\0\0\0\0\0{"a": [1, 2]}',
        b'\x28\0\0\0\0\0\0\0{"a": {"dtype": "F32", "shape": [-1]}}  ',
    ],
)
def test_damaged_weights_have_no_card(folder: Path, weights: bytes) -> None:
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(BadInput, match="The weights"):
        model_card(folder)


def test_a_folder_without_weights_has_no_card(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="no weights"):
        model_card(folder)
