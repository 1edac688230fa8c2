"""llama.cpp's own model, context and batch, with its buffers as numpy arrays.

The high-level class of llama-cpp-python reads one sequence at a time and copies logits through Python; here several
sequences share one decode and the logits are read where llama.cpp wrote them. Only child processes import this.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt

from kdstudio.errors import KnownError
from kdstudio.models.gguf_header import read_header
from kdstudio.teachers.llama_log import captured_log

Logits = npt.NDArray[np.float32]
_F32 = 0  # ggml_type


class NativeModel:
    """A loaded GGUF; `vocabulary_only` leaves the weights on disk. `gpu_layers` -1: as many as llama.cpp sees fit.

    Raises `BadInput` for a file that is not a sound GGUF and `KnownError` when llama.cpp cannot load it.
    """

    def __init__(self, path: Path, *, vocabulary_only: bool = False, gpu_layers: int = -1) -> None:
        read_header(path)  # llama.cpp must never be the first to look at a file
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = vocabulary_only
        parameters.n_gpu_layers = gpu_layers
        with captured_log() as said:
            self.pointer = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self.pointer:
            raise KnownError(
                "llama.cpp cannot load this model",
                f"{path.name}: {' '.join(said[-3:]) or 'it gave no reason.'}",
                "Update llama-cpp-python, or choose another file of the model.",
            )
        self.path = path
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.pointer)
        self.vocabulary_size = int(llama_cpp.llama_vocab_n_tokens(self.vocabulary))

    def close(self) -> None:
        """Free the weights; a second call does nothing."""
        if self.pointer:
            llama_cpp.llama_model_free(self.pointer)
            self.pointer = None


class TokenBatch:
    """A `llama_batch` whose arrays are numpy views, filled by slices rather than token by token."""

    def __init__(self, size: int) -> None:
        self.native = llama_cpp.llama_batch_init(size, 0, 1)
        self.size = size
        self.count = 0
        self.outputs = 0
        self._token = np.ctypeslib.as_array(self.native.token, shape=(size,))
        self._position = np.ctypeslib.as_array(self.native.pos, shape=(size,))
        self._wanted = np.ctypeslib.as_array(self.native.logits, shape=(size,))
        np.ctypeslib.as_array(self.native.n_seq_id, shape=(size,))[:] = 1
        self._sequence = [self.native.seq_id[index] for index in range(size)]

    def clear(self) -> None:
        """Empty it for the next decode."""
        self.count = self.outputs = 0

    @property
    def room(self) -> int:
        """Tokens that still fit."""
        return self.size - self.count

    def add(self, tokens: Sequence[int], position: int, sequence: int, outputs: int) -> None:
        """Append tokens of one sequence from `position` on; the last `outputs` of them get logits."""
        first, last = self.count, self.count + len(tokens)
        self._token[first:last] = tokens
        self._position[first:last] = np.arange(position, position + len(tokens))
        self._wanted[first:last] = 0
        self._wanted[last - outputs : last] = 1
        for row in self._sequence[first:last]:
            row[0] = sequence
        self.count, self.outputs = last, self.outputs + outputs

    def free(self) -> None:
        """Give the arrays back to llama.cpp."""
        llama_cpp.llama_batch_free(self.native)


class NativeContext:
    """Room for `cells` tokens of `sequences` sequences that may share cells (one unified cache).

    `precise` keeps keys and values in 32 bits instead of 16 and forgoes flash attention, which reads them in 16 anyway:
    slower, but with 32-bit weights what a text gets depends on the batch by less than 1e-4. Sequence numbers run from 0
    to `sequences` - 1. Raises `KnownError` when the memory for it is not there.
    """

    def __init__(
        self,
        model: NativeModel,
        *,
        cells: int,
        sequences: int,
        batch_tokens: int,
        outputs: int,
        threads: int,
        precise: bool = False,
    ) -> None:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = cells
        parameters.n_batch = parameters.n_ubatch = batch_tokens
        parameters.n_seq_max = sequences
        parameters.n_outputs_max = max(outputs, sequences)  # llama.cpp aborts below one for each sequence
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.kv_unified = True
        parameters.no_perf = True
        if precise:
            parameters.type_k = parameters.type_v = _F32
            parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        with captured_log() as said:
            self.pointer = llama_cpp.llama_init_from_model(model.pointer, parameters)
        if not self.pointer:
            raise KnownError(
                "There is not enough memory for this model's context",
                f"{cells:,} tokens of {sequences} sequences do not fit. {' '.join(said[-2:])}",
                "Set fewer requests at once, or a smaller context, in the teacher's options.",
            )
        self.cells, self.sequences, self.outputs = int(llama_cpp.llama_n_ctx(self.pointer)), sequences, outputs
        self.batch = TokenBatch(batch_tokens)
        self._model = model
        self._memory = llama_cpp.llama_get_memory(self.pointer)

    def decode(self) -> Logits:
        """Run the batch; returns [outputs, V] logits in llama.cpp's own memory, valid until the next decode."""
        batch = self.batch
        batch.native.n_tokens = batch.count
        code = llama_cpp.llama_decode(self.pointer, batch.native)
        if code != 0:
            raise KnownError(
                "llama.cpp could not go on",
                f"It returned {code} while reading {batch.count} tokens.",
                "Set fewer requests at once in the teacher's options, and close what else needs memory.",
            )
        if not batch.outputs:
            return np.empty((0, self._model.vocabulary_size), np.float32)
        start = ctypes.cast(llama_cpp.llama_get_logits(self.pointer), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(start, shape=(batch.outputs, self._model.vocabulary_size))

    def share(self, source: int, target: int, tokens: int) -> None:
        """Let `target` begin with the first `tokens` tokens of `source`; nothing is copied."""
        if tokens:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, tokens)

    def forget(self, sequence: int, start: int = 0) -> None:
        """Drop a sequence's tokens from position `start` on."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def clear(self) -> None:
        """Forget all sequences."""
        llama_cpp.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        """Free the cache; a second call does nothing."""
        if self.pointer:
            self.batch.free()
            llama_cpp.llama_free(self.pointer)
            self.pointer = None


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    length = min(len(first), len(second))
    if list(first[:length]) == list(second[:length]):
        return length
    for index in range(length):
        if first[index] != second[index]:
            return index
    return length


os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # an abort must end the child at once, not after a debugger's minute
llama_cpp.llama_backend_init()
