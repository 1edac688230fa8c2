"""A packed signal keeps its ids and its mass exactly, and its distribution within a ten-thousandth of a nat."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from kdstudio.teachers.llama_logits import signal_of
from kdstudio.teachers.signals import SparseSignal
from kdstudio.teachers.vault_format import pack, packed_bytes, unpack


def signal(tokens: int, vocabulary: int, top_k: int, *, spread: float = 3.0, seed: int = 0) -> SparseSignal:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((tokens, vocabulary)) * spread).astype(np.float32)
    return signal_of(logits, rng.integers(0, vocabulary, tokens), top_k)


def divergence(exact: SparseSignal, packed: SparseSignal) -> npt.NDArray[np.float64]:
    """Forward KL of each token, the tail as one more outcome."""
    p, q = exact.log_probs.astype(np.float64), packed.log_probs.astype(np.float64)
    tail_p, tail_q = exact.tail_log_prob.astype(np.float64), packed.tail_log_prob.astype(np.float64)
    tail = np.where(np.isfinite(tail_p), np.exp(tail_p) * (tail_p - tail_q), 0)
    kl: npt.NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=1) + tail
    return kl


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0, 8.0])
@pytest.mark.parametrize(("vocabulary", "top_k"), [(414, 50), (49152, 50), (151936, 50), (262144, 128)])
def test_a_packed_signal_is_the_signal(vocabulary: int, top_k: int, spread: float) -> None:
    exact = signal(20, vocabulary, top_k, spread=spread)
    packed = unpack(pack(exact))
    assert np.array_equal(packed.ids, exact.ids)
    assert np.array_equal(packed.tail_log_prob, exact.tail_log_prob)
    assert np.allclose(packed.label_log_prob, exact.label_log_prob, rtol=1e-3)
    assert np.allclose(packed.captured_mass, exact.captured_mass, atol=1e-6)
    assert (np.diff(packed.log_probs, axis=1) <= 0).all()
    assert abs(divergence(exact, packed)).max() < 1e-4
    assert abs(np.exp(packed.log_probs) - np.exp(exact.log_probs)).max() < 4e-3


def test_size_at_fifty() -> None:
    assert len(pack(signal(30, 49152, 50))) / 30 < 156
    assert len(pack(signal(30, 151936, 50))) / 30 < 176


@pytest.mark.parametrize("top_k", [1, 414])
def test_the_smallest_and_the_largest_k(top_k: int) -> None:
    exact = signal(5, 414, top_k)
    packed = unpack(pack(exact))
    assert packed.ids.shape == (5, top_k)
    assert np.allclose(packed.log_probs[:, 0], exact.log_probs[:, 0], atol=0.02)
    if top_k == 414:
        assert np.isneginf(packed.tail_log_prob).all()


def test_a_certain_teacher() -> None:
    logits = np.full((1, 1000), -100, np.float32)
    logits[0, 7] = 100
    packed = unpack(pack(signal_of(logits, np.array([7]), 50)))
    assert packed.ids[0, 0] == 7
    assert packed.log_probs[0, 0] == pytest.approx(0, abs=1e-6)
    assert np.isfinite(packed.log_probs).all()


def test_wrong_sizes_are_refused() -> None:
    data = pack(signal(3, 414, 10))
    assert len(data) == packed_bytes(3, 10, 0)
    for broken in (data[:-1], data + b"\0"):
        with pytest.raises(ValueError, match="length"):
            unpack(broken)
