"""How a teacher signal is packed: about 131 bytes a token at k = 50 and 49,152 ids, 141 at 151,936.

A log-prob is kept as one byte: the fourth root of the token's probability relative to the likeliest one, in 254 steps.
That spends the precision where a divergence feels it: on a 135M teacher's answers a packed signal diverges from
the exact one by 2e-5 nats a token, at most 4e-5. The likeliest token's own probability is not kept: it is what the tail
leaves, so that the mass of a packed signal is exactly one.

A token's ids are kept in rising order, which costs log2(k!) bits less than their order by probability; the codes bring
that back, equal ones apart. Rising ids are an Elias-Fano list (Elias 1974, https://doi.org/10.1145/321812.321820): low
bits as they are, high bits in unary, in rows of equal width, so that no token is decoded by itself.

Draws from the teacher (RS-KD) take n / 8 bytes a token for their counts, and each distinct id as many bits as it needs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from kdstudio.teachers.signals import DrawnSignal, Ids, Signal, SparseSignal

_HEAD = struct.Struct("<IHBB")  # tokens; k or draws; bits of an id (0: above 16; 1: low; 2: all); the packing
_LAST = struct.Struct("<I")  # packing 1: the highest id
_PLAIN, _RISING, _DRAWN = range(3)
_LIKELIEST, _STEPS, _PLAIN_STEPS = 255, 254, 255
Bytes = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]


def pack(signal: Signal) -> bytes:
    """The bytes of one signal."""
    return _pack_draws(signal) if isinstance(signal, DrawnSignal) else _pack_rising(signal)


def unpack(data: bytes | memoryview) -> Signal:
    """The signal that `pack` wrote, or its forerunner. Raises `ValueError` when the sizes do not add up."""
    if len(data) < _HEAD.size:
        raise _wrong()
    count, size, bits, packing = _HEAD.unpack_from(data, 0)
    source = _Source(np.frombuffer(data, np.uint8), _HEAD.size)
    if packing not in _READERS or not size:
        raise _wrong()
    signal = _READERS[packing](source, count, size, bits)
    if source.at != len(source.raw):
        raise _wrong()
    return signal


def packed_tokens(data: bytes | memoryview) -> int:
    """How many tokens a packed signal says it has; -1 for what is too short to say it."""
    return int(_HEAD.unpack_from(data, 0)[0]) if len(data) >= _HEAD.size else -1


def _wrong() -> ValueError:
    return ValueError("a packed signal has the wrong length")


class _Source:
    """Packed bytes, taken one part after the other."""

    def __init__(self, raw: Bytes, at: int) -> None:
        self.raw, self.at = raw, at

    def take(self, size: int) -> Bytes:
        """The next `size` bytes."""
        if size > len(self.raw) - self.at:
            raise _wrong()
        self.at += size
        return self.raw[self.at - size : self.at]

    def bits(self, count: int) -> Bytes:
        """The next `count` bits, as zeros and ones; they take whole bytes."""
        return np.unpackbits(self.take(-(-count // 8)), count=count)


def _pack_rising(signal: SparseSignal) -> bytes:
    count, top_k = signal.ids.shape
    relative = np.exp((signal.log_probs - signal.log_probs[:, :1]).astype(np.float64) / 4)
    codes = np.clip(np.rint(relative * _STEPS), 1, _STEPS).astype(np.uint8)
    codes[:, :1] = _LIKELIEST
    order = np.argsort(signal.ids, axis=1)
    ids, codes = (np.take_along_axis(part, order, axis=1) for part in (signal.ids, codes))
    last = int(ids.max(initial=0))
    low = min(range(last.bit_length() + 1), key=lambda bits: top_k * bits + (last >> bits))
    marks = np.zeros((count, top_k + (last >> low)), np.uint8)
    np.put_along_axis(marks, (ids >> low).astype(np.int64) + np.arange(top_k), 1, axis=1)
    parts = [
        _HEAD.pack(count, top_k, low, _RISING),
        _LAST.pack(last),
        np.packbits(marks, axis=None).tobytes(),
        *_low_parts(ids, low),
        codes.tobytes(),
        signal.tail_log_prob.astype("<f4").tobytes(),
        signal.label_log_prob.astype("<f2").tobytes(),
    ]
    return b"".join(parts)


def _unpack_rising(source: _Source, count: int, top_k: int, low: int) -> SparseSignal:
    (last,) = _LAST.unpack(source.take(_LAST.size).tobytes())
    width = top_k + (last >> low)
    marks = np.flatnonzero(source.bits(count * width).view(np.bool_))
    if len(marks) != count * top_k:
        raise _wrong()
    # The mark of the i-th id stands at its high bits + i, in its token's row
    high = marks.reshape(count, top_k) - (np.arange(count) * width)[:, None] - np.arange(top_k)
    ids = (high << low).astype(np.uint32) | _low(source, count * top_k, low).reshape(count, top_k)
    codes = source.take(count * top_k).reshape(count, top_k)
    order = np.argsort(_LIKELIEST - codes, axis=1, kind="stable")
    order += (np.arange(count) * top_k)[:, None]
    codes = codes.reshape(-1)[order]
    tail, label = _ends(source, count)
    return SparseSignal(ids.reshape(-1)[order], _log_probs(codes, tail), tail, label)


def _log_probs(codes: Bytes, tail: Float) -> Float:
    shift = _inside(tail) - np.log(_MASS_OF_CODE[codes].sum(axis=1))
    log_probs: Float = (_LOG_OF_CODE[codes] + shift[:, None]).astype(np.float32)
    return log_probs


def _inside(tail: Float) -> npt.NDArray[np.float64]:
    """[N] the log of the mass that the tail leaves."""
    inside: npt.NDArray[np.float64] = np.log(np.maximum(-np.expm1(np.minimum(tail, 0).astype(np.float64)), 1e-12))
    return inside


_LOG_OF_CODE = 4 * np.log(np.clip(np.arange(256), 1, _STEPS) / _STEPS)
_MASS_OF_CODE = np.exp(_LOG_OF_CODE)


def _low_parts(values: Ids, bits: int) -> Iterator[bytes]:
    """The lowest `bits` of each value: whole bytes, and further bits packed by eights."""
    whole = bits // 8
    for byte in range(whole):
        yield (values >> (8 * byte)).astype(np.uint8).tobytes()
    for bit in range(8 * whole, bits):
        yield np.packbits((values >> bit) & 1, axis=None).tobytes()


def _low(source: _Source, count: int, bits: int) -> Ids:
    values, whole = np.zeros(count, np.uint32), bits // 8
    for byte in range(whole):
        values |= source.take(count).astype(np.uint32) << (8 * byte)
    for bit in range(8 * whole, bits):
        values |= source.bits(count).astype(np.uint32) << bit
    return values


def _ends(source: _Source, count: int) -> tuple[Float, Float]:
    """The tails and the labels."""
    tail = source.take(4 * count).view("<f4").astype(np.float32)
    return tail, source.take(2 * count).view("<f2").astype(np.float32)


def _pack_draws(signal: DrawnSignal) -> bytes:
    """Each token's draws in the order of their ids, as one bit each: set where the next draw is of another id."""
    count, draws = len(signal), signal.draws
    drawn = signal.counts > 0
    ends = np.cumsum(signal.counts, axis=1, dtype=np.int64) - 1
    marks = np.zeros((count, draws), np.uint8)
    marks[np.nonzero(drawn)[0], ends[drawn]] = 1
    ids = signal.ids[drawn]
    bits = int(ids.max(initial=0)).bit_length()
    parts = [
        _HEAD.pack(count, draws, bits, _DRAWN),
        np.packbits(marks, axis=None).tobytes(),
        *_low_parts(ids, bits),
        signal.label_log_prob.astype("<f2").tobytes(),
    ]
    return b"".join(parts)


