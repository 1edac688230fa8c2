"""Which answers agree with a prompt's reference."""

from __future__ import annotations

import pytest

from kdstudio.evaluation.answers import share_right


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("5", "5", True),
        ("2 + 3 equals 5.", "5", True),
        ("We have 5. The answer is 6, not 5.", "5", False),
        ("5 cups and 2 plates", "5", False),
        ("<think>\nperhaps 4\n</think>\n\nThe answer is 5.", "5", True),
        ("<think>\nit is 5", "5", False),
        ("It costs 1,250.50 in all", "1250.50", True),
        ("It was -3.", "-3", True),
        ("It was -3.", "3", False),
        ("Paris", "paris", True),
        ("It is 3 miles to Paris", "Paris", False),
        ("", "5", False),
    ],
)
def test_one_answer(answer: str, reference: str, *, right: bool) -> None:
    assert share_right([reference], {0: answer}) == float(right)


def test_the_share_counts_missing_answers_as_wrong() -> None:
    assert share_right(["1", "2", "3", "4"], {0: "1", 1: "2", 3: "5"}) == 0.5
    assert share_right([], {}) == 0.0
