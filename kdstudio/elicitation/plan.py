"""What of a recipe can be said before it runs: where rows are split and put together, and what it asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdstudio.catalogue.steps import (
    ChunkStep,
    DeduplicateStep,
    DrawStep,
    ExecuteStep,
    ExpandStep,
    FilterStep,
    LoopStep,
    RankStep,
    SampleStep,
    ScoreStep,
    Step,
    VoteStep,
)

EXPECTED_ENTRIES = 5
"""So many entries a list is thought to have while nobody knows."""


@dataclass(frozen=True)
class Plan:
    """`gates`: step index -> what of `order` a group shares, or None; `splits`: step -> splits before the group."""

    gates: dict[int, int | None]
    splits: dict[int, int]


def plan_of(steps: Sequence[Step]) -> Plan:
    """Walk through a recipe once. The columns must have been checked."""
    gates: dict[int, int | None] = {}
    splits: dict[int, int] = {}
    stack: list[bool] = []  # for each split a row has gone through, whether it makes several rows
    unordered = False
    for index, step in enumerate(steps):
        match step:
            case VoteStep() | RankStep(items=""):
                splits[index] = place = _last_multiple(stack)
                gates[index] = place + 1
                if not (isinstance(step, VoteStep) and step.keep == "agreeing"):
                    del stack[place:]
            case _ if unordered and _needs_order(step):
                gates[index] = None
        if isinstance(step, SampleStep):
            stack.append(step.samples > 1 or step.teachers == "all")
        elif isinstance(step, ExpandStep | ChunkStep):
            stack.append(True)
        unordered = unordered or isinstance(step, SampleStep | ScoreStep | RankStep | ExecuteStep)
    return Plan(gates, splits)


def _last_multiple(stack: Sequence[bool]) -> int:
    return next((place for place in range(len(stack) - 1, -1, -1) if stack[place]), len(stack) - 1)


def _needs_order(step: Step) -> bool:
    match step:
        case DeduplicateStep() | LoopStep() | DrawStep(method="least_used"):
            return True
        case FilterStep():
            return step.rouge_below > 0
        case _:
            return False


def questions(steps: Sequence[Step], teachers: int = 1) -> int:
    """How many questions a row leads to when nothing falls; lists count as having five entries."""
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
    return count


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
