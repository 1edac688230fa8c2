"""Rows that are never trained on, because of a tag: they only measure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kdstudio.catalogue.training import DataTable
from kdstudio.distillation.examples import Example
from kdstudio.distillation.rows import TrainingRows, split_rows
from kdstudio.errors import BadInput

ROWS = [("law",), ("law", "exam"), ("general",), ("mix",), ("law", "held"), ("general", "held"), (), ()]


def split(**data: Any) -> TrainingRows:
    examples = [
        Example(number, number, np.array([1, 2], np.int32), np.array([3], np.int32), "", "", tags)
        for number, tags in enumerate(ROWS)
    ]
    return split_rows(examples, DataTable(**data), 0)


def ids(rows: TrainingRows, which: range) -> list[int]:
    return [rows.examples[row].prompt_id for row in which]


def test_rows_with_the_tags_are_held_out_and_the_others_are_learnt() -> None:
    rows = split(exclude_tags=("exam", "general"), held_out=0.0)
    assert ids(rows, rows.training) == [0, 3, 4, 6, 7]
    assert ids(rows, rows.held_out) == [1, 2, 5]


def test_they_come_beside_those_with_the_held_out_tag_or_drawn() -> None:
    tagged = split(exclude_tags=("exam", "general"), held_out_tag="held")
    assert ids(tagged, tagged.training) == [0, 3, 6, 7]
    assert ids(tagged, tagged.held_out) == [4, 1, 2, 5]
    drawn = split(exclude_tags=("exam", "general"), held_out=0.4)
    assert len(ids(drawn, drawn.training)) == 3
    assert ids(drawn, drawn.held_out)[-3:] == [1, 2, 5]
    assert not {1, 2, 5} & set(ids(drawn, drawn.training))


def test_a_tag_that_no_row_has_excludes_none_and_one_that_all_have_is_said() -> None:
    rows = split(exclude_tags=("gone",), held_out=0.0)
    assert ids(rows, rows.training) == list(range(8))
    assert not rows.held_out
    with pytest.raises(BadInput, match="nothing to train on"):
        split_rows(split().examples[:1], DataTable(exclude_tags=("law",)), 0)
