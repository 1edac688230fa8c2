"""Two ways to cut one text into tokens, brought together where both cut it at the same byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdstudio.errors import BugError

Spans = Sequence[tuple[int, int]]
"""For each token the bytes [start, end) of the text that it stands for, as `conversation.Conversation.spans`."""

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Alignment:
    """Groups of tokens that stand for the same bytes: `student` and `teacher` [G, 2], first and last token of each.

    `text_bytes`: of the longer side. `grouped_bytes`: those in any group; `one_to_one_bytes`: those in a group that is
    a single token on both sides, where the two distributions are about the same choice.
    """

    student: IntArray
    teacher: IntArray
    text_bytes: int
    grouped_bytes: int
    one_to_one_bytes: int

    @property
    def grouped_share(self) -> float:
        """Share of the text's bytes in any group (1 for an empty text)."""
        return self.grouped_bytes / self.text_bytes if self.text_bytes else 1.0

    @property
    def one_to_one_share(self) -> float:
        """Share of the text's bytes in groups of one token on both sides (1 for an empty text)."""
        return self.one_to_one_bytes / self.text_bytes if self.text_bytes else 1.0


def aligned_groups(student_spans: Spans, teacher_spans: Spans) -> Alignment:
    """Group the tokens of two tokenisations of one text; linear in tokens and bytes.

    A group is a minimal run of tokens on each side that begins and ends at the same byte. Tokens without bytes (control
    tokens, what a template writes around the response) begin no group; inside a run they belong to it. If the last
    token of both sides has none, both end the turn and form the last group. Bytes that one side alone covers are in no
    group. Raises `BugError` when a span does not begin where the one before it ended.

    Source: GOLD, https://huggingface.co/spaces/HuggingFaceH4/on-policy-distillation, "Sequence Alignment".
    """
    student, teacher = _Cuts(student_spans), _Cuts(teacher_spans)
    shared = student.bounds[np.isin(student.bounds, teacher.bounds, assume_unique=True)]
    groups = [side.runs(shared) for side in (student, teacher)]
    sizes = np.diff(shared)
    single = np.logical_and(*(run[:, 0] == run[:, 1] for run in groups))
    end = student.end_of_turn, teacher.end_of_turn
    if None not in end and student.length == teacher.length:
        groups = [np.vstack([run, [last, last]]) for run, last in zip(groups, end, strict=True)]
    return Alignment(
        groups[0].astype(np.int32),
        groups[1].astype(np.int32),
        text_bytes=max(student.length, teacher.length),
        grouped_bytes=int(sizes.sum()),
        one_to_one_bytes=int(sizes[single].sum()),
    )


class _Cuts:
    """Where one side cuts the text. `bounds`: the bytes at which its tokens with bytes begin, and where the last ends.

    `end_of_turn`: its last token, if that has no bytes.
    """

    def __init__(self, spans: Spans) -> None:
        edges = np.asarray(spans, np.int64).reshape(-1, 2)
        starts, ends = edges[:, 0], edges[:, 1]
        if np.any(ends < starts) or np.any(starts[1:] != ends[:-1]):
            raise BugError("the byte spans of a text's tokens do not follow each other")
        self.length = int(ends[-1]) if len(edges) else 0
        self.tokens = np.flatnonzero(ends > starts)
        self.bounds = np.append(starts[self.tokens], ends[self.tokens[-1:]])
        self.end_of_turn = len(edges) - 1 if len(edges) and starts[-1] == ends[-1] else None

    def runs(self, shared: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """First and last token [G, 2] of each run between neighbours of `shared`."""
        at = np.searchsorted(self.bounds, shared)
        return np.stack([self.tokens[at[:-1]], self.tokens[at[1:] - 1]], axis=1)
