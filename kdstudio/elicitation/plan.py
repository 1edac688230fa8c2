"""What of a recipe can be said before it runs: where rows are split and put together, and what needs order."""

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
