"""Reads what a GGUF file says of itself, and trusts none of it.

The window meets files from anywhere, so this reader is our own: every count, length and offset is checked against the
file's size before it is used (`gguf_reader`). Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from kdstudio.errors import BadInput
from kdstudio.models.gguf_reader import MAXIMUM_DIMENSION, Cursor, LongArray, TensorInfo
from kdstudio.models.gguf_types import FILE_TYPES

_SAMPLES, _SAMPLE_BYTES = 64, 4096
_PIECE = 1 << 20


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says before its weights. `bytes`: the file's size; `data_offset`: where the weights begin."""

    path: Path
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    bytes: int
    data_offset: int
    tokenizer_fingerprint: str

    def of_architecture(self, key: str, default: Any = None) -> Any:
        """The metadata value `<architecture>.<key>`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def count(self, key: str) -> int:
        """`of_architecture(key)` as a number; 0 where it is missing or none."""
        value = self.of_architecture(key, 0)
        if isinstance(value, list):  # one number for each layer: the largest decides what a layer needs
            value = max((item for item in value if isinstance(item, int)), default=0)
        return value if isinstance(value, int) and 0 <= value < MAXIMUM_DIMENSION else 0

    def _text(self, key: str) -> str:
        value = self.metadata.get(key, "")
        return value if isinstance(value, str) else ""

    @property
    def architecture(self) -> str:
        """`general.architecture`: llama, qwen2, ..."""
        return self._text("general.architecture")

    @property
    def name(self) -> str:
        """The model's name, or the file's when it has none."""
        return self._text("general.name") or self.path.stem

    @property
    def license(self) -> str:
        """The licence as the file states it ("" if it does not)."""
        return self._text("general.license")

    @property
    def layers(self) -> int:
        """Transformer blocks."""
        return self.count("block_count")

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.count("embedding_length")

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.count("attention.head_count")

    @property
    def kv_heads(self) -> int:
        """Key and value heads (as many as query heads when the file does not say)."""
        return self.count("attention.head_count_kv") or self.heads

    @property
    def context(self) -> int:
        """Tokens the model was trained to read at once."""
        return self.count("context_length")

    @property
    def vocabulary_size(self) -> int:
        """Rows of the embedding, else the number of tokens, else what the metadata claims."""
        embedding = self.tensor("token_embd.weight")
        if embedding is not None and len(embedding.shape) == 2:
            return embedding.shape[1]
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, LongArray):
            return tokens.count
        return len(tokens) if isinstance(tokens, list) else self.count("vocab_size")

    @property
    def template(self) -> str:
        """The chat template, untrusted ("" if the file has none)."""
        return self._text("tokenizer.chat_template")

    @cached_property
    def parameters(self) -> int:
        """How many weights the file holds."""
        return sum(tensor.elements for tensor in self.tensors)

    @cached_property
    def tensor_type(self) -> str:
        """The number format that most weights are stored in ("" without weights)."""
        totals: dict[str, int] = {}
        for tensor in self.tensors:
            totals[tensor.type] = totals.get(tensor.type, 0) + tensor.elements
        return max(totals, key=lambda name: totals[name]) if totals else ""

    @property
    def quantization(self) -> str:
        """What people call the file's format: Q4_K_M, F16, ..."""
        stated = self.metadata.get("general.file_type")
        return FILE_TYPES.get(stated, self.tensor_type) if isinstance(stated, int) else self.tensor_type

    def tensor(self, name: str) -> TensorInfo | None:
        """The tensor of that name, if the file has it."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, TensorInfo]:
        return {tensor.name: tensor for tensor in self.tensors}


def read_header(path: Path) -> GGUFHeader:
    """Read and check the header of `path`.

    Takes milliseconds and at most about 64 MiB. Raises `BadInput` with clear words for anything that is not a complete,
    well-formed little-endian GGUF of version 2 or 3.
    """
    path = Path(path)
    with _opened(path) as stream:
        size = path.stat().st_size
        found = Cursor(path, stream, size).header()
    return GGUFHeader(path, found.metadata, found.tensors, size, found.data_offset, found.tokenizer_fingerprint)


def fingerprint(path: Path) -> str:
    """Name the exact weights: blake2b-128 of size, header, tensor table and 64 samples spread over the file, in hex.

    A renamed or moved copy keeps its fingerprint. Raises `BadInput` as `read_header` does.
    """
    header = read_header(path)
    digest = hashlib.blake2b(f"gguf 1 {header.bytes} ".encode(), digest_size=16)
    with _opened(header.path) as stream:
        left = header.data_offset
        while left > 0 and (piece := stream.read(min(left, _PIECE))):
            digest.update(piece)
            left -= len(piece)
        last = max(header.data_offset, header.bytes - _SAMPLE_BYTES)
        for index in range(_SAMPLES):
            stream.seek(header.data_offset + (last - header.data_offset) * index // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _opened(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            raise BadInput("This is a folder, not a GGUF file", str(path), "Choose the .gguf file inside it.")
        if not path.is_file():
            raise BadInput("There is no such file", str(path), "Check the path, or choose the file again.")
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise BadInput("The model file cannot be read", f"{path}: {error}", "Check the file and its rights.") from error
