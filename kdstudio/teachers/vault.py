"""The vault: a project's stored teacher signals, paid for once.

One pack file that only ever grows, and an index that merely saves scanning it. A record carries its key and a checksum,
and so does each line of the index: what a killed writer left half written is stepped over, and a flipped bit makes its
one signal count as missing. Readers map the pack and see what a writer adds while they run.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock
import numpy as np

from kdstudio import files
from kdstudio.errors import KnownError
from kdstudio.teachers.signals import Rule, Signal, rule_name
from kdstudio.teachers.vault_format import pack, packed_mass, packed_tokens, unpack, unpack_all

FORMAT_VERSION = 1
PACK_NAME, INDEX_NAME, LOCK_NAME = "signals.pack", "signals.index", "vault.lock"
_MAGIC = b"KDS1"
_RECORD = struct.Struct("<4s16sIII")  # magic, key, tokens, payload bytes, crc32 of the payload
_LINE = struct.Struct("<16sQII")  # of the index: key, offset, length, tokens; their crc32 follows
_LINE_BYTES = _LINE.size + 4


@dataclass(frozen=True)
class Stored:
    """A stored signal in figures: its tokens, and the sum of the captured mass (0..1) over them."""

    tokens: int
    mass: float


class Vault:
    """Signals by key. Reading needs no lock; the first `put` takes the vault's, so that there is one writer.

    `damaged` counts the records whose checksum was found to be wrong. Not safe to use from several threads at once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pack, self._index = folder / PACK_NAME, folder / INDEX_NAME
        self._places: dict[bytes, tuple[int, int, int]] = {}  # offset, length, tokens
        self._tokens = 0
        self._end = 0
        self._index_bytes = 0  # how much of the index is right; a writer makes the rest right
        self._map: mmap.mmap | None = None
        self._lock: filelock.BaseFileLock | None = None
        self._unwritten: dict[bytes, tuple[bytes, int]] = {}
        self._damaged: set[int] = set()  # offsets
        self._read_index()
        self._catch_up()

    @staticmethod
    def key(fingerprint: str, rule: Rule, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> str:
        """Name a signal, in hex: what scored (`fingerprint` of the teacher's weights), how, and which token ids."""
        described = f"kdstudio signals {FORMAT_VERSION} {fingerprint} {rule_name(rule)} {len(prompt_ids)} "
        digest = hashlib.blake2b(described.encode(), digest_size=16)
        digest.update(np.asarray([*prompt_ids, *response_ids], "<u4").tobytes())
        return digest.hexdigest()

    def has(self, key: str) -> bool:
        """Whether a signal is stored; `get` also checks that it is sound."""
        name = bytes.fromhex(key)
        return name in self._unwritten or name in self._places or (self._catch_up() and name in self._places)

    def get(self, key: str) -> Signal | None:
        """The signal, or None when it is missing or damaged."""
        payload = self._payload(key)
        return None if payload is None else unpack(payload)

    def get_joined(self, keys: Sequence[str]) -> Signal | None:
        """The signals of several keys (at least one) along the token axis; None when any is missing or damaged."""
        payloads = [self._payload(key) for key in keys]
        sound = [payload for payload in payloads if payload is not None]
        return unpack_all(sound) if len(sound) == len(keys) else None

    def look(self, key: str) -> Stored | None:
        """What is stored, without decoding it; None when it is missing or damaged."""
        payload = self._payload(key)
        return None if payload is None else Stored(packed_tokens(payload), packed_mass(payload))

    def _payload(self, key: str) -> bytes | None:
        name = bytes.fromhex(key)
        if name in self._unwritten:
            return self._unwritten[name][0]
        if not self.has(key):
            return None
        offset, length, _ = self._places[name]
        record = self._mapped(offset + length)[offset : offset + length]
        found = _payload_of(record, name)
        if found is None:
            self._damaged.add(offset)
        return found

    def put(self, key: str, signal: Signal) -> None:
        """Store a signal; it is durable after `flush`. A later one of the same key replaces it.

        Raises `KnownError` when another process is writing to this vault.
        """
        if self._lock is None:
            self._take_lock()
        self._unwritten[bytes.fromhex(key)] = (pack(signal), len(signal))

    def flush(self) -> None:
        """Write what was put, and wait for the disk. Raises `KnownError` when it is full; nothing stored is lost."""
        if not self._unwritten:
            return
        records, entries = [], []
        at = self._pack.stat().st_size  # a torn record before it stays where it is: a reader may have it mapped
        for name, (payload, tokens) in self._unwritten.items():
            record = _RECORD.pack(_MAGIC, name, tokens, len(payload), zlib.crc32(payload)) + payload
            records.append(record)
            entries.append((name, at, len(record), tokens))
            at += len(record)
        with files.disk_errors(self._pack), self._pack.open("ab") as stream:
            stream.write(b"".join(records))
            stream.flush()
            os.fsync(stream.fileno())
        with files.disk_errors(self._index), self._index.open("ab") as stream:
            stream.write(b"".join(_line(*entry) for entry in entries))
        for name, offset, length, tokens in entries:
            self._note(name, offset, length, tokens)
        self._end = at
        self._unwritten.clear()

    @property
    def tokens(self) -> int:
        """Response tokens with a stored signal."""
        return self._tokens + sum(tokens for _, tokens in self._unwritten.values())

    @property
    def bytes_per_token(self) -> float:
        """What a token's signal takes on the disk, everything included; 0 in an empty vault."""
        size = self._end + len(self._places) * _LINE_BYTES
        return size / self._tokens if self._tokens else 0.0

    @property
    def damaged(self) -> int:
        """Records found damaged so far: those that were asked for, and those met while scanning."""
        return len(self._damaged)

    def close(self) -> None:
        """Write what is left and let go of files and lock."""
        try:
            self.flush()
        finally:
            if self._map is not None:
                self._map.close()
                self._map = None
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note(self, name: bytes, offset: int, length: int, tokens: int) -> None:
        self._tokens += tokens - (self._places[name][2] if name in self._places else 0)
        self._places[name] = (offset, length, tokens)

    def _take_lock(self) -> None:
        with files.disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(str(self.folder / LOCK_NAME))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise KnownError(
                "Another job is storing signals in this project", str(self.folder), "Wait for it to end, or stop it."
            ) from None
        self._lock = lock
        self._catch_up()
        if not self._pack.exists():
            self._pack.touch()
            files.fsync_folder(self.folder)
        if self._index_bytes != len(self._places) * _LINE_BYTES or not self._index_is(self._index_bytes):
            by_offset = sorted((place, name) for name, place in self._places.items())
            with files.atomic_file(self._index) as stream:
                stream.write(b"".join(_line(name, *place) for place, name in by_offset))

    def _index_is(self, size: int) -> bool:
        return self._index.exists() and self._index.stat().st_size == size

    def _read_index(self) -> None:
        """Take over the index as far as the pack goes; the rest is found by scanning."""
        try:
            data, size = self._index.read_bytes(), self._pack.stat().st_size
        except OSError:
            return
        for at in range(0, len(data) - _LINE_BYTES + 1, _LINE_BYTES):
            key, offset, length, tokens = _LINE.unpack_from(data, at)
            sound = _line(key, offset, length, tokens) == data[at : at + _LINE_BYTES]
            if not sound or offset < self._end or offset + length > size:
                return  # the index is damaged: from here on the pack itself is read
            self._note(key, offset, length, tokens)
            self._end = offset + length
            self._index_bytes += _LINE_BYTES

    def _catch_up(self) -> bool:
        """Find the whole records beyond what is known; true when there were any."""
        try:
            size = self._pack.stat().st_size
        except OSError:
            return False
        known, at = self._end, self._end
        view = self._mapped(size) if size > at else b""
        while at + _RECORD.size <= size:
            magic, name, tokens, length, _ = _RECORD.unpack_from(view, at)
            end = at + _RECORD.size + length
            payload = _payload_of(view[at:end], name) if magic == _MAGIC and end <= size else None
            if payload is not None and packed_tokens(payload) == tokens:
                self._note(name, at, end - at, tokens)
                self._damaged.discard(at)
                self._end = at = end
                continue
            following = view.find(_MAGIC, at + 1)
            if following >= 0 or end == size:  # a torn end is none: a writer may be at it
                self._damaged.add(at)
            if following < 0:
                break
            at = following
        return self._end > known

    def _mapped(self, needed: int) -> mmap.mmap | bytes:
        """The pack, mapped at least up to `needed` as far as it goes."""
        if self._map is None or len(self._map) < needed:
            if self._map is not None:
                self._map.close()
                self._map = None
            with self._pack.open("rb") as stream:
                if os.fstat(stream.fileno()).st_size == 0:
                    return b""
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map


def _payload_of(record: bytes, name: bytes) -> bytes | None:
    """What a whole record of this key holds; None when it is damaged."""
    if len(record) < _RECORD.size:
        return None
    magic, found, _, size, checksum = _RECORD.unpack_from(record)
    payload = record[_RECORD.size :]
    sound = (magic, found, size) == (_MAGIC, name, len(payload)) and zlib.crc32(payload) == checksum
    return payload if sound else None


def _line(key: bytes, offset: int, length: int, tokens: int) -> bytes:
    """A line of the index."""
    line = _LINE.pack(key, offset, length, tokens)
    return line + zlib.crc32(line).to_bytes(4, "little")
