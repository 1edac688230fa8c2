"""ROUGE-L by hand, and the pool against comparing with every text."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdstudio.errors import BadInput
from kdstudio.quality.rouge import RougePool, rouge_l

VOCABULARY = [f"word{number}" for number in range(3000)]
COMMON = ["write", "a", "the", "of", "to", "about", "list", "explain", "how", "what", "is", "in", "and", "for", "give"]


@pytest.mark.parametrize(
    ("candidate", "reference", "value"),
    [
        ("police kill the gunman", "police killed the gunman", 0.75),  # Lin 2004, section 3.1
        ("the gunman kill police", "police killed the gunman", 0.5),  # Lin 2004, section 3.1
        ("The cat sat on the mat.", "the cat is on the mat", 10 / 12),  # 5 words of 6 and 6
        ("testing one two", "testing", 0.5),  # P = 1/3, R = 1
        ("a b c d", "d c b a", 0.25),
        ("猫が好き", "猫は好き", 0.75),
        ("", "something", 0.0),
        ("?!", "?!", 0.0),
    ],
)
def test_worked_values(candidate: str, reference: str, value: float) -> None:
    assert rouge_l(candidate, reference) == pytest.approx(value, abs=1e-12)


texts = st.lists(st.lists(st.sampled_from("abcde"), max_size=8).map(" ".join), max_size=12)


@given(texts, st.lists(st.sampled_from("abcdef"), max_size=8).map(" ".join))
def test_nearest_is_what_comparing_with_all_finds(pool_texts: list[str], text: str) -> None:
    pool = RougePool(0.7)
    for each in pool_texts:
        pool.add(each)
    scores = [rouge_l(text, each) for each in pool_texts]
    best = max(scores, default=0.0)
    assert pool.nearest(text) == ((best, pool_texts[scores.index(best)]) if best else (0.0, ""))
    assert pool.admits(text) == (best < 0.7)
    assert len(pool) == len(pool_texts)


def test_self_instructs_rule() -> None:
    pool = RougePool()
    assert pool.admits("Write a poem about the sea")
    pool.add("Write a poem about the sea")
    assert not pool.admits("Write a short poem about the sea")  # 2 * 6 / 13
    assert pool.admits("Write a letter to a friend")  # 2 * 2 / 12
    assert pool.nearest("write a poem about THE SEA!") == (1.0, "Write a poem about the sea")


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(BadInput):
        RougePool(threshold)


def instruction(draw: random.Random) -> str:
    """Twelve words or so, half of them from a few that every instruction uses."""
    return " ".join(draw.choice(COMMON if draw.random() < 0.5 else VOCABULARY) for _ in range(draw.randint(6, 18)))


def test_a_pool_of_ten_thousand_answers_in_a_few_milliseconds() -> None:
    draw, pool = random.Random(1), RougePool()
    for _ in range(10_000):
        pool.add(instruction(draw))
    asked = [instruction(draw) for _ in range(100)]
    began = time.perf_counter()
    for text in asked:
        pool.nearest(text)
    assert (time.perf_counter() - began) / len(asked) < 0.02


def test_long_and_strange_texts() -> None:
    pool = RougePool()
    for text in ("a b " * 25_000, "\ud800 \0", "🐋" * 1000, "", "\n" * 100_000):
        pool.add(text)
    assert pool.nearest("a b " * 25_000)[0] == 1.0
    assert pool.nearest("🐋") == (0.0, "")
