"""GGUF metadata with its exact types: read from one file, to be written into another unchanged.

The `gguf` package's reader takes seconds for a vocabulary and trusts what it reads; here the file's header is checked
first (`models.gguf_header`), and what was checked is then read in one go.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from kdstudio.models.gguf_header import read_header

Kind = gguf.GGUFValueType
_FORMS = {
    Kind.UINT8: "B",
    Kind.INT8: "b",
    Kind.UINT16: "H",
    Kind.INT16: "h",
    Kind.UINT32: "I",
    Kind.INT32: "i",
    Kind.FLOAT32: "f",
    Kind.BOOL: "?",
    Kind.UINT64: "Q",
    Kind.INT64: "q",
    Kind.FLOAT64: "d",
}
_PREAMBLE = 24  # magic, version, count of tensors, count of values


@dataclass(frozen=True)
class Value:
    """One metadata value with its GGUF type (`item`: the type of an array's elements)."""

    value: Any
    type: Kind
    item: Kind | None = None


Metadata = dict[str, Value]


def text(value: str) -> Value:
    """A string value."""
    return Value(value, Kind.STRING)


def unsigned(value: int) -> Value:
    """A uint32 value."""
    return Value(int(value), Kind.UINT32)


def real(value: float) -> Value:
    """A float32 value."""
    return Value(float(value), Kind.FLOAT32)


def boolean(value: bool) -> Value:
    """A bool value."""
    return Value(bool(value), Kind.BOOL)


def array(values: list[Any], item: Kind) -> Value:
    """An array of `item`s."""
    return Value(values, Kind.ARRAY, item)


def read_metadata(path: Path, prefix: str = "") -> Metadata:
    """Every metadata value of a GGUF file whose key begins with `prefix`. Raises `BadInput` when it is not sound."""
    header = read_header(path)
    with path.open("rb") as stream:
        data = stream.read(header.data_offset)
    found: Metadata = {}
    at = _PREAMBLE
    for _ in range(struct.unpack_from("<Q", data, 16)[0]):
        key, at = _string(data, at)
        value, at = _value(data, at)
        if str(key).startswith(prefix):
            found[str(key)] = value
    return found


def _value(data: bytes, at: int) -> tuple[Value, int]:
    kind = Kind(struct.unpack_from("<I", data, at)[0])
    if kind is not Kind.ARRAY:
        value, at = _single(data, at + 4, kind)
        return Value(value, kind), at
    item, count = Kind(struct.unpack_from("<I", data, at + 4)[0]), struct.unpack_from("<Q", data, at + 8)[0]
    at += 16
    if item is not Kind.STRING:
        form = f"<{count}{_FORMS[item]}"
        return Value(list(struct.unpack_from(form, data, at)), kind, item), at + struct.calcsize(form)
    values = []
    for _ in range(count):
        value, at = _string(data, at)
        values.append(value)
    return Value(values, kind, item), at


def _single(data: bytes, at: int, kind: Kind) -> tuple[Any, int]:
    if kind is Kind.STRING:
        return _string(data, at)
    form = "<" + _FORMS[kind]
    return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)


def _string(data: bytes, at: int) -> tuple[str | bytes, int]:
    """The text, or its bytes where they are no UTF-8: some vocabularies hold such tokens, and they must survive."""
    end = at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    raw = data[at + 8 : end]
    try:
        return raw.decode("utf-8"), end
    except UnicodeDecodeError:
        return raw, end
