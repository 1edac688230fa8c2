"""A cursor over the first part of a GGUF file that checks every count, length and offset before it uses it.

Nothing is mapped (a file cut short while it is mapped kills the process), and large arrays are stepped over, not built.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from kdstudio.errors import BadInput
from kdstudio.files import readable_bytes
from kdstudio.models.gguf_types import TENSOR_TYPES

MAXIMUM_HEADER_BYTES = 48 << 20
MAXIMUM_STRINGS = 1 << 20  # in one file's arrays; the largest vocabularies with their merges have about 800,000
MAXIMUM_ENTRIES = 1 << 14
MAXIMUM_DIMENSION = 1 << 40
KEPT_ARRAY_ITEMS = 4096  # longer arrays (vocabularies) are described, not read
KEPT_ITEMS = 1 << 16  # in all arrays together
_FIRST_READ = 1 << 20
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
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
class Parsed:
    """What the cursor found: metadata, tensors and where the weights begin."""

    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    tokenizer_fingerprint: str


class Cursor:
    """A cursor over the growing first part of the file; `end` bytes are held before anything at `end` is looked at."""

    def __init__(self, path: Path, stream: BinaryIO, size: int) -> None:
        self.path, self.stream, self.size = path, stream, size
        self.data = bytearray(stream.read(_FIRST_READ))
        self.at = 0
        self.strings_left = MAXIMUM_STRINGS
        self.kept_left = KEPT_ITEMS
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

    def _need(self, end: int) -> None:
        """Hold the bytes up to `end`, or say why that cannot be."""
        if end <= len(self.data):
            return
        if end > MAXIMUM_HEADER_BYTES:
            raise self._damaged(f"its header would take more than {readable_bytes(MAXIMUM_HEADER_BYTES)}.")
        if end > self.size:
            raise self._truncated(end)
        wanted = min(max(end, 2 * len(self.data)), MAXIMUM_HEADER_BYTES, self.size)
        self.data += self.stream.read(wanted - len(self.data))
        if end > len(self.data):
            raise self._truncated(end)

    def _scalar(self, kind: int) -> Any:
        form = _SCALARS.get(kind)
        if form is None:
            raise self._damaged(f"a value of unknown type {kind} at byte {self.at:,}.")
        width = struct.calcsize(form)
        self._need(self.at + width)
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += width
        return bool(value) if kind == _BOOL else value

    def _count(self, what: str, maximum: int) -> int:
        value = int(self._scalar(10))
        if value > maximum:
            raise self._damaged(f"it claims {value:,} {what}.")
        return value

    def _text(self) -> str:
        length = self._count("bytes in one string", MAXIMUM_HEADER_BYTES)
        self._need(self.at + length)
        value = bytes(self.data[self.at : self.at + length]).decode("utf-8", errors="replace")
        self.at += length
        return value

    def _value(self) -> Any:
        kind = self._scalar(4)
        if kind == _STRING:
            return self._text()
        return self._array() if kind == _ARRAY else self._scalar(kind)

    def _array(self) -> list[Any] | LongArray:
        kind, count = self._scalar(4), self._count("items in one array", MAXIMUM_HEADER_BYTES)
        if kind == _STRING:
            return self._string_array(count)
        if kind not in _SCALARS:
            raise self._damaged(f"an array of unknown type {kind} at byte {self.at:,}.")
        start, width = self.at, struct.calcsize(_SCALARS[kind])
        self._need(start + count * width)
        self.at = start + count * width
        if not self._kept(count):
            return LongArray(kind, count, start, self.at)
        items = struct.unpack_from(f"<{count}{_SCALARS[kind][1]}", self.data, start)
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
        self._need(self.at + 8 * count)
        start = self.at
        if self._kept(count):
            return [self._text() for _ in range(count)]
        length_at, data, at, steps = struct.Struct("<Q").unpack_from, self.data, start, iter(range(count))
        while True:
            try:
                for _ in steps:  # the one hot loop: some hundred thousand steps for a large vocabulary
                    at += 8 + length_at(data, at)[0]
                break
            except (struct.error, OverflowError):  # past what is held: read on, or find that the file ends
                self._need(at + 8)
                at += 8 + length_at(data, at)[0]
        self._need(at)
        self.at = at
        return LongArray(_STRING, count, start, at)

    def header(self) -> Parsed:
        """Read the whole header; raises `BadInput` for anything that is not complete and well formed."""
        tensor_count = self._preamble()
        metadata: dict[str, Any] = {}
        for _ in range(self._count("metadata entries", MAXIMUM_ENTRIES)):
            key = self._text()
            if key in metadata or len(key) > 0xFFFF:
                raise self._damaged(f"the metadata key {key[:80]!r} comes twice or is too long.")
            start = self.at
            metadata[key] = self._value()
            if key == "tokenizer.ggml.tokens":  # its raw items: past the value's type, the items' type and the count
                self.vocabulary = hashlib.blake2b(self.data[start + 16 : self.at], digest_size=16).hexdigest()
        self._check(metadata)
        described = [self._tensor() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 65536 or alignment & 7:
            raise self._damaged(f"its alignment is {str(alignment)[:40]}.")
        data_offset = -(-self.at // alignment) * alignment if described else self.at
        tensors = self._placed(described, data_offset)
        return Parsed(metadata, tensors, data_offset, self.vocabulary)

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

    def _tensor(self) -> TensorInfo:
        name = self._text()
        dimensions = self._scalar(4)
        if not 1 <= dimensions <= 4 or not 0 < len(name) <= 256:
            raise self._damaged(f"the tensor {name[:80]!r} has {dimensions} dimensions.")
        shape = tuple(self._scalar(10) for _ in range(dimensions))
        if not all(0 < extent <= MAXIMUM_DIMENSION for extent in shape):
            raise self._damaged(f"the tensor {name[:80]!r} has the shape {shape}.")
        known = TENSOR_TYPES.get(self._scalar(4))
        if known is None or shape[0] % known[1]:
            raise self._damaged(f"the tensor {name[:80]!r} has a number format that does not fit or is unknown.")
        type_name, block, block_bytes = known
        return TensorInfo(name, shape, type_name, self._scalar(10), math.prod(shape) // block * block_bytes)

    def _placed(self, described: list[TensorInfo], data_offset: int) -> tuple[TensorInfo, ...]:
        """Tensors with offsets from the start of the file, each of them inside it."""
        if len({tensor.name for tensor in described}) != len(described):
            raise self._damaged("two tensors have the same name.")
        end = max((data_offset + tensor.offset + tensor.bytes for tensor in described), default=0)
        if end > self.size:
            raise self._truncated(end)
        return tuple(replace(tensor, offset=data_offset + tensor.offset) for tensor in described)


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
