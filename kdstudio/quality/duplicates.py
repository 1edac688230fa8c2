"""Texts that say again what an earlier one said: word for word, or nearly.

Near means a Jaccard similarity of shingles (runs of three words, or of five characters) of at least a threshold.
MinHash with locality-sensitive hashing proposes the earlier texts to look at (Broder 1997,
https://doi.org/10.1109/SEQUEN.1997.666900), the true similarity decides. Proposals are sampled: of texts exactly at
the threshold a few go unseen, of close copies practically none.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kdstudio.errors import BadInput
from kdstudio.quality.words import plain, words

if TYPE_CHECKING:
    from datasketch import MinHash

Method = Literal["exact", "near"]
Shingles = Literal["words", "characters"]
Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]

NEAR_THRESHOLD = 0.7
WORDS_IN_A_SHINGLE = 3
CHARACTERS_IN_A_SHINGLE = 5
_PERMUTATIONS = 128
_MISSES_MATTER = (0.1, 0.9)  # a false proposal costs a comparison, a missed one a duplicate
_BATCH = 4096  # shingles hashed at a time, so that a long text takes no more memory than this


class Duplicates:
    """Earlier texts by their key. Nothing depends on the process: a resumed run finds what the first one found."""

    def __init__(
        self, method: Method = "exact", threshold: float = NEAR_THRESHOLD, shingles: Shingles = "words"
    ) -> None:
        """Raises `BadInput` for an unknown method or a threshold that is not in 0 < threshold <= 1."""
        if method not in ("exact", "near"):
            raise BadInput("Unknown way to compare", f"There is no method {method!r}.", "Known: exact, near.")
        if not 0 < threshold <= 1:
            raise BadInput("A threshold is out of range", f"Similarity {threshold:g}.", "It goes from 0 to 1.")
        self._index: _Exact | _Near = _Exact() if method == "exact" else _Near(threshold, shingles)

    def find(self, text: str) -> str:
        """The key of the earlier text that this one repeats (near: the most alike, else the earliest), or ""."""
        return self._index.find(text)

    def add(self, key: str, text: str) -> None:
        """Remember a text; a key, or an exact text, that is there already keeps its first."""
        self._index.add(key, text)


def similarity(first: str, second: str, shingles: Shingles = "words") -> float:
    """Jaccard similarity of two texts' shingles: how many they share, by how many there are in all, in 0..1."""
    return _jaccard(_hashes(first, shingles), _hashes(second, shingles))


class _Exact:
    def __init__(self) -> None:
        self._keys: dict[bytes, str] = {}

    def find(self, text: str) -> str:
        return self._keys.get(_digest(plain(text), 16), "")

    def add(self, key: str, text: str) -> None:
        self._keys.setdefault(_digest(plain(text), 16), key)


class _Near:
    def __init__(self, threshold: float, shingles: Shingles) -> None:
        from datasketch import MinHash, MinHashLSH

        self._threshold = threshold
        self._shingles = shingles
        self._empty = MinHash(num_perm=_PERMUTATIONS, hashfunc=int)
        self._index: Any = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, weights=_MISSES_MATTER)
        self._known: list[tuple[str, Hashes]] = []
        self._keys: set[str] = set()
        self._last: tuple[str, Hashes, MinHash] | None = None  # what is added was mostly looked for just before

    def find(self, text: str) -> str:
        hashes, sketch = self._read(text)
        best, found = self._threshold, ""
        for place in sorted(self._index.query(sketch)):
            key, others = self._known[place]
            alike = _jaccard(hashes, others)
            if alike > best or (alike == best and not found):
                best, found = alike, key
        return found

    def add(self, key: str, text: str) -> None:
        if key in self._keys:
            return
        hashes, sketch = self._read(text)
        self._index.insert(len(self._known), sketch)
        self._known.append((key, hashes))
        self._keys.add(key)

    def _read(self, text: str) -> tuple[Hashes, MinHash]:
        if self._last is None or self._last[0] != text:
            hashes = _hashes(text, self._shingles)
            self._last = text, hashes, self._sketch(hashes)
        return self._last[1:]

    def _sketch(self, hashes: Hashes) -> MinHash:
        sketch = self._empty.copy()
        short = (hashes & np.uint64(0xFFFFFFFF)).tolist()
        for start in range(0, len(short), _BATCH):
            sketch.update_batch(short[start : start + _BATCH])
        return sketch


def _hashes(text: str, shingles: Shingles) -> Hashes:
    """The distinct shingles of a text as sorted 64-bit numbers; a text too short for one is one itself."""
    parts: Sequence[str] = words(text) if shingles == "words" else plain(text)
    size = WORDS_IN_A_SHINGLE if shingles == "words" else CHARACTERS_IN_A_SHINGLE
    between = " " if shingles == "words" else ""
    pieces = {between.join(parts[place : place + size]) for place in range(max(1, len(parts) - size + 1))}
    if not parts:
        pieces = {plain(text)}
    return np.unique(np.frombuffer(b"".join(_digest(piece, 8) for piece in pieces), dtype="<u8"))


def _digest(text: str, size: int) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


def _jaccard(first: Hashes, second: Hashes) -> float:
    common = np.intersect1d(first, second, assume_unique=True).size
    return common / (first.size + second.size - common)
