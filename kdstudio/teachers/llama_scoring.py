"""What a teacher thinks of given text: one prefill, logits at response positions only, many texts in one decode.

Rows are read in the order of their prompts, so that neighbours share a beginning; what enough of them share is read
once into sequence 0. A row longer than a batch goes on in the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from kdstudio.errors import KnownError
from kdstudio.teachers.llama_native import NativeContext, shared_length

_BASE = 0
_LOOK_AHEAD = 32
_WORTH_SHARING = 64  # tokens that a longer shared beginning must save to be worth a decode of its own
Pair = tuple[Sequence[int], Sequence[int]]
Part = TypeVar("Part")
Reduce = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64], int, int], Part]
"""(logits [n, V], labels [n], the row's index, the first of these tokens in its response) -> what is kept of them.

The logits are llama.cpp's own memory: they are gone after the call.
"""


@dataclass
class Row(Generic[Part]):
    """A text being scored. `tokens`: all but the last of prompt and response; `read`: how many of them were read.

    `parts` are what was kept of its first `reduced` response tokens.
    """

    index: int
    tokens: list[int]
    prompt_tokens: int
    labels: npt.NDArray[np.int64]
    sequence: int = 0
    read: int = 0
    reduced: int = 0
    parts: list[Part] = field(default_factory=list)

    def outputs(self, last: int) -> int:
        """Positions in [read, last) whose logits predict a response token."""
        return max(0, last - max(self.read, self.prompt_tokens - 1))


@dataclass
class Scoring(Generic[Part]):
    """One run over `sequences`; `context` must hold twice the longest row and a batch."""

    context: NativeContext
    reduce: Reduce[Part]
    shares: bool
    stop: Callable[[], bool]
    base: list[int] = field(default_factory=list)

    def run(self, sequences: Sequence[Pair]) -> Iterator[tuple[int, list[Part]]]:
        """Yield (index, its parts in order) as rows are done; a row without a prompt is a `KnownError`."""
        self.context.clear()
        rows: list[Row[Part]] = [_row(index, pair) for index, pair in enumerate(sequences)]
        waiting = deque(sorted(rows, key=lambda row: row.tokens))
        active: list[Row[Part]] = []
        while (waiting or active) and not self.stop():
            segments = self._fill(waiting, active)
            logits, first = self.context.decode(), 0
            for row, last in segments:
                count = row.outputs(last)
                if count:
                    labels = row.labels[row.reduced : row.reduced + count]
                    row.parts.append(self.reduce(logits[first : first + count], labels, row.index, row.reduced))
                    row.reduced += count
                    first += count
                row.read = last
                if last == len(row.tokens):
                    active.remove(row)
                    self.context.forget(row.sequence)
                    yield row.index, row.parts

    def _fill(self, waiting: deque[Row[Part]], active: list[Row[Part]]) -> list[tuple[Row[Part], int]]:
        """Fill the batch with what is left of begun rows, then new ones; returns each with where it then ends."""
        context, batch = self.context, self.context.batch
        segments: list[tuple[Row[Part], int]] = []
        self._extend_base(waiting)
        batch.clear()
        free = deque(number for number in range(1, context.sequences) if all(row.sequence != number for row in active))
        for row in list(active):
            self._add(row, segments)
        while waiting and free and batch.room and batch.outputs < context.outputs:
            row = waiting.popleft()
            row.sequence = free.popleft()
            row.read = min(shared_length(self.base, row.tokens), row.prompt_tokens - 1)
            context.share(_BASE, row.sequence, row.read)
            active.append(row)
            self._add(row, segments)
        return segments

    def _add(self, row: Row[Part], segments: list[tuple[Row[Part], int]]) -> None:
        batch = self.context.batch
        last = min(len(row.tokens), row.read + batch.room)
        last -= max(0, row.outputs(last) - (self.context.outputs - batch.outputs))
        if last > row.read:
            batch.add(row.tokens[row.read : last], row.read, row.sequence, row.outputs(last))
            segments.append((row, last))

    def _extend_base(self, waiting: deque[Row[Part]]) -> None:
        """Read the beginning that the next rows share, when that saves more than the decode costs."""
        if not self.shares or len(waiting) < 2:
            return
        near = [waiting[place] for place in range(min(_LOOK_AHEAD, len(waiting)))]
        first = near[0].tokens[: near[0].prompt_tokens - 1]
        lengths = [min(shared_length(first, row.tokens), row.prompt_tokens - 1) for row in near[1:]]
        kept = shared_length(self.base, first)
        saved = {length: (length - kept) * sum(other >= length for other in lengths) for length in set(lengths)}
        best = max(saved, key=lambda length: (saved[length], length))
        if saved[best] < _WORTH_SHARING:
            return
        batch = self.context.batch
        self.context.forget(_BASE, kept)
        for start in range(kept, best, batch.size):
            batch.clear()
            batch.add(first[start : min(start + batch.size, best)], start, _BASE, 0)
            self.context.decode()
        self.base = first[:best]


def _row(index: int, pair: Pair) -> Row[Part]:
    prompt, response = pair
    if not prompt or not response:
        raise KnownError(
            "A row cannot be scored",
            f"Row {index} has {len(prompt)} prompt tokens and {len(response)} response tokens.",
            "Reject rows without a prompt or a response.",
        )
    return Row(index, [*prompt, *response][:-1], len(prompt), np.asarray(response, np.int64))
