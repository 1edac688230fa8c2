"""How a teacher signal is packed: about 132 bytes a token at k = 50 and 49,152 ids, 143 at 151,936.

A log-prob is kept as one byte: the fourth root of the token's probability relative to the likeliest one, in 254 steps.
That spends the precision where a divergence feels it: on a 135M teacher's answers a packed signal diverges from
the exact one by 2e-5 nats a token, at most 4e-5. The likeliest token's own probability is not kept: it is what the tail
leaves, so that the mass of a packed signal is exactly one.

A token's ids are kept in rising order, which costs log2(k!) bits less than their order by probability; the codes bring
that back, equal ones apart. Rising ids are an Elias-Fano list (Elias 1974, https://doi.org/10.1145/321812.321820): low
bits as they are, high bits in unary. Every token takes the same bytes, so that a batch of rows is decoded as one.

With a shaped tail a token has 16 more bytes, its coordinates: 148 at k = 50 and 49,152 ids.

Draws from the teacher (RS-KD) take n / 8 bytes a token for their counts, and each distinct id as many bits as it needs.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kdstudio.errors import BugError
from kdstudio.teachers.signals import (
    SHAPE_BYTES,
    DrawnSignal,
    Ids,
    Signal,
    SparseSignal,
    concatenate,
    concatenate_draws,
)

_HEAD = struct.Struct("<IHBB")  # tokens; k or draws; bits of an id (0: above 16; 1: low; 2: all); the packing
_MARKS = struct.Struct("<H")  # packing 1: bytes of a token's high bits
_PLAIN, _RISING, _DRAWN, _SHAPED = range(4)
_ENDS = {_RISING: 6, _SHAPED: 6 + SHAPE_BYTES}  # bytes of a token behind its codes: coordinates, tail, label
_STEPS, _PLAIN_STEPS = 254, 255
_CODE_BITS = 8
_BLOCK_TOKENS = 512  # decoded at once: they fit a core's cache
_SIZE_SLACK = 1.02  # so much larger may a token be for fewer marks: looking for them takes most of the time
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


def unpack_all(parts: Sequence[bytes]) -> Signal:
    """The joined signal of several; they must be of one rule. Those that are split alike are decoded as one."""
    begin = _HEAD.size + _MARKS.size
    alike = {part[4:begin] for part in parts if len(part) > begin}
    if len(parts) > 1 and len(alike) == 1 and parts[0][_HEAD.size - 1] in _ENDS:
        top_k, low, packing, width = struct.unpack("<HBBH", alike.pop())
        ends = _ENDS[packing]
        stride, cells = _stride(top_k, low, width, ends), b"".join(part[begin:] for part in parts)
        counts = sum(packed_tokens(part) for part in parts)
        if counts * stride != len(cells):
            raise _wrong()
        return _of_blocks(np.frombuffer(cells, np.uint8).reshape(counts, stride), top_k, low, width, ends)
    signals = [unpack(part) for part in parts]
    sparse = [signal for signal in signals if isinstance(signal, SparseSignal)]
    drawn = [signal for signal in signals if isinstance(signal, DrawnSignal)]
    if sparse and drawn:
        raise BugError("signals of different rules cannot be joined")
    return concatenate(sparse) if sparse else concatenate_draws(drawn)


def packed_tokens(data: bytes | memoryview) -> int:
    """How many tokens a packed signal says it has; -1 for what is too short to say it."""
    return int(_HEAD.unpack_from(data, 0)[0]) if len(data) >= _HEAD.size else -1


def packed_mass(data: bytes) -> float:
    """The sum of a packed signal's captured mass over its tokens; of a top-k it is what the tails leave."""
    count, _, _, packing = _HEAD.unpack_from(data, 0)
    if packing == _DRAWN:
        return float(unpack(data).captured_mass.sum(dtype=np.float64))
    raw = np.frombuffer(data, np.uint8)
    ends = raw[_HEAD.size + _MARKS.size :].reshape(count, -1)[:, -6:-2] if packing in _ENDS else raw[-6 * count :]
    tail = np.ascontiguousarray(ends).reshape(-1)[: 4 * count].view("<f4")
    return float(np.exp(_inside(tail)).sum())


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
    """Each token: marks of the high bits, low bits, codes (0 the likeliest, then falling from 1), ends."""
    count, top_k = signal.ids.shape
    relative = np.exp((signal.log_probs - signal.log_probs[:, :1]).astype(np.float64) / 4)
    codes = (_STEPS + 1 - np.clip(np.rint(relative * _STEPS), 1, _STEPS)).astype(np.uint8)
    codes[:, :1] = 0
    order = np.argsort(signal.ids, axis=1)
    ids, codes = np.take_along_axis(signal.ids, order, axis=1), np.take_along_axis(codes, order, axis=1)
    low, width = _split(top_k, int(ids.max(initial=0)))
    marks = np.zeros((count, 8 * width), np.uint8)
    np.put_along_axis(marks, (ids >> low).astype(np.int64) + np.arange(top_k), 1, axis=1)
    planes = [(ids >> bit & 1).astype(np.uint8) for bit in range(low // 8 * 8, low)] or [ids[:, :0].astype(np.uint8)]
    parts = [
        np.packbits(marks, axis=1),
        *((ids >> (8 * byte)).astype(np.uint8) for byte in range(low // 8)),
        np.packbits(np.concatenate(planes, axis=1), axis=1),
        codes,
        *([] if signal.shape is None else [signal.shape]),
        signal.tail_log_prob.astype("<f4").reshape(count, 1).view(np.uint8),
        signal.label_log_prob.astype("<f2").reshape(count, 1).view(np.uint8),
    ]
    packing = _RISING if signal.shape is None else _SHAPED
    return _HEAD.pack(count, top_k, low, packing) + _MARKS.pack(width) + np.concatenate(parts, axis=1).tobytes()


def _split(top_k: int, last: int) -> tuple[int, int]:
    """How many low bits an id has, and how many bytes the marks of a token's high bits take.

    `last` is rounded up to an eighth of its power of two, so that rows of one vocabulary are split alike.
    """
    step = max(0, last.bit_length() - 3)
    last = ((last >> step) + 1 << step) - 1
    sizes = {low: top_k * low + top_k + (last >> low) for low in range(last.bit_length() + 1)}
    low = max(low for low, size in sizes.items() if size <= _SIZE_SLACK * min(sizes.values()))
    return low, -(-(top_k + (last >> low)) // 8)


def _unpack_rising(source: _Source, count: int, top_k: int, low: int, *, ends: int = _ENDS[_RISING]) -> SparseSignal:
    (width,) = _MARKS.unpack(source.take(_MARKS.size).tobytes())
    stride = _stride(top_k, low, width, ends)
    return _of_blocks(source.take(count * stride).reshape(count, stride), top_k, low, width, ends)


def _stride(top_k: int, low: int, width: int, ends: int) -> int:
    """Bytes of a token."""
    return width + top_k * (low // 8) + _plane_bytes(top_k, low) + top_k + ends


def _plane_bytes(top_k: int, low: int) -> int:
    """Bytes of those low bits that fill no byte of their own."""
    return -(-top_k * (low % 8) // 8)


def _of_blocks(rows: Bytes, top_k: int, low: int, width: int, ends: int) -> SparseSignal:
    blocks = range(0, max(1, len(rows)), _BLOCK_TOKENS)
    return concatenate([_of_rows(rows[first : first + _BLOCK_TOKENS], top_k, low, width, ends) for first in blocks])


def _of_rows(rows: Bytes, top_k: int, low: int, width: int, ends: int) -> SparseSignal:
    """The signal of [N, stride] bytes. It is sorted by numbers made of code and id, which is the fastest way."""
    count, at = len(rows), width
    marks = np.flatnonzero(np.unpackbits(np.ascontiguousarray(rows[:, :width])).view(np.bool_))
    if len(marks) != count * top_k:
        raise _wrong()
    small = low + (8 * width).bit_length() + _CODE_BITS <= 32 and count * 8 * width < 1 << 32
    wide: np.dtype[Any] = np.dtype(np.uint32 if small else np.uint64)
    # The mark of the i-th id stands at its high bits + i, in its token's row
    keys = marks.astype(wide).reshape(count, top_k)
    keys -= _places(top_k, 8 * width, wide)[:count]
    keys <<= low
    for byte in range(low // 8):
        keys |= rows[:, at : at + top_k].astype(wide) << (8 * byte)
        at += top_k
    planes = rows[:, at : at + _plane_bytes(top_k, low)]
    at += planes.shape[1]
    bits = np.unpackbits(planes, axis=1, count=top_k * (low % 8))
    if low % 8:
        rest = bits[:, :top_k].copy()
        for bit in range(1, low % 8):
            rest |= bits[:, top_k * bit : top_k * (bit + 1)] << bit
        keys |= rest.astype(wide) << (low // 8 * 8)
    shift = 8 * wide.itemsize - _CODE_BITS
    keys |= rows[:, at : at + top_k].astype(wide) << shift
    keys.sort(axis=1)
    tail = np.ascontiguousarray(rows[:, -6:-2]).view("<f4")[:, 0].astype(np.float32)
    label = np.ascontiguousarray(rows[:, -2:]).view("<f2")[:, 0].astype(np.float32)
    shape = rows[:, -ends:-6].copy() if ends > _ENDS[_RISING] else None
    ids = (keys & ((1 << shift) - 1)).astype(np.uint32, copy=False)
    return SparseSignal(ids, _log_probs(keys >> shift, tail), tail, label, shape)


@functools.lru_cache(maxsize=8)
def _places(top_k: int, width: int, wide: np.dtype[Any]) -> npt.NDArray[np.integer[Any]]:
    """[tokens of a block, k] where the marks of ids without high bits stand."""
    rows = np.arange(0, _BLOCK_TOKENS * width, width, dtype=wide)
    return rows[:, None] + np.arange(top_k, dtype=wide)


def _log_probs(codes: npt.NDArray[np.integer[Any]], tail: Float) -> Float:
    steps = (_STEPS + 1 - codes).astype(np.float32)
    steps[:, 0] = _STEPS  # the likeliest stands first, and its code is 0
    steps *= np.float32(1 / _STEPS)
    squares = steps * steps
    shift = _inside(tail) - np.log(np.einsum("ij,ij->i", squares, squares))
    log_probs: Float = np.log(steps, out=steps)
    log_probs *= 4
    log_probs += shift.astype(np.float32)[:, None]
    return log_probs


def _inside(tail: Float) -> npt.NDArray[np.float64]:
    """[N] the log of the mass that the tail leaves."""
    inside: npt.NDArray[np.float64] = np.log(np.maximum(-np.expm1(np.minimum(tail, 0).astype(np.float64)), 1e-12))
    return inside


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
    _SHAPED: functools.partial(_unpack_rising, ends=_ENDS[_SHAPED]),
}
