"""What a step learns from: stored rows as planned, or rounds of own answers that serve several steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
import torch
from torch import Tensor

from kdstudio.distillation.batches import Batch, BatchPlan, pad
from kdstudio.distillation.experience import Experience, StepRows
from kdstudio.distillation.own_answers import OwnAnswers, Source
from kdstudio.distillation.rows import TrainingRows
from tests.unit.distillation.setting import examples, training_rows

CPU = torch.device("cpu")


def grouped_rows() -> TrainingRows:
    """Six rows: preferences of three and of two, and one row of its own."""
    groups = (7, 7, 7, 9, 9, 0)
    made = tuple(replace(example, group=group) for example, group in zip(examples(6), groups, strict=True))
    return TrainingRows(made, 6, torch.zeros(0, dtype=torch.int64))


@dataclass
class Writer:
    """Stands in for the student's own answers, and notes what it was asked."""

    rows: TrainingRows
    steps_each: int = 1
    sources: tuple[Source, ...] = ("fresh",)
    asked: list[tuple[str, int, list[list[tuple[int, ...]]]]] = field(default_factory=list)

    def source(self, begin: int, total: int) -> Source:
        assert begin < total
        return self.sources[begin // self.steps_each % len(self.sources)]

    def make(self, source: Source, begin: int, passes: Sequence[Sequence[tuple[int, ...]]]) -> list[Batch]:
        self.asked.append((source, begin, [list(units) for units in passes]))
        return [
            pad([replace(self.rows.examples[unit[0]], own=True) for unit in units], (-1,) * len(units), 0)
            for units in passes
        ]


def experience(rows: TrainingRows, writer: Writer | None, prepared: list[Batch] | None = None) -> Experience:
    plan = BatchPlan([rows.tokens(unit) for unit in rows.units], rows_per_batch=2, accumulation=2, seed=0)

    def prepare(batch: Batch) -> dict[str, Tensor]:
        if prepared is not None:
            prepared.append(batch)
        return {"labels": batch.labels}

    answers = cast(OwnAnswers, writer) if writer is not None else None
    return Experience(rows, plan, CPU, answers, prepare)


def test_a_step_counts_tokens_rows_and_units_over_all_its_passes() -> None:
    rows = grouped_rows()
    step = StepRows([rows.batch([0, 1, 2], CPU), rows.batch([3, 4, 5], CPU)])
    assert step.counts == {"token": rows.response_tokens(range(6)), "row": 6, "unit": 3}
    assert step.tokens == rows.tokens(range(6))
    assert not step.own


def test_stored_units_stay_whole_and_come_once_an_epoch() -> None:
    rows = grouped_rows()
    made = experience(rows, None)
    step = made.step(0, 9)
    assert sorted(row for batch in step.batches for row in batch.rows) == list(range(6))
    assert [len({rows.examples[row].group for row in batch.rows}) for batch in step.batches] in ([2, 1], [1, 2])
    assert step.counts["unit"] == 3
    assert all(made.boundary(place) for place in range(5))
    assert step.extras == []


@pytest.mark.parametrize("steps_each", [1, 2, 3])
def test_a_round_serves_its_steps_and_is_prepared_once(steps_each: int) -> None:
    rows, prepared = training_rows(10), list[Batch]()
    writer = Writer(rows, steps_each)
    made = experience(rows, writer, prepared)
    steps = [made.step(step, 6) for step in range(6)]
    begins = [step for step in range(6) if step % steps_each == 0]
    assert [begin for _, begin, _ in writer.asked] == begins
    assert [made.boundary(step) for step in range(6)] == [step in begins for step in range(6)]
    for step in range(6):
        assert steps[step] is steps[step - step % steps_each]
        assert steps[step].own
    assert len(prepared) == sum(len(steps[begin].batches) for begin in begins)
    for found in steps:
        assert [extra["labels"] is batch.labels for extra, batch in zip(found.extras, found.batches, strict=True)]


def test_a_round_is_made_again_from_its_first_step() -> None:
    """A run that goes on asks for the very round that the undisturbed one had."""
    rows = training_rows(10)
    whole, later = Writer(rows, 2), Writer(rows, 2)
    for writer, steps in ((whole, range(6)), (later, range(4, 6))):
        made = experience(rows, writer)
        for step in steps:
            made.step(step, 6)
    assert later.asked == whole.asked[2:]


def test_rounds_of_data_ask_nobody() -> None:
    rows, prepared = training_rows(10), list[Batch]()
    writer = Writer(rows, 2, ("data", "fresh"))
    made = experience(rows, writer, prepared)
    steps = [made.step(step, 8) for step in range(8)]
    assert [step.own for step in steps] == [False, False, True, True] * 2
    assert [begin for _, begin, _ in writer.asked] == [2, 6]
    assert all(row >= 0 for batch in steps[0].batches for row in batch.rows)
    assert steps[0].extras == []
    assert len(prepared) == sum(len(steps[step].batches) for step in (2, 6))
