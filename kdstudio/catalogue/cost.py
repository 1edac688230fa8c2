"""What a recipe asks, said before it runs: the questions that a row leads to."""

from __future__ import annotations

from collections.abc import Sequence

from kdstudio.catalogue.steps import ChunkStep, ExpandStep, RankStep, SampleStep, ScoreStep, Step, VoteStep

EXPECTED_ENTRIES = 5
"""So many entries a list is thought to have while nobody knows."""


def questions(steps: Sequence[Step], teachers: int = 1) -> int:
    """How many questions a row leads to when nothing falls; lists count as having five entries."""
    return _walked(steps, teachers)[0]


def rows_made(steps: Sequence[Step], teachers: int = 1) -> int:
    """How many rows a row becomes when nothing falls; lists count as having five entries."""
    return _walked(steps, teachers)[1]


def _walked(steps: Sequence[Step], teachers: int) -> tuple[int, int]:
    """(questions asked, rows left) of one row."""
    width, count = 1, 0
    widths: list[int] = []
    for step in steps:
        match step:
            case SampleStep():
                widths.append(width)
                width *= step.samples * (teachers if step.teachers == "all" else 1)
                count += width
            case ExpandStep() | ChunkStep():
                widths.append(width)
                width *= min(EXPECTED_ENTRIES, step.at_most or EXPECTED_ENTRIES)
            case ScoreStep():
                count += width
            case VoteStep() | RankStep():
                group, width = _together(step, width, widths)
                count += _asked(step, group) * width if isinstance(step, RankStep) else 0
            case _:
                pass
    return count, width


def _together(step: VoteStep | RankStep, width: int, widths: list[int]) -> tuple[int, int]:
    """(rows of a group, rows afterwards)."""
    if isinstance(step, RankStep) and step.items:
        return EXPECTED_ENTRIES, width
    while widths and widths[-1] == width:
        widths.pop()
    before = widths.pop() if widths else 1
    if isinstance(step, VoteStep) and step.keep == "agreeing":
        return max(1, width // before), width
    return max(1, width // before), before


def _asked(step: RankStep, group: int) -> int:
    if step.method == "scores" or group < 2:
        return 0
    if step.method == "pairwise":
        return group * (group - 1)
    return 1 if group <= step.window else 1 + (group - step.window + step.window // 2 - 1) // max(1, step.window // 2)
