"""Exact match and ROUGE-L against values worked out by hand and from the papers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdstudio.evaluation.scores import exact_match
from kdstudio.quality.rouge import rouge_l
from kdstudio.quality.words import words


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("police kill the gunman", "police killed the gunman", 0.75),  # Lin 2004, section 3.1
        ("the gunman kill police", "police killed the gunman", 0.5),  # Lin 2004, section 3.1
        ("The cat sat on the mat.", "the cat is on the mat", 10 / 12),
        ("testing one two", "testing", 0.5),  # P = 1/3, R = 1: the rouge-score package's own example
        ("testing one two", "Testing, one: two!", 1.0),
        ("a b c d", "d c b a", 0.25),
        ("", "something", 0.0),
        ("?!", "?!", 0.0),
        ("state_of-the art", "state of the art", 1.0),
        ("猫が好き", "猫は好き", 0.75),
    ],
)
def test_rouge_l_worked_values(answer: str, reference: str, value: float) -> None:
    assert rouge_l(answer, reference) == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("The Eiffel Tower!", "eiffel tower", True),
        ("Paris", "London", False),
        ("  an   apple ", "apple", True),
        ("theatre", "atre", False),
        ("Caf\u00e9", "cafe\u0301", True),
        ("", "", True),
    ],
)
def test_exact_match(answer: str, reference: str, same: bool) -> None:
    assert exact_match(answer, reference) is same


def test_words_of_mixed_scripts() -> None:
    assert words("Tokyo東京2020 ok") == ["tokyo", "東", "京", "2020", "ok"]


@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
def test_subsequence_equals_brute_force(first: list[str], second: list[str]) -> None:
    subsequences = {chosen for size in range(len(second) + 1) for chosen in itertools.combinations(second, size)}
    best = max(
        size
        for size in range(len(first) + 1)
        for chosen in itertools.combinations(first, size)
        if chosen in subsequences
    )
    value = 2 * best / (len(first) + len(second)) if first and second else 0.0
    assert rouge_l(" ".join(first), " ".join(second)) == pytest.approx(value)


@given(st.text(max_size=40), st.text(max_size=40))
def test_rouge_l_is_symmetric_and_bounded(first: str, second: str) -> None:
    value = rouge_l(first, second)
    assert 0 <= value <= 1
    assert value == pytest.approx(rouge_l(second, first))
    assert rouge_l(first, first) == (1.0 if words(first) else 0.0)
