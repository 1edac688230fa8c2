"""A folder that transformers loads: weights, configuration and a tokenizer with the same ids, and no code.

A student cut from a GGUF file has only that file's tokenizer; `tokenizer.json` is made from it with the rules that
`pretokenizers` knows. Where none fits, the folder keeps `tokenizer.gguf`, which transformers reads as `gguf_file`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf

from kdstudio import files
from kdstudio.export.metadata import Metadata, read_metadata
from kdstudio.export.pretokenizers import pretokenizer_steps
from kdstudio.export.weights import read_weights
from kdstudio.models.model_folder import read_config, weight_files

_COPIED = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
_PRIVATE = ("auto_map", "trust_remote_code", "custom_pipelines", "_name_or_path", "quantization_config")
_SPECIAL = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def write_folder(student: Path, out: Path) -> None:
    """Write the student as a folder for transformers at `out`, atomically.

    Raises `BadInput` when the student is incomplete, `KnownError` when the disk is full.
    """
    config = {key: value for key, value in read_config(student).items() if key not in _PRIVATE}
    rows = read_weights(student)["model.embed_tokens.weight"].shape[0]
    sources = weight_files(student)
    files.require_space(out.parent, sum(path.stat().st_size for path in sources) + (16 << 20), "The safetensors folder")
    with files.atomic_folder(out) as folder:
        for path in sources:
            shutil.copyfile(path, folder / path.name)
        index = student / "model.safetensors.index.json"
        for path in (index, *(student / name for name in _COPIED)):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
        files.write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        if not (folder / "tokenizer.json").exists():
            _write_tokenizer(student / "tokenizer.gguf", folder, rows)


def _write_tokenizer(source: Path, folder: Path, rows: int) -> None:
    metadata = read_metadata(source, "tokenizer.")
    tokenizer = tokenizer_json(metadata, rows)
    if tokenizer is None:
        shutil.copyfile(source, folder / "tokenizer.gguf")
        return
    files.write_text(folder / "tokenizer.json", json.dumps(tokenizer, ensure_ascii=False))
    files.write_text(folder / "tokenizer_config.json", json.dumps(_settings(metadata), indent=2, ensure_ascii=False))
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not (folder / "chat_template.jinja").exists():
        files.write_text(folder / "chat_template.jinja", template.value)


def tokenizer_json(metadata: Metadata, rows: int) -> dict[str, Any] | None:
    """A `tokenizer.json` with the ids of GGUF `tokenizer.*` values; None where llama.cpp's rules are not known to us.

    Names of padding beyond `rows` embedding rows are left out.
    """
    value = {key.removeprefix("tokenizer.ggml."): item.value for key, item in metadata.items()}
    steps = pretokenizer_steps(value.get("pre", ""))
    if value.get("model") != "gpt2" or steps is None:
        return None
    tokens: list[str] = value["tokens"][:rows]
    if not all(isinstance(token, str) for token in (*tokens, *value.get("merges", []))):
        return None
    types = [gguf.TokenType(number) for number in value.get("token_type", [])] or [gguf.TokenType.NORMAL] * len(tokens)
    added = [
        _added(number, token, special=kind == gguf.TokenType.CONTROL)
        for number, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if kind in (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": steps,
        "post_processor": _first_token(value, tokens),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": value["pre"] == "llama-bpe",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": value.get("merges", []),
        },
    }


def _added(number: int, token: str, *, special: bool) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": token, **plain, "special": special}


def _first_token(value: dict[str, Any], tokens: list[str]) -> dict[str, Any] | None:
    """What puts the beginning-of-text token in front, if the model wants one."""
    number = value.get("bos_token_id")
    if not value.get("add_bos_token") or number is None:
        return None
    name = tokens[number]
    first, text = {"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, second],
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}},
    }


def _settings(metadata: Metadata) -> dict[str, Any]:
    value = {key.removeprefix("tokenizer.ggml."): item.value for key, item in metadata.items()}
    named = {
        theirs: value["tokens"][value[f"{ours}_token_id"]]
        for ours, theirs in _SPECIAL.items()
        if isinstance(value.get(f"{ours}_token_id"), int) and value[f"{ours}_token_id"] < len(value["tokens"])
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(value.get("add_bos_token", False)),
        **named,
    }
