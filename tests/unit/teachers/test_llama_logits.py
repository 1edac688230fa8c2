"""Top-k without sorting is exact, and sampling draws what its parameters say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdstudio.teachers.base import Sampling
from kdstudio.teachers.llama_logits import choose, signal_of


@pytest.mark.parametrize(("vocabulary", "top_k"), [(5, 5), (17, 3), (414, 50), (1000, 999), (49152, 50), (5000, 1024)])
def test_top_k_is_that_of_a_full_sort(vocabulary: int, top_k: int) -> None:
    rng = np.random.default_rng(vocabulary)
    logits = (rng.standard_normal((6, vocabulary)) * 4).astype(np.float32)
    logits[1] = np.round(logits[1])  # many ties
    logits[2] = 0
    logits[3, : vocabulary // 2] = -np.inf
    labels = rng.integers(vocabulary // 2, vocabulary, 6)
    signal = signal_of(logits, labels, top_k)
    exact = logits.astype(np.float64)
    exact -= np.log(np.exp(exact - exact.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)) + exact.max(
        axis=1, keepdims=True
    )
    order = np.argsort(-exact, axis=1, kind="stable")[:, :top_k]
    assert np.array_equal(signal.ids, order)
    rows = np.arange(6)
    assert np.allclose(signal.log_probs, exact[rows[:, None], order], atol=2e-5)
    assert np.allclose(signal.label_log_prob, exact[rows, labels], atol=2e-5)
    outside = np.exp(exact)
    outside[rows[:, None], order] = 0
    with np.errstate(divide="ignore"):
        assert np.allclose(signal.tail_log_prob, np.log(outside.sum(axis=1)), rtol=1e-4, atol=1e-5)


def test_a_tiny_tail_is_not_lost_to_rounding() -> None:
    logits = np.zeros((1, 1000), np.float32)
    logits[0, :10] = 30
    signal = signal_of(logits, np.array([0]), 10)
    assert signal.tail_log_prob[0] == pytest.approx(np.log(990 * np.exp(-30.0) / 10), rel=1e-4)


def drawn(logits: np.ndarray, sampling: Sampling, times: int) -> np.ndarray:
    source = np.random.default_rng(1)
    rows = np.repeat(logits[None, :], times, axis=0)
    return np.bincount(choose(rows, [sampling] * times, [source] * times), minlength=len(logits)) / times


def test_sampling_follows_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    assert np.allclose(drawn(logits, Sampling(temperature=1), 4000), [0.5, 0.3, 0.15, 0.05], atol=0.03)
    half = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    assert np.allclose(drawn(logits, Sampling(temperature=0.5), 4000), half / half.sum(), atol=0.03)
    assert np.allclose(drawn(logits, Sampling(temperature=1, top_k=2), 4000), [0.625, 0.375, 0, 0], atol=0.03)
    assert np.allclose(drawn(logits, Sampling(temperature=1, top_p=0.7), 4000), [0.625, 0.375, 0, 0], atol=0.03)
    both = drawn(logits, Sampling(temperature=1, top_k=3, top_p=0.6), 4000)  # 0.5 / 0.95 < 0.6: two remain
    assert np.allclose(both, [0.625, 0.375, 0, 0], atol=0.03)


def test_top_p_reaches_beyond_the_first_candidates() -> None:
    kept = drawn(np.zeros(600, np.float32), Sampling(temperature=1, top_p=0.9), 2000) > 0
    assert 500 < kept.sum() <= 540


def test_greedy_takes_no_draw_and_the_lowest_id_of_equals() -> None:
    source = np.random.default_rng(7)
    assert choose(np.array([[1, 3, 3]], np.float32), [Sampling(temperature=0)], [source]) == [1]
    assert source.random() == np.random.default_rng(7).random()


def test_a_row_is_drawn_alike_in_any_batch() -> None:
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((8, 300)).astype(np.float32)
    samplings = [Sampling(temperature=t) for t in (0, 1, 0.7, 1, 0, 2, 1, 1)]
    together = choose(logits, samplings, [np.random.default_rng(seed) for seed in range(8)])
    alone = [choose(logits[n : n + 1], [samplings[n]], [np.random.default_rng(n)])[0] for n in range(8)]
    assert together == alone


def test_what_is_all_but_impossible_is_not_drawn() -> None:
    """A flat tail of 200,000 tokens with a billionth of the mass: at 500 places it wins 5e-7 times, not 12."""
    row = np.full((1, 200_000), math.log(1e-9 / 200_000), dtype=np.float32)
    row[0, 7] = 0.0
    source = np.random.default_rng(3)
    assert {choose(row, [Sampling(temperature=1.0)], [source])[0] for _ in range(500)} == {7}


def test_rare_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    """10,000 tokens share a hundredth of the mass."""
    row = np.full((1, 10_001), math.log(0.01 / 10_000), dtype=np.float32)
    row[0, 0] = math.log(0.99)
    source = np.random.default_rng(4)
    rare = sum(choose(row, [Sampling(temperature=1.0)], [source])[0] != 0 for _ in range(3000))
    assert 30 - 4 * 30**0.5 < rare < 30 + 4 * 30**0.5
