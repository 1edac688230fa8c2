"""A model file in facts: what its header says, cut and cleaned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from kdstudio.errors import BadInput
from kdstudio.models.model_card import BaseModel, TypeShare, model_card
from tests.tiny import CHATML, tiny_model


def header_file(path: Path, **values: Any) -> Path:
    writer = gguf.GGUFWriter(str(path), "llama")
    for key, value in values.items():
        name = key.replace("__", ".")
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_uint32(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_a_card_of_a_real_file() -> None:
    path = tiny_model(dtype="Q8_0")
    card = model_card(path)
    assert (card.name, card.architecture, card.license) == ("Tiny Test Teacher", "llama", "apache-2.0")
    assert (card.layers, card.hidden, card.feed_forward, card.heads, card.kv_heads) == (4, 64, 128, 4, 2)
    assert (card.context, card.quantization, card.tokenizer) == (512, "Q8_0", "gpt2 gpt-2")
    assert card.bytes == path.stat().st_size
    assert card.template == CHATML
    assert card.template_known
    assert card.terms.free
    assert [share.type for share in card.types] == ["Q8_0", "F32"]
    assert sum(share.parameters for share in card.types) == card.parameters
    assert card.types[1] == TypeShare("F32", 9, 9 * 64, 9 * 64 * 4)
    assert 8.5 < card.bits_per_weight < 9
    plain = json.loads(json.dumps(card.as_dict()))
    assert plain["terms"]["name"] == "Apache 2.0"
    assert plain["types"][1]["tensors"] == 9


def test_who_made_it_and_from_what(tmp_path: Path) -> None:
    path = header_file(
        tmp_path / "mine-Q4_K_M.gguf",
        general__license="other",
        general__license__link="https://example.com/licence",
        general__author="Ann",
        general__size_label="135M",
        general__base_model__count=2,
        general__base_model__0__name="Base",
        general__base_model__0__organization="Org",
        general__base_model__0__repo_url="https://huggingface.co/org/base",
        general__base_model__1__repo_url="https://huggingface.co/org/other",
        general__tags=["chat", "small"],
        general__languages=["en", "de"],
        tokenizer__chat_template="{{ something else }}",
    )
    card = model_card(path)
    assert card.name == "mine"
    assert (card.author, card.size_label, card.license_link) == ("Ann", "135M", "https://example.com/licence")
    assert card.base_models == (
        BaseModel("Base", "Org", "https://huggingface.co/org/base"),
        BaseModel("https://huggingface.co/org/other", "", "https://huggingface.co/org/other"),
    )
    assert (card.tags, card.languages) == (("chat", "small"), ("en", "de"))
    assert card.template == "{{ something else }}"
    assert not card.template_known
    assert card.terms.restricted
    assert (card.parameters, card.bits_per_weight, card.types) == (0, 0.0, ())


def test_strangers_words_are_cut_and_cleaned(tmp_path: Path) -> None:
    path = header_file(
        tmp_path / "m.gguf",
        general__name="evil\x00\x1b[31m\u202eeman\n" + "x" * 5000,
        general__license__link="javascript:alert(1)",
        general__url="file:///etc/passwd",
        general__repo_url="https://example.com/\nx y",
        general__tags=["t" * 900] * 90,
        general__languages="en",
        general__base_model__count=4_000_000_000,
        general__description=7,
        tokenizer__chat_template="x" * ((1 << 20) + 1),
    )
    card = model_card(path)
    assert card.name.startswith("evil [31m eman xxx")
    assert len(card.name) == 200
    assert card.name.isprintable()
    assert (card.license_link, card.url, card.description) == ("", "", "")
    assert len(card.tags) == 50
    assert max(map(len, card.tags)) == 200
    assert card.languages == ("en",)
    assert card.base_models == ()
    assert (card.template, card.template_too_long) == ("", True)


def test_no_model_no_card(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(BadInput):
        model_card(tmp_path / "m.gguf")
