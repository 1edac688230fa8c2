"""Broken GGUF files: seeds of every kind of value, and what accident and malice make of them."""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf

from kdstudio.models.gguf_header import read_header
from tests.tiny import tiny_model, vocabulary

BOMBS = (0, 1, 7, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_READ_KEYS = (
    *("general.name", "general.license", "general.tags", "general.alignment", "general.file_type", "kdstudio.terms"),
    *("general.architecture", "general.base_model.count", "tokenizer.chat_template", "tokenizer.ggml.tokens"),
    *("llama.block_count", "llama.context_length", "llama.attention.head_count", "split.count"),
)
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@dataclass(frozen=True)
class Entry:
    """Where a metadata entry lies in a header: its key's length, its value's type, the value, the end."""

    start: int
    kind_at: int
    value_at: int
    end: int


@dataclass(frozen=True)
class Seed:
    """A sound file: its header (and a little more), the size of the whole, the entries in it, and where they end."""

    path: Path
    header: bytes
    size: int
    entries: tuple[Entry, ...]
    tensors_at: int


@dataclass(frozen=True)
class Mutant:
    """What begins a broken file, and how long the file claims to be."""

    seed: Seed
    kind: str
    header: bytes
    size: int

    def write(self, path: Path, *, weights: bool = False) -> Path:
        """As a file; without `weights` its rest is a hole, which reads as zeros and takes no room."""
        with path.open("wb") as stream:
            stream.write(self.header)
            if weights:
                stream.write(self.seed.path.read_bytes()[len(self.seed.header) :])
            stream.truncate(self.size)
        return path


def entries_of(data: bytes) -> tuple[Entry, ...]:
    """The metadata entries of a sound header."""
    (count,) = struct.unpack_from("<Q", data, 16)
    found, at = [], 24
    for _ in range(count):
        start, kind_at = at, at + 8 + _number(data, at)
        at = _end_of_value(data, kind_at)
        found.append(Entry(start, kind_at, kind_at + 4, at))
    return tuple(found)


def _number(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<Q", data, at)[0])


def _end_of_value(data: bytes, at: int) -> int:
    (kind,) = struct.unpack_from("<I", data, at)
    at += 4
    if kind == 8:
        return at + 8 + _number(data, at)
    if kind != 9:
        return at + _WIDTHS[kind]
    (item,), count, at = struct.unpack_from("<I", data, at), _number(data, at + 4), at + 12
    if item != 8:
        return at + count * _WIDTHS[item]
    for _ in range(count):
        at += 8 + _number(data, at)
    return at


def every_type(path: Path) -> Path:
    """A header with a value and an array of every type that GGUF has, and some tensors."""
    writer = gguf.GGUFWriter(str(path), "llama")
    kinds = gguf.GGUFValueType
    for kind in kinds:
        if kind is kinds.ARRAY:
            continue
        value = "word" if kind is kinds.STRING else kind is kinds.BOOL or 1
        writer.add_key_value(f"one.{kind.name}", value, kind)
        writer.add_key_value(f"several.{kind.name}", [value] * 5, kinds.ARRAY, sub_type=kind)
    writer.add_array("long", list(range(5000)))
    writer.add_tags(["a", "b"])
    writer.add_token_list(vocabulary(160) * 20)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@functools.cache
def _seed(path: Path) -> Seed:
    header = read_header(path)
    data = path.read_bytes()
    entries = entries_of(data)
    return Seed(path, data[: header.data_offset + 512], len(data), entries, entries[-1].end)


def seeds(folder: Path) -> list[Seed]:
    """Sound files to begin with."""
    made = [every_type(folder / "every.gguf")]
    made += [tiny_model(layers=2), tiny_model(architecture="qwen2", layers=2, dtype="Q8_0")]
    second = folder / "second.gguf"
    second.write_bytes(b"GGUF" + struct.pack("<I", 2) + made[0].read_bytes()[8:])
    return [_seed(path) for path in (*made, second)]


def mutants(sound: list[Seed], count: int, seed: int) -> Iterator[Mutant]:
    """`count` broken files, each by one to three kinds of damage; the same numbers always give the same files."""
    rng = random.Random(seed)
    names = tuple(_DAMAGES)
    for _ in range(count):
        chosen = rng.choice(sound)
        data = bytearray(chosen.header)
        kinds = rng.choices(names, k=rng.choice((1, 1, 1, 2, 3)))
        for kind in kinds:
            _DAMAGES[kind](data, chosen, rng)
        size = chosen.size + len(data) - len(chosen.header)
        if rng.random() < 0.15:
            size = len(data) if rng.random() < 0.5 else size * rng.choice((2, 1000))
        if kinds == ["cut"]:
            size = len(data)
        yield Mutant(chosen, "+".join(kinds), bytes(data), max(size, len(data)))


def _place(data: bytearray, rng: random.Random) -> int:
    """Mostly near the beginning, where most is decided."""
    end = rng.choice((64, 2000, len(data)))
    return rng.randrange(max(1, min(end, len(data))))


def _flip(data: bytearray, _seed: Seed, rng: random.Random) -> None:
    if data:
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, _seed: Seed, rng: random.Random) -> None:
    at, form = _place(data, rng), rng.choice(("<I", "<Q"))
    packed = struct.pack(form, rng.choice(BOMBS) & (0xFFFFFFFF if form == "<I" else (1 << 64) - 1))
    data[at : at + len(packed)] = packed


def _cut(data: bytearray, _seed: Seed, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _delete(data: bytearray, _seed: Seed, rng: random.Random) -> None:
    at = _place(data, rng)
    del data[at : at + rng.randint(1, 64)]


def _repeat(data: bytearray, _seed: Seed, rng: random.Random) -> None:
    at = _place(data, rng)
    data[at:at] = data[at : at + rng.randint(1, 4096)] * rng.randint(1, 20)


def _length_bomb(data: bytearray, seed: Seed, rng: random.Random) -> None:
    """A count or length where one stands: of keys, texts, arrays, of tensors and entries."""
    entry = rng.choice(seed.entries)
    places = (8, 16, entry.start, entry.value_at, entry.value_at + 4, seed.tensors_at, seed.tensors_at + 8)
    at = rng.choice(places)
    value = rng.choice((*BOMBS, 47 << 20, 1 << 20, 899_999, rng.randrange(1 << 16)))
    data[at : at + 8] = struct.pack("<Q", value)


def _wrong_type(data: bytearray, seed: Seed, rng: random.Random) -> None:
    at = rng.choice(seed.entries).kind_at + rng.choice((0, 0, 4))
    data[at : at + 4] = struct.pack("<I", rng.choice((*range(14), 255, 1 << 31)))


def _nested(data: bytearray, seed: Seed, rng: random.Random) -> None:
    """Arrays of arrays of arrays."""
    at = rng.choice(seed.entries).kind_at
    depth = rng.choice((1, 10, 1000, 5000))
    data[at:at] = struct.pack("<I", 9) + struct.pack("<IQ", 9, rng.choice((1, 2, 1 << 20))) * depth


def _twice(data: bytearray, seed: Seed, rng: random.Random) -> None:
    entry = rng.choice(seed.entries)
    data[entry.end : entry.end] = data[entry.start : entry.end]
    data[16:24] = struct.pack("<Q", (len(seed.entries) + 1) & ((1 << 64) - 1))


def _renamed(data: bytearray, seed: Seed, rng: random.Random) -> None:
    """A value under another's key: of a type that nobody expects there."""
    entry, name = rng.choice(seed.entries), rng.choice(_READ_KEYS).encode()
    data[entry.start : entry.kind_at] = struct.pack("<Q", len(name)) + name


def _values(data: bytearray, seed: Seed, rng: random.Random) -> None:
    """Another value of the same type: a file that is well formed, and says nonsense."""
    entry = rng.choice(seed.entries)
    at, end = entry.value_at, min(entry.end, entry.value_at + 8)
    data[at:end] = rng.randbytes(end - at) if rng.random() < 0.5 else bytes(end - at)


_DAMAGES = {
    "flip": _flip,
    "overwrite": _overwrite,
    "cut": _cut,
    "delete": _delete,
    "repeat": _repeat,
    "length bomb": _length_bomb,
    "wrong type": _wrong_type,
    "nested": _nested,
    "twice": _twice,
    "renamed": _renamed,
    "values": _values,
}
