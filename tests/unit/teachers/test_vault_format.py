"""A packed signal keeps its ids and its mass exactly, and its distribution within a ten-thousandth of a nat.

Drawn signals come back whole, and what an earlier version packed can still be read.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from kdstudio.teachers.llama_logits import signal_of
from kdstudio.teachers.signals import SHAPE_BYTES, DrawnSignal, Draws, SparseSignal, concatenate, concatenate_draws
from kdstudio.teachers.signals_draws import chances, draw
from kdstudio.teachers.vault_format import pack, packed_mass, packed_tokens, unpack, unpack_all


def signal(tokens: int, vocabulary: int, top_k: int, *, spread: float = 3.0, seed: int = 0) -> SparseSignal:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((tokens, vocabulary)) * spread).astype(np.float32)
    return signal_of(logits, rng.integers(0, vocabulary, tokens), top_k)


def unpacked(data: bytes) -> SparseSignal:
    found = unpack(data)
    assert isinstance(found, SparseSignal)
    return found


def by_id(signal: SparseSignal) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
    """Ids and log-probs in the order of the ids: equal codes come back in no other."""
    order = np.argsort(signal.ids, axis=1)
    log_probs = np.take_along_axis(signal.log_probs, order, axis=1)
    return np.take_along_axis(signal.ids, order, axis=1), log_probs.astype(np.float64)


def divergence(exact: SparseSignal, packed: SparseSignal) -> npt.NDArray[np.float64]:
    """Forward KL of each token, the tail as one more outcome."""
    (_, p), (_, q) = by_id(exact), by_id(packed)
    tail_p, tail_q = exact.tail_log_prob.astype(np.float64), packed.tail_log_prob.astype(np.float64)
    tail = np.where(np.isfinite(tail_p), np.exp(tail_p) * (tail_p - tail_q), 0)
    kl: npt.NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=1) + tail
    return kl


def is_the_signal(exact: SparseSignal, packed: SparseSignal) -> None:
    """Nothing is lost but what rounding may take."""
    (ids, p), (packed_ids, q) = by_id(exact), by_id(packed)
    assert np.array_equal(packed_ids, ids)
    assert np.array_equal(packed.ids[:, 0], exact.ids[:, 0])
    assert np.array_equal(packed.tail_log_prob, exact.tail_log_prob)
    assert np.allclose(packed.label_log_prob, exact.label_log_prob, rtol=1e-3)
    assert np.allclose(packed.captured_mass, exact.captured_mass, atol=1e-6)
    assert (np.diff(packed.log_probs, axis=1) <= 0).all()
    assert abs(divergence(exact, packed)).max() < 1e-4
    assert abs(np.exp(q) - np.exp(p)).max() < 4e-3


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0, 8.0])
@pytest.mark.parametrize(("vocabulary", "top_k"), [(414, 50), (49152, 50), (151936, 50), (262144, 128)])
def test_a_packed_signal_is_the_signal(vocabulary: int, top_k: int, spread: float) -> None:
    exact = signal(20, vocabulary, top_k, spread=spread)
    is_the_signal(exact, unpacked(pack(exact)))


@pytest.mark.parametrize(("vocabulary", "expected"), [(414, 90), (49152, 133), (151936, 144), (262144, 147)])
def test_size_at_fifty(vocabulary: int, expected: int) -> None:
    assert expected - 2 < len(pack(signal(60, vocabulary, 50))) / 60 <= expected


@pytest.mark.parametrize(("vocabulary", "expected"), [(414, 106), (49152, 149), (151936, 160)])
def test_a_shape_comes_back_whole_and_takes_its_bytes(vocabulary: int, expected: int) -> None:
    exact = signal(60, vocabulary, 50)
    codes = np.random.default_rng(3).integers(0, 256, (60, SHAPE_BYTES)).astype(np.uint8)
    shaped = replace(exact, shape=codes)
    found = unpacked(pack(shaped))
    assert found.shape is not None
    assert np.array_equal(found.shape, codes)
    is_the_signal(exact, found)
    assert expected - 2 < len(pack(shaped)) / 60 <= expected
    assert packed_mass(pack(shaped)) == pytest.approx(packed_mass(pack(exact)))
    joined = unpack_all([pack(shaped[:40]), pack(shaped[40:])])
    assert isinstance(joined, SparseSignal)
    assert joined.shape is not None
    assert np.array_equal(joined.shape, codes)


def test_of_equals_the_first_is_still_the_first() -> None:
    logits = np.zeros((3, 600), np.float32)
    exact = signal_of(logits, np.array([1, 2, 3]), 50)
    packed = unpacked(pack(exact))
    assert np.array_equal(packed.ids[:, 0], exact.ids[:, 0])
    assert abs(divergence(exact, packed)).max() < 1e-6


def packed_before(signal: SparseSignal) -> bytes:
    """What the first version of the packing made: ids by probability, 16 bits of each and the others as planes."""
    count, top_k = signal.ids.shape
    extra = max(0, int(signal.ids.max(initial=0)).bit_length() - 16)
    relative = np.exp((signal.log_probs - signal.log_probs[:, :1]).astype(np.float64) / 4)
    codes = np.clip(np.rint(relative[:, 1:] * 255), 1, 255).astype(np.uint8)
    parts = [
        struct.pack("<IHBx", count, top_k, extra),
        (signal.ids & 0xFFFF).astype("<u2").tobytes(),
        *(np.packbits((signal.ids >> (16 + bit)) & 1, axis=None).tobytes() for bit in range(extra)),
        codes.tobytes(),
        signal.tail_log_prob.astype("<f4").tobytes(),
        signal.label_log_prob.astype("<f2").tobytes(),
    ]
    return b"".join(parts)


@pytest.mark.parametrize("vocabulary", [414, 49152, 151936])
def test_the_first_packing_is_still_read(vocabulary: int) -> None:
    exact = signal(20, vocabulary, 50)
    found = unpacked(packed_before(exact))
    assert np.array_equal(found.ids, exact.ids)
    is_the_signal(exact, found)


@pytest.mark.parametrize("top_k", [1, 414])
def test_the_smallest_and_the_largest_k(top_k: int) -> None:
    exact = signal(5, 414, top_k)
    packed = unpacked(pack(exact))
    assert packed.ids.shape == (5, top_k)
    assert np.allclose(packed.log_probs[:, 0], exact.log_probs[:, 0], atol=0.02)
    if top_k == 414:
        assert np.isneginf(packed.tail_log_prob).all()


def test_a_certain_teacher() -> None:
    logits = np.full((1, 1000), -100, np.float32)
    logits[0, 7] = 100
    packed = unpacked(pack(signal_of(logits, np.array([7]), 50)))
    assert packed.ids[0, 0] == 7
    assert packed.log_probs[0, 0] == pytest.approx(0, abs=1e-6)
    assert np.isfinite(packed.log_probs).all()


def drawing(tokens: int, vocabulary: int, draws: int, *, spread: float = 3.0, seed: int = 0) -> DrawnSignal:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((tokens, vocabulary)) * spread).astype(np.float32)
    uniform = chances(([1, 2], [seed, 3]), Draws(draws, seed), 0, tokens)
    return draw(logits, rng.integers(0, vocabulary, tokens), uniform)


@pytest.mark.parametrize("draws", [1, 7, 50, 300])
@pytest.mark.parametrize("vocabulary", [2, 414, 49152, 151936])
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_draws_come_back_whole(vocabulary: int, draws: int, spread: float) -> None:
    exact = drawing(9, vocabulary, draws, spread=spread)
    found = unpack(pack(exact))
    assert isinstance(found, DrawnSignal)
    assert np.array_equal(found.ids, exact.ids)
    assert np.array_equal(found.counts, exact.counts)
    assert found.draws == exact.draws == draws
    assert np.allclose(found.label_log_prob, exact.label_log_prob, rtol=1e-3, atol=1e-7)


def test_draws_are_short() -> None:
    exact = drawing(60, 49152, 50, spread=5.0)
    distinct = (exact.counts > 0).sum() / 60
    assert 8 < distinct < 20
    assert len(pack(exact)) / 60 < 50 / 8 + 2 * distinct + 2 + 1


@pytest.mark.parametrize("sizes", [(3,), (3, 1, 7), (40, 2)])
@pytest.mark.parametrize("vocabulary", [414, 49152])
def test_many_are_decoded_as_one(vocabulary: int, sizes: tuple[int, ...]) -> None:
    made = [signal(size, vocabulary, 20, seed=size) for size in sizes]
    drawings = [drawing(size, vocabulary, 20, seed=size) for size in sizes]
    joined = unpack_all([pack(item) for item in made])
    expected = concatenate([unpacked(pack(item)) for item in made])
    older = unpack_all([packed_before(item) for item in made])
    mixed = unpack_all([*(packed_before(item) for item in made[:1]), *(pack(item) for item in made[1:])])
    assert isinstance(joined, SparseSignal)
    assert isinstance(older, SparseSignal)
    assert isinstance(mixed, SparseSignal)
    for name, value in vars(expected).items():
        assert np.array_equal(vars(joined)[name], value)
    assert np.array_equal(by_id(older)[0], by_id(joined)[0])
    assert np.array_equal(by_id(mixed)[0], by_id(joined)[0])
    drawn = unpack_all([pack(item) for item in drawings])
    assert isinstance(drawn, DrawnSignal)
    whole = concatenate_draws(drawings)
    assert np.array_equal(drawn.ids, whole.ids)
    assert np.array_equal(drawn.counts, whole.counts)


def test_wrong_sizes_are_refused() -> None:
    for data in (pack(signal(3, 414, 10)), packed_before(signal(3, 414, 10)), pack(drawing(3, 414, 10))):
        assert packed_tokens(data) == 3
        for broken in (data[:-1], data + b"\0", data[:5], b"", data[:7] + b"\x09" + data[8:]):
            with pytest.raises(ValueError, match="length"):
                unpack(broken)


@pytest.mark.parametrize(
    "data", [pack(signal(4, 414, 10)), packed_before(signal(4, 414, 10)), pack(drawing(4, 414, 9))]
)
def test_flipped_bits_are_numbers_or_refused(data: bytes) -> None:
    """The checksum comes first; but should it fail to notice, nothing else than a `ValueError` may come of it."""
    for place in range(8 * len(data)):
        broken = bytearray(data)
        broken[place // 8] ^= 1 << (place % 8)
        try:
            found = unpack(bytes(broken))
        except ValueError:
            continue
        assert len(found.ids) == len(found.label_log_prob)
