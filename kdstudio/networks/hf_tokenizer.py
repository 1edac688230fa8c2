"""The tokenizer of a Hugging Face folder: its `tokenizer.json` through the `tokenizers` library, none of its code."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from kdstudio.errors import BadInput
from kdstudio.models.gguf_reader import vocabulary_fingerprint

TOKENIZER_NAME, SETTINGS_NAME, TEMPLATE_NAME = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
_MAXIMUM_JSON = 64 << 20
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what SentencePiece writes for a space


def byte_of_symbol() -> dict[str, int]:
    """The byte that each symbol of GPT-2's byte-level alphabet stands for (Radford et al. 2019, `bytes_to_unicode`)."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = {chr(byte): byte for byte in kept}
    others = [byte for byte in range(256) if byte not in set(kept)]
    return symbols | {chr(256 + place): byte for place, byte in enumerate(others)}


class FolderTokenizer:
    """Tokens of a local folder. Raises `BadInput` when the folder has no readable `tokenizer.json`."""

    def __init__(self, folder: Path, vocabulary_size: int = 0) -> None:
        self.folder = folder
        path = folder / TOKENIZER_NAME
        text = _read(path)
        try:
            self._fast = FastTokenizer.from_str(text)
        except Exception as error:
            raise BadInput("The tokenizer cannot be read", f"{path}: {error}", "Save the tokenizer again.") from error
        self._fast.no_truncation()
        self._fast.no_padding()
        self._settings = _settings(folder)
        self.vocabulary_size = max(vocabulary_size, self._fast.get_vocab_size(with_added_tokens=True))
        self.bos_token = self._named("bos_token")
        self.eos_token = self._named("eos_token")
        self.template = _template(folder, self._settings)
        end = self._fast.token_to_id(self.eos_token) if self.eos_token else None
        if end is None:
            raise BadInput(
                "The tokenizer has no end of text",
                f"{folder / SETTINGS_NAME} names no eos_token that the vocabulary holds.",
                "Save the tokenizer with its settings.",
            )
        self.eos_id: int = end
        self.end_ids = frozenset({end, *_stated_ends(folder)})

    @cached_property
    def fingerprint(self) -> str:
        """The same as that of a GGUF file with this vocabulary."""
        names = [self._fast.id_to_token(number) for number in range(self.vocabulary_size)]
        return vocabulary_fingerprint([name or f"[PAD{number}]" for number, name in enumerate(names)])

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of `text`, nothing added; `special`: whether control tokens written out in it are read as such."""
        fast = self._fast
        fast.encode_special_tokens = not special
        return list(fast.encode(text, add_special_tokens=False).ids)

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for in text (b"" for control tokens)."""
        return self._pieces[token] if 0 <= token < len(self._pieces) else b""

    @cached_property
    def _pieces(self) -> list[bytes]:
        decoder = self._fast.get_added_tokens_decoder()
        added = {number: "" if token.special else token.content for number, token in decoder.items()}
        levels, byte_level = byte_of_symbol(), _is_byte_level(self._fast)
        pieces: list[bytes] = []
        for number in range(self.vocabulary_size):
            symbol = self._fast.id_to_token(number)
            if number in added or symbol is None:
                pieces.append(added.get(number, "").encode())
            elif byte_level:
                pieces.append(bytes(levels[letter] for letter in symbol if letter in levels))
            elif len(symbol) == 6 and symbol.startswith("<0x") and symbol.endswith(">"):
                pieces.append(bytes([int(symbol[3:5], 16)]))
            else:
                pieces.append(symbol.replace(_SPACE, " ").encode())
        return pieces

    def _named(self, key: str) -> str:
        value = self._settings.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        return value if isinstance(value, str) else ""


def _stated_ends(folder: Path) -> list[int]:
    """Ids at which the folder says that generation stops: chat models often have several."""
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            ends = _object(folder / name).get("eos_token_id")
            found += [end for end in (ends if isinstance(ends, list) else [ends]) if type(end) is int and end >= 0]
    return found


def _is_byte_level(fast: FastTokenizer) -> bool:
    decoder = json.loads(fast.to_str()).get("decoder") or {}
    kinds = [decoder.get("type"), *(part.get("type") for part in decoder.get("decoders", ()))]
    return "ByteLevel" in kinds


def _read(path: Path) -> str:
    if not path.is_file():
        raise BadInput(
            "The folder has no tokenizer",
            f"{path} does not exist.",
            "Save the model with its tokenizer: tokenizer.save_pretrained(folder).",
        )
    if path.stat().st_size > _MAXIMUM_JSON:
        raise BadInput("The tokenizer is too large", f"{path} has {path.stat().st_size:,} bytes.")
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("The tokenizer cannot be read", f"{path}: {error}", "Save the tokenizer again.") from error


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_NAME
    return _object(path) if path.is_file() else {}


def _object(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise BadInput("The tokenizer's settings cannot be read", f"{path}: {error}", "Save them again.") from error
    return read if isinstance(read, dict) else {}


def _template(folder: Path, settings: dict[str, Any]) -> str:
    if (folder / TEMPLATE_NAME).is_file():
        return _read(folder / TEMPLATE_NAME)
    found = settings.get("chat_template")
    if isinstance(found, list):  # several named ones: the default is the one for plain chat
        named = {str(item.get("name")): item.get("template") for item in found if isinstance(item, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else ""
