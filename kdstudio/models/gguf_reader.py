"""A cursor over the first part of a GGUF file that checks every count, length and offset before it uses it.

Nothing is mapped (a file cut short while it is mapped kills the process). Only a window of the file is held at a time,
and long arrays and texts are stepped over, not built, so that no file takes much memory or time, whatever it claims.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

from kdstudio.errors import BadInput
from kdstudio.files import readable_bytes
from kdstudio.models.gguf_types import TENSOR_TYPES

MAXIMUM_HEADER_BYTES = 48 << 20
MAXIMUM_VOCABULARY_BYTES = 24 << 20
MAXIMUM_STRINGS = 900_000  # in one file's arrays; the largest vocabularies with their merges have about 800,000
MAXIMUM_ENTRIES = 1 << 14
MAXIMUM_DIMENSION = 1 << 40
MAXIMUM_KEY_BYTES = 1024
KEPT_ARRAY_ITEMS = 4096  # longer arrays (vocabularies) are described, not read
KEPT_ITEMS = 1 << 16  # in all arrays together
KEPT_TEXT_BYTES = 1 << 20  # longer texts are described, not read
KEPT_TEXTS_BYTES = 4 << 20  # in all texts together
_WINDOW = 1 << 20
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
_STRUCTS = {kind: struct.Struct(form) for kind, form in _SCALARS.items()}
_PLACES = {dimensions: struct.Struct(f"<{dimensions}QIQ") for dimensions in (1, 2, 3, 4)}  # shape, type, offset
_BIG_ENDIAN_VERSIONS = (0x02000000, 0x03000000)


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: `shape` as GGUF writes it (fastest dimension first), `offset` in bytes from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class LongArray:
    """A metadata array too long to keep: `start` and `end` are its items' bytes in the file."""

    type: int
    count: int
    start: int
    end: int


@dataclass(frozen=True)
class LongText:
    """A metadata text too long to keep: `start` and `end` are its bytes in the file."""

    start: int
    end: int


@dataclass(frozen=True)
class Parsed:
    """What the cursor found: metadata, tensors and where the weights begin."""

    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    tokenizer_fingerprint: str


