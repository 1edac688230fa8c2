"""Refusals against sixty of each kind; precision and recall are asserted, not every example."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdstudio.quality.refusals import is_refusal
from tests.unit.quality.refusal_examples import ANSWERS, REFUSALS


def test_precision_and_recall() -> None:
    seen = [text for text in REFUSALS if is_refusal(text)]
    wrong = [text for text in ANSWERS if is_refusal(text)]
    assert len(REFUSALS) == len(ANSWERS) == 60
    assert len(seen) / len(REFUSALS) >= 0.95, set(REFUSALS) - set(seen)
    assert len(seen) / (len(seen) + len(wrong)) >= 0.95, wrong


@pytest.mark.parametrize("text", REFUSALS[:5])
def test_length_spaces_and_case_make_no_difference(text: str) -> None:
    assert is_refusal(f"\n\n  {text.upper()}\n" + "More words. " * 10_000)


def test_what_refuses_half_way_or_says_nothing_is_no_refusal() -> None:
    assert not is_refusal("The answer is 4. " * 50 + "I cannot help with the rest.")
    assert not is_refusal("")
    assert not is_refusal("...")


@given(st.text(max_size=500))
def test_any_text_gets_an_answer(text: str) -> None:
    assert is_refusal(text) in (True, False)


@pytest.mark.parametrize(
    "piece", ["sorry ", "i am ", "i can't ", "but, ", "ich kann ", "so very ", "\n", "。", "as an ai ", "'"]
)
def test_long_texts_take_no_time(piece: str) -> None:
    began = time.perf_counter()
    is_refusal(piece * (100_000 // len(piece)))
    assert time.perf_counter() - began < 0.3
