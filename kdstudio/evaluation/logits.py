"""Full-vocabulary logits at response positions, from llama.cpp or torch, a chunk of positions at a time.

Comparing two models needs whole distributions, not the top k; a whole set of them would not fit into memory. So a
source yields [n, V] blocks of at most `CHUNK` positions, and two sources walk the same row in step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kdstudio import settings
from kdstudio.errors import BadInput, KnownError
from kdstudio.teachers.llama_native import NativeContext, NativeModel, shared_length

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
    """Ranges [first, last) of response positions, alike for every source. Raises `BadInput` without a prompt."""
    if not prompt:
        raise BadInput("A row has no prompt tokens", "Nothing comes before its response.", "Reject that row.")
    for first in range(0, len(response), CHUNK):
        yield first, min(first + CHUNK, len(response))


class LlamaLogits:
    """Logits of a GGUF file through llama.cpp. What two rows in a row share at their beginning is computed once."""

    def __init__(self, path: Path, *, context_tokens: int, threads: int = 0) -> None:
        """Load `path` with room for rows of `context_tokens` tokens; `threads` 0 takes the setting.

        Raises `BadInput` for a file that is not a sound GGUF, `KnownError` when llama.cpp cannot load it.
        """
        self._model = NativeModel(path)
        self.vocabulary_size = self._model.vocabulary_size
        try:
            self._context = NativeContext(
                self._model,
                cells=(context_tokens + CHUNK - 1) // CHUNK * CHUNK,
                sequences=1,
                batch_tokens=CHUNK,
                outputs=CHUNK,
                threads=threads or settings.thread_count(),
            )
        except BaseException:
            self._model.close()
            raise
        self._cached: list[int] = []

    def at(self, prompt: Sequence[int], response: Sequence[int]) -> Iterator[Logits]:
        """As `LogitSource.at`. Raises `KnownError` when the row is longer than the context."""
        tokens = [*prompt, *response[:-1]]
        if len(tokens) > self._context.cells:
            raise KnownError(
                "A row is longer than the model's context",
                f"It has {len(tokens):,} tokens; {self._context.cells:,} fit.",
                "Leave out longer rows.",
            )
        spans = list(blocks(prompt, response))
        start = min(shared_length(tokens, self._cached), len(prompt) - 1)
        self._context.forget(0, start)
        self._cached = tokens[:start]
        for first, last in spans:
            end = len(prompt) - 1 + last  # the token at end - 1 predicts response[last - 1]
            while end - start > CHUNK:  # what lies before the wanted positions goes in without logits
                start = self._decode(tokens, start, min(start + CHUNK, end - (last - first)), 0)[0]
            start, logits = self._decode(tokens, start, end, last - first)
            yield logits

    def _decode(self, tokens: list[int], first: int, last: int, outputs: int) -> tuple[int, Logits]:
        self._context.batch.clear()
        self._context.batch.add(tokens[first:last], first, 0, outputs)
        logits = self._context.decode()
        self._cached.extend(tokens[first:last])
        return last, logits

    def close(self) -> None:
        """Free the context and the model."""
        self._context.close()
        self._model.close()