def _unpack_draws(source: _Source, count: int, draws: int, bits: int) -> DrawnSignal:
    marks = source.bits(count * draws).reshape(count, draws)
    if not marks[:, -1].all():
        raise _wrong()
    rows, ends = np.nonzero(marks)
    distinct = np.bincount(rows, minlength=count)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(distinct) - distinct, distinct)
    before = np.where(columns > 0, np.roll(ends, 1), -1)
    shape = (count, int(distinct.max(initial=0)))
    ids, counts = np.zeros(shape, np.uint32), np.zeros(shape, np.uint16)
    ids[rows, columns] = _low(source, len(rows), bits)
    counts[rows, columns] = ends - before
    label = source.take(2 * count).view("<f2").astype(np.float32)
    return DrawnSignal(ids, counts, label)


def _unpack_plain(source: _Source, count: int, top_k: int, extra: int) -> SparseSignal:
    """What was written until November 2026: ids in the order of their probabilities, 16 bits and `extra` ones."""
    cells = count * top_k
    ids = source.take(2 * cells).view("<u2").astype(np.uint32)
    for bit in range(extra):
        ids |= source.bits(cells).astype(np.uint32) << (16 + bit)
    codes = source.take(cells - count).reshape(count, top_k - 1)
    tail, label = _ends(source, count)
    kept = 4 * np.log(np.maximum(codes, 1) / _PLAIN_STEPS)
    relative = np.concatenate([np.zeros((count, 1)), kept], axis=1)
    shift = _inside(tail) - np.log(np.exp(relative).sum(axis=1))
    return SparseSignal(ids.reshape(count, top_k), (relative + shift[:, None]).astype(np.float32), tail, label)


_READERS: dict[int, Callable[[_Source, int, int, int], Signal]] = {
    _PLAIN: _unpack_plain,
    _RISING: _unpack_rising,
    _DRAWN: _unpack_draws,
}
