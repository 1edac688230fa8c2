"""Agreement by hand, kappa's error against published figures, and intervals that promise what they hold."""

from __future__ import annotations

import random

import pytest

from kdstudio.errors import BadInput
from kdstudio.quality.agreement import agreement, agreement_of, kappa_error, paired_agreement, strength


def test_agreement_by_hand() -> None:
    judged = [True] * 20 + [True] * 5 + [False] * 10 + [False] * 15
    decided = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    found = agreement(judged, decided)
    assert found.share == pytest.approx(0.7)
    assert found.kappa == pytest.approx(0.4)  # (0.7 - 0.5) / (1 - 0.5)
    assert found.counts == {(True, True): 20, (True, False): 5, (False, True): 10, (False, False): 15}
    three = agreement(["a", "b", "c", "a"], ["a", "b", "c", "c"])
    assert three.kappa == pytest.approx((0.75 - 5 / 16) / (1 - 5 / 16))
    assert agreement([1, 0], [0, 1]).kappa == pytest.approx(-1)
    assert agreement([1, 1], [1, 1]).kappa is None
    assert agreement([1, 1], [1, 1]).interval is None
    assert agreement([1, 1], [1, 0]).kappa == pytest.approx(0)
    with pytest.raises(BadInput, match="Nothing to compare"):
        agreement([], [])
    with pytest.raises(BadInput, match="Nothing to compare"):
        agreement([1], [1, 0])
    with pytest.raises(BadInput, match="Nothing to compare"):
        agreement_of({("a", "a"): 0})


def test_the_error_of_kappa_is_the_published_one() -> None:
    # husbands and wives of Hout, Duncan and Sobel (1987), as the R package vcd prints them: 0.1293, error 0.06860
    table = ((7, 7, 2, 3), (2, 8, 3, 7), (1, 5, 4, 9), (2, 8, 9, 14))
    counts = {(row, column): float(table[row][column]) for row in range(4) for column in range(4)}
    assert agreement_of(counts).kappa == pytest.approx(0.1293, abs=5e-5)
    assert kappa_error(counts) == pytest.approx(0.0686, abs=5e-5)


def test_of_two_answers_chance_is_a_half() -> None:
    found = paired_agreement(41, 9)
    assert found.share == pytest.approx(0.82)
    assert found.kappa == pytest.approx(0.64)  # (0.82 - 0.5) / (1 - 0.5)
    assert found.interval is not None
    # half a row more in each of four cells: 42 of 52 right, and then the error of a share, twice
    middle, error = 2 * 42 / 52 - 1, 2 * (42 / 52 * 10 / 52 / 52) ** 0.5
    assert found.interval == pytest.approx((middle - 1.959964 * error, middle + 1.959964 * error))


def test_complete_agreement_on_a_few_rows_is_not_certain() -> None:
    found = agreement([1, 0, 1], [1, 0, 1])
    assert found.kappa == 1
    assert found.interval is not None
    assert found.interval[0] < 0.4
    assert found.interval[1] == 1


def test_the_interval_holds_the_true_kappa_about_as_often_as_it_says() -> None:
    chances, source, held = {(1, 1): 0.45, (1, 0): 0.1, (0, 1): 0.15, (0, 0): 0.3}, random.Random(5), 0
    true = agreement_of(chances).kappa
    assert true is not None
    for _ in range(400):
        rows = source.choices(list(chances), list(chances.values()), k=40)
        low, high = agreement([one for one, _ in rows], [other for _, other in rows]).interval or (-1.0, 1.0)
        held += low <= true <= high
    assert 0.92 <= held / 400 <= 0.99


def test_a_kappa_has_a_name() -> None:
    assert [strength(kappa) for kappa in (-0.2, 0.0, 0.1, 0.3, 0.5, 0.62, 0.9, 1.0)] == [
        *("no better than chance", "no better than chance", "slight", "fair", "moderate", "substantial"),
        *("almost perfect", "almost perfect"),
    ]