class Cursor:
    """A cursor over the file; the window `data`, which begins at byte `base`, follows it."""

    def __init__(self, path: Path, stream: BinaryIO, size: int) -> None:
        self.path, self.stream, self.size = path, stream, size
        self.data, self.base = stream.read(_WINDOW), 0
        self.at = 0
        self.strings_left = MAXIMUM_STRINGS
        self.kept_left = KEPT_ITEMS
        self.text_left = KEPT_TEXTS_BYTES
        self.vocabulary = ""

    def _damaged(self, detail: str) -> BadInput:
        return BadInput(
            "This GGUF file is damaged", f"{self.path.name}: {detail}", "Get the file again from its source."
        )

    def _truncated(self, end: int) -> BadInput:
        missing = readable_bytes(end - self.size)
        return BadInput(
            "This GGUF file is incomplete",
            f"{self.path.name}: it has {self.size:,} bytes and ends in mid-model; at least {missing} are missing.",
            "Download it again, to the end.",
        )

    def _check_end(self, end: int) -> None:
        """Raise when what ends there cannot be part of the header, or of this file."""
        if end > MAXIMUM_HEADER_BYTES:
            raise self._damaged(f"its header would take more than {readable_bytes(MAXIMUM_HEADER_BYTES)}.")
        if end > self.size:
            raise self._truncated(end)

    def _held(self, width: int) -> int:
        """Where in the window the next `width` bytes are; moves it there, or says why that cannot be."""
        index = self.at - self.base
        if index < 0 or index + width > len(self.data):
            self._check_end(self.at + width)
            self.stream.seek(self.at)
            self.data, self.base, index = self.stream.read(max(width, _WINDOW)), self.at, 0
            if width > len(self.data):
                raise self._truncated(self.at + width)
        return index

    def _unpacked(self, form: struct.Struct) -> tuple[Any, ...]:
        index = self._held(form.size)  # first: it may change the window
        self.at += form.size
        return form.unpack_from(self.data, index)

    def _step_over(self, width: int) -> None:
        self._check_end(self.at + width)
        self.at += width

    def _scalar(self, kind: int) -> Any:
        form = _STRUCTS.get(kind)
        if form is None:
            raise self._damaged(f"a value of unknown type {kind} at byte {self.at:,}.")
        (value,) = self._unpacked(form)
        return bool(value) if kind == _BOOL else value

    def _count(self, what: str, maximum: int) -> int:
        value = int(self._scalar(10))
        if value > maximum:
            raise self._damaged(f"it claims {value:,} {what}.")
        return value

    def _name(self) -> str:
        """A key, or a tensor's name."""
        return self._text(self._count("bytes in one name", MAXIMUM_KEY_BYTES))

    def _text(self, length: int) -> str:
        index = self._held(length)
        self.at += length
        return self.data[index : index + length].decode("utf-8", errors="replace")

    def _string(self) -> str | LongText:
        length = self._count("bytes in one string", MAXIMUM_HEADER_BYTES)
        if length > KEPT_TEXT_BYTES or length > self.text_left:
            self._step_over(length)
            return LongText(self.at - length, self.at)
        self.text_left -= length
        return self._text(length)

    def _value(self) -> Any:
        kind = self._scalar(4)
        if kind == _STRING:
            return self._string()
        return self._array() if kind == _ARRAY else self._scalar(kind)

    def _array(self) -> list[Any] | LongArray:
        kind, count = self._scalar(4), self._count("items in one array", MAXIMUM_HEADER_BYTES)
        if kind == _STRING:
            return self._string_array(count)
        if kind not in _SCALARS:
            raise self._damaged(f"an array of unknown type {kind} at byte {self.at:,}.")
        if not self._kept(count):
            width = count * _STRUCTS[kind].size
            self._step_over(width)
            return LongArray(kind, count, self.at - width, self.at)
        items = self._unpacked(struct.Struct(f"<{count}{_SCALARS[kind][1]}"))
        return [bool(item) for item in items] if kind == _BOOL else list(items)

    def _kept(self, count: int) -> bool:
        """Whether an array is short enough to build, so that all of them together stay small."""
        if count > KEPT_ARRAY_ITEMS or count > self.kept_left:
            return False
        self.kept_left -= count
        return True

    def _string_array(self, count: int) -> list[str] | LongArray:
        self.strings_left -= count
        if self.strings_left < 0:
            raise self._damaged(f"it claims {count:,} strings in one array.")
        start = self.at
        self._check_end(start + 8 * count)
        items: list[str] = []
        if self._kept(count):
            for _ in range(count):
                item = self._string()
                if isinstance(item, LongText):
                    break
                items.append(item)
        if len(items) < count:
            self.at = start
            self._step_over_strings(count)
            return LongArray(_STRING, count, start, self.at)
        return items

    def _step_over_strings(self, count: int) -> None:
        index, data, steps = self._held(8), self.data, repeat(None, count)
        length_at = struct.Struct("<Q").unpack_from
        while True:
            try:
                for _ in steps:  # the one hot loop: some hundred thousand steps for a large vocabulary
                    (length,) = length_at(data, index)
                    index += length + 8
                break
            except (struct.error, OverflowError):  # past the window: move it on, or find that the file ends
                self.at = self.base + index
                index, data = self._held(8), self.data
                index += length_at(data, index)[0] + 8
        self.at = self.base + index
        self._check_end(self.at)

    def header(self) -> Parsed:
        """Read the whole header; raises `BadInput` for anything that is not complete and well formed."""
        tensor_count = self._preamble()
        metadata: dict[str, Any] = {}
        for _ in range(self._count("metadata entries", MAXIMUM_ENTRIES)):
            key = self._name()
            if key in metadata:
                raise self._damaged(f"the metadata key {key[:80]!r} comes twice.")
            start = self.at
            metadata[key] = self._value()
            if key == "tokenizer.ggml.tokens":
                self.vocabulary = self._digest(start + 16)  # past the value's type, the items' type and the count
        self._check(metadata)
        described = [self._tensor() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 65536 or alignment & 7:
            raise self._damaged(f"its alignment is {str(alignment)[:40]}.")
        data_offset = -(-self.at // alignment) * alignment if described else self.at
        tensors = self._placed(described, data_offset)
        return Parsed(metadata, tensors, data_offset, self.vocabulary)

    def _digest(self, start: int) -> str:
        """The vocabulary's fingerprint: of its raw items, from `start` to here."""
        left = max(0, self.at - start)
        if left > MAXIMUM_VOCABULARY_BYTES:
            raise self._damaged(f"its vocabulary takes {readable_bytes(left)}.")
        digest = hashlib.blake2b(digest_size=16)
        self.stream.seek(start)
        while left > 0 and (piece := self.stream.read(min(left, _WINDOW))):
            digest.update(piece)
            left -= len(piece)
        return digest.hexdigest()

    def _preamble(self) -> int:
        if not self.data:
            raise BadInput("This file is empty", f"{self.path.name} has 0 bytes.", "Download it again.")
        if self.data[:4] != b"GGUF":
            raise BadInput(
                "This is not a GGUF file", f"{self.path.name} {_looks_like(bytes(self.data[:512]))}", _NOT_GGUF
            )
        self.at = 4
        version = self._scalar(4)
        if version in _BIG_ENDIAN_VERSIONS:
            raise BadInput(
                "This GGUF file is big-endian", self.path.name, "Get the little-endian file of the same model."
            )
        if version not in (2, 3):
            raise BadInput(
                "This version of GGUF is not supported", f"{self.path.name} has version {version}.", _VERSIONS
            )
        return self._count("tensors", MAXIMUM_ENTRIES)

    def _check(self, metadata: dict[str, Any]) -> None:
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise self._damaged("it does not name its architecture.")
        parts = metadata.get("split.count", 0)
        if isinstance(parts, int) and parts > 1:
            raise BadInput(
                "This model is split into several files",
                f"{self.path.name} is one of {parts} parts.",
                "Join them first: llama-gguf-split --merge FIRST_PART WHOLE.gguf",
            )

    def _tensor(self) -> tuple[str, tuple[int, ...], str, int, int]:
        """Name, shape, type, offset from the first weight, bytes."""
        name, dimensions = self._name(), self._scalar(4)
        if not 1 <= dimensions <= 4 or not 0 < len(name) <= 256:
            raise self._damaged(f"the tensor {name[:80]!r} has {dimensions} dimensions.")
        form = _PLACES[dimensions]
        *extents, kind, offset = self._unpacked(form)
        shape = tuple(extents)
        if not all(0 < extent <= MAXIMUM_DIMENSION for extent in shape):
            raise self._damaged(f"the tensor {name[:80]!r} has the shape {shape}.")
        known = TENSOR_TYPES.get(kind)
        if known is None or shape[0] % known[1]:
            raise self._damaged(f"the tensor {name[:80]!r} has a number format that does not fit or is unknown.")
        type_name, block, block_bytes = known
        return name, shape, type_name, offset, math.prod(shape) // block * block_bytes

    def _placed(
        self, described: list[tuple[str, tuple[int, ...], str, int, int]], data_offset: int
    ) -> tuple[TensorInfo, ...]:
        """Tensors with offsets from the start of the file, each of them inside it."""
        if len({tensor[0] for tensor in described}) != len(described):
            raise self._damaged("two tensors have the same name.")
        end = max((data_offset + offset + width for *_, offset, width in described), default=0)
        if end > self.size:
            raise self._truncated(end)
        return tuple(
            TensorInfo(name, shape, kind, data_offset + offset, width) for name, shape, kind, offset, width in described
        )


def vocabulary_fingerprint(tokens: list[str]) -> str:
    """Name a vocabulary: blake2b-128 over its token strings by id, each with its length as GGUF writes it, in hex.

    The same as `GGUFHeader.tokenizer_fingerprint` of a file with these tokens.
    """
    digest = hashlib.blake2b(digest_size=16)
    for token in tokens:
        data = str(token).encode("utf-8", errors="replace")
        digest.update(struct.pack("<Q", len(data)) + data)
    return digest.hexdigest()


_NOT_GGUF = "Choose a model file that ends in .gguf and begins with the letters GGUF."
_VERSIONS = "KD Studio reads versions 2 and 3; get a newer file of the same model."


def _looks_like(start: bytes) -> str:
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<")):
        return "is a web page: the download saved an error or sign-in page instead of the model."
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the model itself."
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")):
        return "is a zip or pickle file, as PyTorch writes them."
    if start.startswith((b"ggml", b"ggjt", b"lmgg", b"tjgg")):
        return "is in an older format (GGML), from before GGUF."
    return "does not begin as a GGUF file does."
