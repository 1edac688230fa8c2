"""The tokenizer of a GGUF file, as llama.cpp implements it; the weights stay on disk."""

from __future__ import annotations

import ctypes
from functools import cached_property
from pathlib import Path

import llama_cpp

from kdstudio.errors import KnownError
from kdstudio.models.gguf_header import GGUFHeader, read_header
from kdstudio.teachers.llama_native import NativeModel

_NO_TOKEN = -1
_PIECE_BYTES = 512


class LlamaTokenizer:
    """Implements `models.conversation.Tokenizer`. Raises `BadInput` when the file is unsound or has no vocabulary.

    `model` lends the vocabulary of a model that is already loaded; `header` spares reading the file's header again.
    """

    def __init__(self, path: Path, *, model: NativeModel | None = None, header: GGUFHeader | None = None) -> None:
        self.header = header or read_header(path)
        self._owned = model is None
        self._model = model or NativeModel(path, vocabulary_only=True)
        self.vocabulary = self._model.vocabulary
        self._pieces: dict[int, bytes] = {}
        self.vocabulary_size = self._model.vocabulary_size
        self.fingerprint = self.header.tokenizer_fingerprint
        self.template = self.header.template

    @cached_property
    def bos_token(self) -> str:
        """Text of the token that begins a text."""
        return self._text(int(llama_cpp.llama_vocab_bos(self.vocabulary)))

    @cached_property
    def eos_token(self) -> str:
        """Text of the token that ends a turn."""
        return self._text(_NO_TOKEN if self.eos_id is None else self.eos_id)

    @cached_property
    def eos_id(self) -> int | None:
        """The token that ends a turn: the end of turn that the chat template writes, else the end of the text."""
        turn, text = (int(call(self.vocabulary)) for call in (llama_cpp.llama_vocab_eot, llama_cpp.llama_vocab_eos))
        if turn != _NO_TOKEN and self._text(turn) in self.template:
            return turn
        return None if text == _NO_TOKEN else text

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """All ids at which generation stops: a vocabulary often has several."""
        return frozenset(token for token in range(self.vocabulary_size) if self.ends(token))

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Ids of `text`, nothing added; lone surrogates become question marks."""
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        tokens = (llama_cpp.llama_token * size)()
        count = llama_cpp.llama_tokenize(self.vocabulary, data, len(data), tokens, size, False, special)
        if count < 0:
            raise KnownError("llama.cpp cannot tokenise a text", f"{len(data):,} bytes gave more than {size:,} tokens.")
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        """The bytes that an id stands for (b"" for control tokens)."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._render(token, special=False)
        return known

    def shown(self, token: int) -> str:
        """What a person reads for an id: control tokens written out, half a character as a replacement."""
        piece = self.piece(token)
        return piece.decode("utf-8", "replace") if piece else self._text(token)

    def ends(self, token: int) -> bool:
        """Whether generation stops at this id."""
        return bool(llama_cpp.llama_vocab_is_eog(self.vocabulary, token))

    def close(self) -> None:
        """Free the vocabulary, unless it was lent."""
        if self._owned:
            self._model.close()

    def _text(self, token: int) -> str:
        return "" if token == _NO_TOKEN else self._render(token, special=True).decode("utf-8", "replace")

    def _render(self, token: int, *, special: bool) -> bytes:
        if not 0 <= token < self.vocabulary_size:
            return b""
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        count = llama_cpp.llama_token_to_piece(self.vocabulary, token, buffer, _PIECE_BYTES, 0, special)
        if count < 0:  # the size it needs, negated
            buffer = ctypes.create_string_buffer(-count)
            count = llama_cpp.llama_token_to_piece(self.vocabulary, token, buffer, -count, 0, special)
        return buffer.raw[:count]
