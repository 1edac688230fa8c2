"""Figures of diversity by hand, and rounds that collapse in each of the ways looked for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdstudio.quality.diversity import WINDOW, Diversity, Limits, figures, slides
from kdstudio.quality.rouge import rouge_l

FIRST = Diversity(texts=100, distinct_1=0.4, distinct_2=0.8, mean_words=50.0, repetition=0.02, similarity=0.2)


def test_by_hand() -> None:
    found = figures(["a b a b", "a c", ""])
    assert found.texts == 3
    assert found.distinct_1 == pytest.approx(3 / 6)  # a b c in a b a b a c
    assert found.distinct_2 == pytest.approx(3 / 4)  # ab ba ab, ac
    assert found.mean_words == pytest.approx(2.0)
    assert found.repetition == 0.0  # "a b a b" has one run of four
    assert found.similarity == pytest.approx(rouge_l("a b a b", "a c"))
    assert found.similarity == pytest.approx(2 * 1 / 6)


def test_repetition_by_hand() -> None:
    assert figures(["a b c d a b c d"]).repetition == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
    assert figures(["a " * 103, "a b c"]).repetition == pytest.approx(99 / 100)  # short texts have no run
    assert figures(["a b c d a b c d", "a b c d"]).repetition == pytest.approx(1 / 10)


def test_more_texts_of_the_same_kind_do_not_lower_the_figure() -> None:
    texts = [" ".join(f"w{(place * 7919 + number * 31) % 997}" for place in range(40)) for number in range(400)]
    few, many = figures(texts[:100]), figures(texts)
    assert len(texts[0].split()) * 100 > WINDOW
    assert many.distinct_1 == pytest.approx(few.distinct_1, rel=0.05)
    assert many == figures(texts)


@pytest.mark.parametrize("texts", [[], [""], ["?!"]])
def test_nothing_to_count(texts: list[str]) -> None:
    assert figures(texts) == Diversity(len(texts), 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"distinct_2": 0.57}, ""),
        ({"distinct_2": 0.55}, "fewer different word pairs (0.80 at first, 0.55 now)"),
        ({"distinct_1": 0.27}, "fewer different words (0.40 at first, 0.27 now)"),
        ({"mean_words": 24.0}, "texts have become short (50 at first, 24 now)"),
        ({"mean_words": 151.0}, "texts have become long (50 at first, 151 now)"),
        ({"repetition": 0.18}, "texts repeat themselves (0.02 at first, 0.18 now)"),
        ({"similarity": 0.36}, "texts have become alike (0.20 at first, 0.36 now)"),
        ({"texts": 0}, "the round brought no texts"),
    ],
)
def test_what_slides_is_named(change: dict[str, Any], reason: str) -> None:
    assert slides(FIRST, dataclasses.replace(FIRST, **change)) == reason


def test_limits_are_the_callers_and_nothing_slides_from_nothing() -> None:
    now = dataclasses.replace(FIRST, distinct_2=0.7)
    assert slides(FIRST, now) == ""
    assert slides(FIRST, now, Limits(distinct=0.9)).startswith("fewer different word pairs")
    assert slides(figures([]), now) == ""


@given(st.lists(st.text(max_size=30), max_size=15))
def test_figures_stay_in_their_range_and_a_round_does_not_slide_from_itself(texts: list[str]) -> None:
    found = figures(texts)
    shares = (found.distinct_1, found.distinct_2, found.repetition, found.similarity)
    assert all(0 <= share <= 1 for share in shares)
    assert slides(found, found) == ""
