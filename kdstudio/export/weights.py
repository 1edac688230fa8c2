"""Reads a student's safetensors without torch and converts its numbers to the formats that we write ourselves.

The file is mapped, never loaded: a tensor costs memory only while a block of it is being converted.
Format: https://github.com/huggingface/safetensors#format (8 bytes of header length, JSON, then the data).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.model_folder import weight_files

FloatType = Literal["F32", "F16", "BF16"]
ITEM_BYTES: dict[FloatType, int] = {"F32": 4, "F16": 2, "BF16": 2}
MAXIMUM_HEADER_BYTES = 100 << 20
_BLOCK_ELEMENTS = 1 << 23
# BF16 has no numpy type: its bits travel as uint16.
_STORED: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file; `data` has its shape and maps the file (BF16 as uint16 bits)."""

    name: str
    dtype: str
    data: npt.NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored: outermost first."""
        return self.data.shape


def read_weights(folder: Path) -> dict[str, StoredTensor]:
    """Map every tensor of a Hugging Face folder's safetensors, by name.

    Raises `BadInput` when there are none, when only pickled weights are there, or when a file is damaged.
    """
    found: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        for tensor in _read_file(path):
            found[tensor.name] = tensor
    return found


def _read_file(path: Path) -> Iterator[StoredTensor]:
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(MAXIMUM_HEADER_BYTES, size - 8):
                raise ValueError(f"its header claims {length:,} bytes and the file has {size:,}")
            header = json.loads(stream.read(length))
        mapped = (
            np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length) if size > 8 + length else np.empty(0, np.uint8)
        )
        for name, entry in header.items():
            if name != "__metadata__":
                yield _tensor(name, entry, mapped)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput("The weights cannot be read", f"{path}: {error}.", "The file is cut off or damaged.") from error


def _tensor(name: str, entry: dict[str, Any], mapped: npt.NDArray[np.uint8]) -> StoredTensor:
    begin, end = entry["data_offsets"]
    shape, dtype = tuple(int(size) for size in entry["shape"]), str(entry["dtype"])
    if dtype not in _STORED:
        raise ValueError(f"{name} is stored as {dtype}; only {', '.join(_STORED)} can be exported")
    expected = math.prod(shape) * _STORED[dtype].itemsize
    if min((*shape, begin)) < 0 or end > mapped.size or end - begin != expected:
        raise ValueError(f"{name} lies outside the file or has the wrong size")
    raw = mapped[begin:end]
    # A mapped slice need not be aligned; numpy reads it either way, and a view keeps the file unread until used.
    return StoredTensor(name, dtype, np.frombuffer(raw, _STORED[dtype]).reshape(shape))


def converted(tensor: StoredTensor, target: FloatType) -> Iterator[memoryview]:
    """The tensor's bytes in `target`, in blocks of whole rows, little endian.

    Raises `KnownError` when a value does not fit into F16 (beyond 65,504).
    """
    rows = tensor.data.reshape(tensor.shape[0], -1) if tensor.data.ndim > 1 else tensor.data.reshape(1, -1)
    step = max(1, _BLOCK_ELEMENTS // max(1, rows.shape[1]))
    for first in range(0, rows.shape[0], step):
        block = _convert(rows[first : first + step], tensor.dtype, target, tensor.name)
        yield np.ascontiguousarray(block).view(np.uint8).reshape(-1).data


def _convert(block: npt.NDArray[Any], dtype: str, target: FloatType, name: str) -> npt.NDArray[Any]:
    if dtype == target:
        return block
    exact = to_float32(block, dtype)
    if target == "F32":
        return exact
    if target == "BF16":
        return to_bfloat16(exact)
    with np.errstate(over="ignore"):
        half = exact.astype("<f2")
    if np.isinf(half).any() and not np.isinf(exact).any():
        raise KnownError(
            "A weight is too large for F16",
            f"{name} holds {float(np.abs(exact).max()):,.0f}; F16 ends at 65,504.",
            "Export to BF16 or F32 instead.",
        )
    return half


def to_float32(block: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    """Stored numbers as float32; exact for F32, F16 and BF16."""
    if dtype == "BF16":
        return (block.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return block.astype(np.float32, copy=False)


def to_bfloat16(block: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Float32 to the bits of bfloat16, rounded to the nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(block).view(np.uint32)
    rounded = (bits + (((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(block), quiet, rounded).astype(np.uint16)
