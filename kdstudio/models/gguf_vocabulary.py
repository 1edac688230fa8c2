"""The tokens of a GGUF file as bytes, read without llama.cpp: what comparing two vocabularies needs."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from kdstudio.errors import BadInput
from kdstudio.models.gguf_header import GGUFHeader
from kdstudio.models.gguf_reader import LongArray
from kdstudio.models.vocabulary_map import Vocabulary

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what SentencePiece writes for a space
_BYTE_LEVEL = ("gpt2", "llama")  # the tokenizers whose pieces, joined, are the text


def read_vocabulary(header: GGUFHeader) -> Vocabulary:
    """Read the token list that `header` described, as far as the header was found to reach.

    A tenth of a second for 150,000 tokens: call it beside the window, not in it. Raises `BadInput` when the file has no
    vocabulary or is no longer the one whose header was read.
    """
    metadata = header.metadata
    if not isinstance(metadata.get("tokenizer.ggml.tokens"), list | LongArray):
        raise BadInput("The file has no vocabulary", header.path.name, "Choose a model that reads and writes text.")
    texts, kinds = _texts(header), _kinds(header)
    if len(kinds) != len(texts):
        kinds = np.full(len(texts), _NORMAL)
    model = metadata.get("tokenizer.ggml.model")
    read = _byte_symbols if model == "gpt2" else _sentence_piece
    pieces = [
        read(text, kind) if kind in (_NORMAL, _BYTE) else text if kind == _USER_DEFINED else b""
        for text, kind in zip(texts, kinds.tolist(), strict=True)
    ]
    controls = np.flatnonzero((kinds == _CONTROL) | (kinds == _UNKNOWN)).tolist()
    special = {token: texts[token].decode("utf-8", "replace") for token in controls}
    return Vocabulary(pieces, special, _end_of_turn(header, special), model in _BYTE_LEVEL)


def _texts(header: GGUFHeader) -> list[bytes]:
    tokens = header.metadata["tokenizer.ggml.tokens"]
    if isinstance(tokens, list):
        return [str(token).encode("utf-8", "replace") for token in tokens]
    data, at, texts = _bytes_of(header, tokens), 0, []
    length_at = struct.Struct("<Q").unpack_from
    try:
        for _ in range(tokens.count):
            first = at + 8
            at = first + length_at(data, at)[0]
            texts.append(data[first:at])
    except (struct.error, OverflowError) as error:
        raise _changed(header) from error
    if at != len(data):
        raise _changed(header)
    return texts


def _kinds(header: GGUFHeader) -> npt.NDArray[np.int64]:
    kinds = header.metadata.get("tokenizer.ggml.token_type")
    if isinstance(kinds, LongArray) and kinds.end - kinds.start == 4 * kinds.count:
        return np.frombuffer(_bytes_of(header, kinds), "<i4").astype(np.int64)
    known = isinstance(kinds, list) and all(isinstance(kind, int) and _NORMAL <= kind <= _BYTE for kind in kinds)
    return np.array(kinds if known else [], np.int64)


def _bytes_of(header: GGUFHeader, array: LongArray) -> bytes:
    try:
        with header.path.open("rb") as stream:
            stream.seek(array.start)
            data = stream.read(array.end - array.start)
    except OSError as error:
        raise _changed(header) from error
    if len(data) != array.end - array.start:
        raise _changed(header)
    return data


def _changed(header: GGUFHeader) -> BadInput:
    return BadInput("The model file has changed", str(header.path), "Choose it again, so that it is read anew.")


def _byte_of_letter() -> dict[int, int | None]:
    """GPT-2's byte-level alphabet (Radford et al. 2019) for `str.translate`: letters that are not in it are dropped."""
    kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in kept]
    return dict.fromkeys(others) | {256 + place: byte for place, byte in enumerate(others)}


_LETTERS = _byte_of_letter()


def _byte_symbols(text: bytes, _kind: int) -> bytes:
    return text.decode("utf-8", "replace").translate(_LETTERS).encode("latin-1", "ignore")


def _sentence_piece(text: bytes, kind: int) -> bytes:
    if kind == _BYTE and len(text) == 6:
        try:
            return bytes([int(text[3:5], 16)])
        except ValueError:
            return b""
    return text.replace(_SPACE.encode(), b" ")


def _end_of_turn(header: GGUFHeader, special: dict[int, str]) -> int | None:
    """The end of turn that the chat template writes, else the end of the text."""
    stated = (header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eos"))
    turn, text = (token if isinstance(token, int) and token in special else None for token in stated)
    return turn if turn is not None and special[turn] in header.template else text
