"""Small teachers in slow formats are expanded once to 16 bits, because llama.cpp reads those several times faster.

Two quantized formats have no fast matrix-matrix kernel on a CPU. Tokens a second of SmolLM2-135M on one thread, prefill
and decode of 32 sequences: Q4_1 162 and 140, F16 321 and 227, Q8_0 385 and 260, Q4_0 478 and 381; Q5_1 is like Q4_1.
A teacher that is to be `precise` is expanded to 32 bits instead: with 16-bit weights llama.cpp rounds activations to 16
bits too, so that logits move by up to 0.06 with the number of texts in a decode; with 32 bits by up to 0.00005. That
costs about 1.7 times the processor time. Copies are kept in the cache under the fingerprint of the original.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import filelock
import llama_cpp

from kdstudio import files, settings
from kdstudio.errors import KnownError
from kdstudio.models.gguf_header import GGUFHeader, fingerprint, read_header
from kdstudio.teachers.llama_log import captured_log

SLOW_ON_CPU = frozenset({"Q4_1", "Q5_1"})
MAXIMUM_COPY_BYTES = 1_500_000_000
MAXIMUM_EXACT_BYTES = 3_000_000_000
_KINDS = {"f16": (1, 2), "f32": (0, 4)}  # entry in the cache: llama_ftype, bytes a weight


@dataclass(frozen=True)
class FastCopy:
    """Where the copy is, and the sentence that says so."""

    path: Path
    note: str


def fast_copy(path: Path, header: GGUFHeader) -> FastCopy | None:
    """The F16 copy of a small teacher in a slow format; None when the file itself is the better one to run."""
    size = 2 * header.parameters
    if header.tensor_type not in SLOW_ON_CPU or size > MAXIMUM_COPY_BYTES or llama_cpp.llama_supports_gpu_offload():
        return None
    copy = f16_copy(path)
    readable = files.readable_bytes(copy.stat().st_size)
    note = f"Its {header.tensor_type} weights run from a 16-bit copy ({readable} in the cache), which is faster here."
    return FastCopy(copy, note)


def exact_copy(path: Path, header: GGUFHeader) -> FastCopy | None:
    """The F32 copy of a teacher small enough for one; None for one that is in 32 bits already, or too large."""
    if header.tensor_type == "F32" or 4 * header.parameters > MAXIMUM_EXACT_BYTES:
        return None
    copy = f32_copy(path)
    readable = files.readable_bytes(copy.stat().st_size)
    return FastCopy(copy, f"Its {header.tensor_type} weights run from a 32-bit copy ({readable} in the cache).")


def f16_copy(path: Path) -> Path:
    """Every weight of `path` as F16 in the cache folder: made once, found again by the original's fingerprint.

    Raises `KnownError` when the disk is full or llama.cpp refuses. Two processes at once make one copy.
    """
    return _copy(path, "f16")


def f32_copy(path: Path) -> Path:
    """As `f16_copy`, in 32 bits."""
    return _copy(path, "f32")


def _copy(path: Path, entry: str) -> Path:
    kind, size = _KINDS[entry]
    target = settings.cache_folder() / entry / f"{fingerprint(path)}.gguf"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(str(target.with_suffix(".lock"))):
        if target.exists():
            return target
        needed = size * read_header(path).parameters + (64 << 20)
        files.require_space(target.parent, needed, f"The teacher's {8 * size}-bit copy")
        partial = target.with_name(f"{files.TEMPORARY_MARK}{target.name}")
        try:
            _write(path, partial, kind)
            with partial.open("rb+") as stream:
                os.fsync(stream.fileno())
            partial.replace(target)
            files.fsync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)
    return target


def _write(source: Path, target: Path, kind: int) -> None:
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.allow_requantize, parameters.nthread = kind, True, settings.thread_count()
    with captured_log() as said:
        code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), parameters)
    if code != 0:
        raise KnownError(
            "The teacher could not be expanded",
            f"llama.cpp: {' '.join(said[-3:]) or f'code {code}'}",
            "Set the teacher's option dequantise to false to run the file as it is.",
        )
