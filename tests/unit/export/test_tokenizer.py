"""Tokenizers built from `tokenizer.json`: llama.cpp must give the ids that the `tokenizers` library gives."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import pytest
from tokenizers import normalizers, pre_tokenizers

from kdstudio.errors import BadInput
from kdstudio.export.check import exportable
from kdstudio.export.gguf import Identity, write_gguf
from kdstudio.export.pretokenizers import pretokenizer_name
from kdstudio.export.tokenizer import from_json
from tests.tiny import tiny_gguf
from tests.unit.export.student_folders import PRE_TOKENIZERS, folder_from_tiny, random_folder, write_tokenizer_json

TEXT = (
    "The little robot's story: it'll cost 12345.67 dollars, won't it?!  Three   spaces,\ttabs\n\nand\r\nlines. "
    "Grüße, naïve Façade; Ελληνικά, Привет, 漢字かな, عربى, हिन्दी 😀👍🏽 x²+½=①Ⅷ $$ ##### _under_ "
    "e-mail@host.org 'Tis I'M\n"
    "    def f(x): return x**2  # comment  \n<|im_start|>user\nhello<|im_end|> 1 22 333 4444 55555 ١٢٣\u00a0\u3000end "
)


def llama_ids(path: Path, text: str) -> list[int]:
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model is not None
    data = text.encode()
    ids = (ctypes.c_int32 * (len(data) + 8))()
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    count = llama_cpp.llama_tokenize(vocabulary, data, len(data), ids, len(ids), False, True)
    llama_cpp.llama_model_free(model)
    return list(ids[:count])


@pytest.mark.parametrize("split", sorted(PRE_TOKENIZERS))
def test_same_ids_as_the_tokenizers_library(tmp_path: Path, split: str) -> None:
    random_folder(tmp_path / "student", "llama")
    tokenizer = write_tokenizer_json(tmp_path / "student", split)
    write_gguf(tmp_path / "student", tmp_path / "out.gguf", "F16", Identity("x"))
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == split
    assert llama_ids(tmp_path / "out.gguf", TEXT) == tokenizer.encode(TEXT, add_special_tokens=False).ids
    assert exportable(tmp_path / "student") is None


def test_special_tokens_and_template(tmp_path: Path) -> None:
    random_folder(tmp_path, "llama")
    found = from_json(tmp_path)
    value = {key.removeprefix("tokenizer."): item.value for key, item in found.items()}
    assert value["ggml.bos_token_id"] == 0
    assert value["ggml.eos_token_id"] == 2
    assert value["ggml.padding_token_id"] == 0
    assert value["ggml.add_bos_token"] is False
    assert value["ggml.token_type"][:4] == [3, 3, 3, 1]
    assert "<|im_start|>" in value["chat_template"]


def test_added_tokens_templates_and_first_token(tmp_path: Path) -> None:
    random_folder(tmp_path, "llama", vocab_size=512)
    path = tmp_path / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"].append({"id": 440, "content": "<tool>", "special": False})
    tokenizer["post_processor"] = {
        "type": "Sequence",
        "processors": [
            {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>"}}, {"Sequence": {}}]}
        ],
    }
    path.write_text(json.dumps(tokenizer))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["chat_template"] = [{"name": "tool", "template": "no"}, {"name": "default", "template": "yes"}]
    settings["bos_token"] = {"content": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    value = {key.removeprefix("tokenizer."): item.value for key, item in from_json(tmp_path).items()}
    assert value["ggml.tokens"][440] == "<tool>"
    assert value["ggml.token_type"][440] == int(gguf.TokenType.USER_DEFINED)
    assert value["ggml.tokens"][439] == "[PAD439]"
    assert value["ggml.add_bos_token"] is True
    assert value["chat_template"] == "yes"


def test_template_file_wins(tmp_path: Path) -> None:
    folder = folder_from_tiny(tmp_path / "student")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}<|im_end|>")
    write_gguf(folder, tmp_path / "out.gguf", "F32", Identity("x"))
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert fields["tokenizer.chat_template"].contents().startswith("{{ messages[0]")


def test_unknown_pretokenizer_is_said_before_training(tmp_path: Path) -> None:
    random_folder(tmp_path, "llama")
    tokenizer = write_tokenizer_json(tmp_path)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert "pre-tokenizer" in (exportable(tmp_path) or "")
    with pytest.raises(BadInput, match="pre-tokenizer"):
        from_json(tmp_path)


def test_a_normalizer_that_llama_cpp_lacks_is_said(tmp_path: Path) -> None:
    random_folder(tmp_path, "llama")
    tokenizer = write_tokenizer_json(tmp_path)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert "Lowercase" in (exportable(tmp_path) or "")


def test_word_pieces_are_said(tmp_path: Path) -> None:
    random_folder(tmp_path, "llama")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": {}}}))
    assert "WordPiece" in (exportable(tmp_path) or "")


_START = '{"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "model": {"type": "BPE", "merges": [], '
GARBLED = [
    _START + '"vocab": {}}}',
    _START + '"vocab": []}}',
    _START + '"vocab": {"a": "b"}}}',
    _START + '"vocab": {"a": 1000000000000}}}',
    _START + '"vocab": {"a": 1}}, "added_tokens": [3]}',
]


@pytest.mark.parametrize("content", ["", "[]", "{", "<html>", '{"model": 3}', *GARBLED])
def test_damaged_tokenizer_json_is_bad_input(tmp_path: Path, content: str) -> None:
    random_folder(tmp_path, "llama")
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BadInput):
        from_json(tmp_path)


def test_a_folder_without_tokenizer_is_bad_input(tmp_path: Path) -> None:
    random_folder(tmp_path, "llama")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match="tokenizer"):
        exportable(tmp_path)


def test_gguf_files_are_judged_by_their_header(tmp_path: Path) -> None:
    assert exportable(tiny_gguf(tmp_path / "a.gguf", layers=1)) is None
    other = gguf.GGUFWriter(str(tmp_path / "b.gguf"), "gptneox")
    other.add_block_count(1)
    other.write_header_to_file()
    other.write_kv_data_to_file()
    other.write_tensors_to_file()
    other.close()
    assert "gptneox" in (exportable(tmp_path / "b.gguf") or "")


@pytest.mark.parametrize(
    "pre",
    [
        None,
        {},
        {"type": "ByteLevel", "add_prefix_space": True},
        {"type": "Sequence", "pretokenizers": []},
        {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Removed"},
        {"type": "Metaspace"},
    ],
)
def test_no_rule_guesses(pre: Any) -> None:
    assert pretokenizer_name({"pre_tokenizer": pre, "model": {}}) is None
