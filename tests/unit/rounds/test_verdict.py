"""Which round is the best, and when a figure has fallen for too long."""

from __future__ import annotations

import math

import pytest

from kdstudio.rounds.verdict import Verdict, verdict_of

CASES = (
    ("student_nll", [3.0, 2.0, 1.0], 0.0, Verdict(2, 0)),
    ("student_nll", [2.0, 2.5], 0.0, Verdict(0, 1)),
    ("student_nll", [2.0, 2.5], 0.5, Verdict(0, 0)),
    ("student_nll", [2.0, 2.0], 0.0, Verdict(0, 0)),
    ("student_nll", [2.0, 1.0, 1.5, 1.6], 0.2, Verdict(1, 2)),
    ("student_nll", [2.0, 3.0, 1.0], 0.0, Verdict(2, 0)),
    ("accuracy", [0.2, 0.5, 0.4], 0.0, Verdict(1, 1)),
    ("accuracy", [0.2, 0.1, 0.3], 0.0, Verdict(2, 0)),
    ("student_nll", [2.0, math.nan], 10.0, Verdict(0, 1)),
    ("student_nll", [math.nan, 2.0], 0.0, Verdict(1, 0)),
    ("student_nll", [4.0], 0.0, Verdict(0, 0)),
)


@pytest.mark.parametrize(("figure", "values", "tolerance", "expected"), CASES)
def test_verdicts(figure: str, values: list[float], tolerance: float, expected: Verdict) -> None:
    assert verdict_of(figure, values, tolerance) == expected
