"""A folder's tokenizer says what the GGUF file with the same vocabulary says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers

from kdstudio.errors import BadInput
from kdstudio.models.conversation import encode_conversation
from kdstudio.networks.hf_tokenizer import FolderTokenizer
from kdstudio.students.save import copy_tokenizer, open_tokenizer
from tests.tiny import CHATML, SPECIAL, learn_merges, tiny_model, vocabulary

TEXTS = ["the lost robot", " two  spaces\n\nand lines", "Ünïcödé 🐳 <|im_end|> x", "", "1234567 don't"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokens = {token: number for number, token in enumerate(vocabulary(160))}
    fast = FastTokenizer(models.BPE(tokens, list(learn_merges(160))))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens(list(SPECIAL))
    fast.save(str(tmp_path / "tokenizer.json"))
    settings = {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|endoftext|>", "chat_template": CHATML}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_both_tokenizers_agree(folder: Path) -> None:
    ours, theirs = FolderTokenizer(folder), open_tokenizer(tiny_model())
    assert ours.vocabulary_size == theirs.vocabulary_size
    assert ours.fingerprint == theirs.fingerprint
    assert (ours.bos_token, ours.eos_token, ours.eos_id) == (theirs.bos_token, theirs.eos_token, theirs.eos_id)
    assert ours.end_ids <= theirs.end_ids
    assert ours.template == theirs.template
    assert [ours.piece(token) for token in range(419)] == [theirs.piece(token) for token in range(419)]
    for text in TEXTS:
        for special in (True, False):
            assert ours.encode(text, special=special) == theirs.encode(text, special=special), text
    messages = [{"role": "user", "content": "two robots"}]
    assert encode_conversation(ours, messages, "hello there") == encode_conversation(theirs, messages, "hello there")


def test_ids_beyond_the_vocabulary_are_padding_as_gguf_writes_it(folder: Path) -> None:
    padded = FolderTokenizer(folder, vocabulary_size=FolderTokenizer(folder).vocabulary_size + 3)
    assert padded.fingerprint != FolderTokenizer(folder).fingerprint
    assert padded.piece(padded.vocabulary_size - 1) == b""
    assert padded.piece(10**6) == b""


def test_several_ends_are_read(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    assert FolderTokenizer(folder).end_ids == {0, 2}


def test_the_template_may_have_a_file_of_its_own(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert FolderTokenizer(folder).template == "{{ messages }}"
    (tmp_path / "copy").mkdir()
    assert copy_tokenizer(folder, tmp_path / "copy") == "{{ messages }}"
    assert (tmp_path / "copy" / "tokenizer.json").is_file()


@pytest.mark.parametrize("data", [None, b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"version": "1.0"}'])
def test_a_missing_or_damaged_tokenizer_is_refused(folder: Path, data: bytes | None) -> None:
    (folder / "tokenizer.json").unlink()
    if data is not None:
        (folder / "tokenizer.json").write_bytes(data)
    with pytest.raises(BadInput):
        FolderTokenizer(folder)


def test_a_tokenizer_without_an_end_is_refused(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(BadInput, match="end of text"):
        FolderTokenizer(folder)
