"""A filter that only says what it thinks, for recipes that need the wrong ones too."""

from __future__ import annotations

from kdstudio.catalogue.steps import FilterStep
from kdstudio.elicitation.filters import bind_filter
from kdstudio.elicitation.passage import Passage


def verdict(answer: str, step: FilterStep) -> Passage:
    row = Passage(1, "1", {"answer": answer, "reference": "0.5"}, finish_reason="stop")
    bind_filter(step, {}, "x")(row)
    return row


def test_with_a_column_to_write_nothing_falls_and_the_row_says_whether_it_passed() -> None:
    step = FilterStep(column="answer", reference="reference", into="right", otherwise="drop")
    assert verdict("1/2", step).columns["right"] == 1
    wrong = verdict("2", step)
    assert wrong.columns["right"] == 0
    assert not wrong.rejected
