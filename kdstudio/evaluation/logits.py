"""Full-vocabulary logits at response positions, from llama.cpp or torch, a chunk of positions at a time.

Comparing two models needs whole distributions, not the top k; a whole set of them would not fit into memory. So a
source yields [n, V] blocks of at most `CHUNK` positions, and two sources walk the same row in step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import llama_cpp
import numpy as np
import numpy.typing as npt

from kdstudio import settings
from kdstudio.errors import KnownError
from kdstudio.evaluation.llama_log import captured_log
from kdstudio.models.gguf_header import read_header

CHUNK = 256
Logits = npt.NDArray[np.float32]
Pair = tuple[Sequence[int], Sequence[int]]
"""(prompt ids, response ids): what the positions of a row are."""


class LogitSource(Protocol):
    """A model that can be asked for its logits at every response position of a row."""

    vocabulary_size: int

    def at(self, prompt: Sequence[int], response: Sequence[int]) -> Iterator[Logits]:
        """Yield [n, V] float32 blocks (n <= CHUNK), in order, len(response) rows in all.

        Row i holds the logits from which response[i] would be drawn. A block is valid until the next is asked for.
        """
        ...

    def close(self) -> None:
        """Free the model."""
        ...


def blocks(prompt: Sequence[int], response: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of response positions, [first, last), that both kinds of source yield together."""
    if not prompt:
        raise KnownError("A row has no prompt tokens", "There is no position before its response.", "Reject that row.")
    for first in range(0, len(response), CHUNK):
        yield first, min(first + CHUNK, len(response))


class LlamaLogits:
    """Logits of a GGUF file through llama.cpp. What two rows in a row share at their beginning is computed once."""

    def __init__(self, path: Path, *, context_tokens: int, threads: int = 0) -> None:
        """Load `path` with room for rows of `context_tokens`. Raises `BadInput` if damaged, else `KnownError`."""
        read_header(path)  # llama.cpp must never be the first to look at a file
        self._model, self._context = _load(path, context_tokens, threads or settings.thread_count())
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary_size = int(llama_cpp.llama_vocab_n_tokens(vocabulary))
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(CHUNK, 0, 1)
        self._room = int(llama_cpp.llama_n_ctx(self._context))
        self._cached: list[int] = []
        self._open = True

    def at(self, prompt: Sequence[int], response: Sequence[int]) -> Iterator[Logits]:
        """As `LogitSource.at`. Raises `KnownError` when the row is longer than the context."""
        tokens = [*prompt, *response[:-1]]
        if len(tokens) > self._room:
            raise KnownError(
                "A row is longer than the model's context",
                f"It has {len(tokens):,} tokens; {self._room:,} fit.",
                "Leave out longer rows.",
            )
        spans = list(blocks(prompt, response))
        start = self._reuse(tokens, len(prompt) - 1)
        for first, last in spans:
            end = len(prompt) - 1 + last  # the token at end - 1 predicts response[last - 1]
            outputs = last - first
            while end - start > CHUNK:  # what lies before the wanted positions goes in without outputs
                step = min(CHUNK, end - outputs - start)
                self._decode(tokens, start, start + step, 0)
                start += step
            self._decode(tokens, start, end, outputs)
            start = end
            yield self._rows(outputs)

    def _reuse(self, tokens: list[int], limit: int) -> int:
        """Keep the cells that the last row shares with this one, up to `limit`; returns how many tokens are done."""
        shared = 0
        while shared < min(limit, len(self._cached)) and self._cached[shared] == tokens[shared]:
            shared += 1
        if not llama_cpp.llama_memory_seq_rm(self._memory, 0, shared, -1):
            llama_cpp.llama_memory_clear(self._memory, True)  # recurrent memory cannot forget only a part
            shared = 0
        self._cached = tokens[:shared]
        return shared

    def _decode(self, tokens: list[int], first: int, last: int, outputs: int) -> None:
        batch, count = self._batch, last - first
        batch.n_tokens = count
        for index in range(count):
            batch.token[index] = tokens[first + index]
            batch.pos[index] = first + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = index >= count - outputs
        if llama_cpp.llama_decode(self._context, batch) != 0:
            raise KnownError(
                "llama.cpp could not read a row", f"It stopped at token {first:,}.", "Try fewer threads or rows."
            )
        self._cached.extend(tokens[first:last])

    def _rows(self, count: int) -> Logits:
        pointer = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape=(count, self.vocabulary_size)
        )

    def close(self) -> None:
        """Free the context and the model."""
        if self._open:
            self._open = False
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._context)
            llama_cpp.llama_model_free(self._model)


def _load(path: Path, context_tokens: int, threads: int) -> tuple[llama_cpp.llama_model_p, llama_cpp.llama_context_p]:
    with captured_log() as said:
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if model is None:
            raise _cannot_load(path, said)
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = (context_tokens + 255) // 256 * 256
        parameters.n_batch = parameters.n_ubatch = CHUNK
        parameters.n_seq_max = 1
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.no_perf = True
        context = llama_cpp.llama_init_from_model(model, parameters)
        if context is None:
            llama_cpp.llama_model_free(model)
            raise _cannot_load(path, said)
    return model, context


def _cannot_load(path: Path, said: list[str]) -> KnownError:
    return KnownError(
        "llama.cpp cannot load this model",
        f"{path}: {' '.join(line.strip() for line in said[-3:]) or 'it gave no reason'}",
        "The file may be damaged, too large for the memory, or of a kind that this llama.cpp does not know.",
    )
