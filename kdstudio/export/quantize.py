"""Quantizes a GGUF file with llama.cpp's own quantizer, so that its K-quants are exactly what other programs expect.

llama.cpp decides each tensor's type: rows that a K-quant cannot split (length not a multiple of 256) fall back to an
older type. What really lies in the file is read back and reported, never assumed.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import llama_cpp

from kdstudio import files
from kdstudio.catalogue.quantizations import QUANTIZATIONS
from kdstudio.errors import BadInput, KnownError
from kdstudio.models.gguf_header import read_header
from kdstudio.teachers.llama_log import captured_log

_NO_ROOM = 64 << 10
"""llama.cpp says that writing failed, not that the disk is full: below so many free bytes we take it for that."""


@dataclass(frozen=True)
class Quantized:
    """What became of a file: `tensor_types` counts tensors by type, `fallbacks` those that could not take a K-quant."""

    path: Path
    bytes: int
    tensor_types: dict[str, int]
    fallbacks: int

    @property
    def note(self) -> str:
        """One sentence about fallbacks ("" without any)."""
        return (
            ""
            if not self.fallbacks
            else (
                f"{self.fallbacks} of {sum(self.tensor_types.values())} tensors have rows that K-quants cannot split "
                "(not a multiple of 256) and took an older type; the file is larger than usual."
            )
        )


def quantize(source: Path, out: Path, quantization: str, *, threads: int = 0) -> Quantized:
    """Write `source` (F32, F16 or BF16) to `out` as `quantization` (a catalogue key); `threads` 0: all cores.

    Nothing is left at `out` when it fails. Raises `BadInput` for an unknown or direct format, `KnownError` with
    llama.cpp's last words otherwise.
    """
    entry = QUANTIZATIONS[quantization]
    if entry.direct:
        raise BadInput(
            f"{quantization} is not a quantization", "It is written directly from the student.", "Export it as such."
        )
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread = threads
    parameters.ftype = entry.llama_ftype
    needed = int(read_header(source).parameters * entry.bits / 8 * 1.05)
    files.require_space(out.parent, needed, f"{quantization} export")
    partial = out.with_name(f"{files.TEMPORARY_MARK}{out.name}")
    try:
        with captured_log() as said:
            code = llama_cpp.llama_model_quantize(str(source).encode(), str(partial).encode(), ctypes.byref(parameters))
        full = files.free_bytes(out.parent) < _NO_ROOM
        if code == 0:
            with files.disk_errors(out, needed):
                partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    if code != 0:
        raise files.disk_full(out, needed) if full else _failure(out, quantization, said)
    return describe(out, quantization)


def _failure(out: Path, quantization: str, said: list[str]) -> KnownError:
    words = " ".join(said[-2:]) or "It gave no reason."
    free = files.readable_bytes(files.free_bytes(out.parent))
    return KnownError(
        f"Quantizing to {quantization} failed",
        f"llama.cpp said: {words} ({free} are free on the disk of {out.parent}.)",
        "Try another format, or export again; nothing was left behind.",
    )


def describe(path: Path, quantization: str) -> Quantized:
    """Read back what lies in a quantized file."""
    header = read_header(path)
    types = Counter(tensor.type for tensor in header.tensors)
    wants_k = "_K" in quantization
    fallbacks = sum(
        1 for tensor in header.tensors if wants_k and len(tensor.shape) > 1 and not tensor.type.endswith("_K")
    )
    return Quantized(path, header.bytes, dict(sorted(types.items())), fallbacks)
