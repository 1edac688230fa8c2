"""How a teacher's tails are shaped: what a top-k signal says of the tokens outside, in 16 bytes.

The k likeliest tokens and the mass of all others leave open how that mass is spread, and a student that is never told
stays as far from its teacher as the tail is large. The log-probs of one teacher lie near a plane of few directions, for
they are products of its head with states (Yang et al. 2018, https://arxiv.org/abs/1711.03953, section 2). So the tail
is taken from a family of distributions, log p(j) = m(j) + sum_r c(r) d(r, j) + const, whose mean m and directions d are
fitted once for a teacher, and a token keeps its coordinates c. The fit is a weighted low-rank approximation (Srebro and
Jaakkola 2003, https://cdn.aaai.org/ICML/2003/ICML03-094.pdf): what is seldom likely need not be right.
"""

from __future__ import annotations

import functools
import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import numpy.typing as npt

from kdstudio import files
from kdstudio.teachers.signals import SHAPE_BYTES, Float, Ids, Shape

FOLDER_NAME, _LOCK_NAME = "tails", "tails.lock"
RANK = 2 * SHAPE_BYTES
_LEVELS, _STEP = 8, np.float32(0.5)  # a coordinate's four bits: so many steps on either side, in standard deviations
_LOWEST = np.float32(-60)  # log-probs below that are all the same
_ROUNDS = 2
_RIDGE = np.float32(1e-3)
_COLUMNS = 8192  # of the vocabulary at once, while fitting
_WATCHED = 2048  # the tokens that tails hold most often: by these its coordinates are found
Half = npt.NDArray[np.float16]


@dataclass(frozen=True)
class TailShape:
    """A family of tails over V tokens: `mean` [V] and `directions` [32, V] in nats; `watched` [W] ids, rising.

    A coordinate's unit is its standard deviation over the `tokens` of the fit.
    """

    mean: Half
    directions: Half
    watched: Ids
    tokens: int

    @functools.cached_property
    def name(self) -> str:
        """Names these very numbers, in hex."""
        digest = hashlib.blake2b(digest_size=8)
        for part in (self.mean, self.directions, self.watched):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def _near(self) -> tuple[Float, Float, Float]:
        """Mean [W], directions with a constant [33, W] and their products [561, W] at the watched tokens."""
        known = _with_constant(self.directions[:, self.watched].astype(np.float32))
        return self.mean[self.watched].astype(np.float32), known, _products(known)

    def coordinates(self, logits: Float, ids: Ids) -> Shape:
        """The tails' coordinates, packed [N, 16], of [N, V] logits whose likeliest tokens are `ids` [N, k].

        Found by least squares of the watched tokens' log-probs, each weighed by its probability.
        """
        near = logits[:, self.watched]
        near -= near.max(axis=1, keepdims=True)
        weights = np.exp(near)
        place = np.minimum(np.searchsorted(self.watched, ids), len(self.watched) - 1)
        rows, columns = np.nonzero(self.watched[place] == ids)
        weights[rows, place[rows, columns]] = 0
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        mean, known, products = self._near
        found = _solved(weights, np.maximum(near, _LOWEST) - mean, known, products)
        codes = np.clip(np.floor(found / _STEP) + _LEVELS, 0, 2 * _LEVELS - 1).astype(np.uint8)
        packed: Shape = codes[:, ::2] << 4 | codes[:, 1::2]
        return packed


def widened(shape: Shape) -> Float:
    """The coordinates [N, 32] that packed ones [N, 16] stand for."""
    codes = np.stack([shape >> 4, shape & 15], axis=2).reshape(len(shape), RANK)
    return (codes.astype(np.float32) + (np.float32(0.5) - _LEVELS)) * _STEP


def fitted(log_probs: Float, top_k: int) -> TailShape:
    """The family that is nearest to the tails, outside `top_k`, of a sample of [n, V] log-probs; n is at least 1."""
    vocabulary = log_probs.shape[1]
    values = np.maximum(log_probs, _LOWEST)
    weights = np.exp(values)
    head = np.argpartition(values, vocabulary - min(top_k, vocabulary), axis=1)[:, -top_k:]
    np.put_along_axis(weights, head, 0, axis=1)
    watched = np.sort(np.argpartition(weights.sum(axis=0), -min(_WATCHED, vocabulary))[-_WATCHED:]).astype(np.uint32)
    values -= values.mean(axis=1, keepdims=True)
    mean, directions = _principal(values)
    for _ in range(_ROUNDS):
        shares = weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        coordinates, offsets = _coordinates(shares, values - mean, directions)
        mean, directions = _refitted(weights, values - offsets, coordinates, mean, directions)
        spread = np.sqrt((coordinates**2).mean(axis=0))
        directions *= np.maximum(spread, np.float32(1e-6))[:, None]
    return TailShape(mean.astype(np.float16), directions.astype(np.float16), watched, len(log_probs))


def _principal(values: Float) -> tuple[Float, Float]:
    """Mean [V] and the first directions [32, V] of [n, V] values, in standard deviations; 0 where n has no more."""
    count, vocabulary = values.shape
    mean, directions = values.mean(axis=0), np.zeros((RANK, vocabulary), np.float32)
    centred = values - mean
    _, vectors = np.linalg.eigh(centred @ centred.T)
    found = vectors[:, ::-1][:, :RANK].T @ centred / np.float32(np.sqrt(count))
    directions[: len(found)] = found
    return mean, directions


def _coordinates(weights: Float, values: Float, directions: Float) -> tuple[Float, Float]:
    """Least squares of each row's values [n, V] by the directions: coordinates [n, 32] and offsets [n, 1]."""
    known = _with_constant(directions)
    size = len(known)
    gram = np.zeros((len(values), size * (size + 1) // 2), np.float32)
    right = np.zeros((len(values), size), np.float32)
    for first in range(0, values.shape[1], _COLUMNS):
        part = slice(first, first + _COLUMNS)
        gram += weights[:, part] @ _products(known[:, part]).T
        right += (weights[:, part] * values[:, part]) @ known[:, part].T
    found = _solution(_squares(gram, size), right)
    return found[:, :RANK], found[:, RANK:]


def _refitted(weights: Float, values: Float, coordinates: Float, mean: Float, directions: Float) -> tuple[Float, Float]:
    """Least squares of each token's values over the sample: its mean and its directions, not far from those before."""
    known = _with_constant(coordinates.T)
    size, products = len(known), _products(known)
    ridge = np.maximum(_RIDGE * 10 * weights.mean(), np.finfo(np.float32).tiny)
    made = np.concatenate([directions, mean[None]])
    for first in range(0, values.shape[1], _COLUMNS):
        part = slice(first, first + _COLUMNS)
        gram = _squares(weights[:, part].T @ products.T, size) + ridge * np.eye(size, dtype=np.float32)
        right = (weights[:, part] * values[:, part]).T @ known.T + ridge * made[:, part].T
        made[:, part] = np.linalg.solve(gram, right[..., None])[..., 0].T
    return made[RANK], made[:RANK]


def _with_constant(rows: Float) -> Float:
    return np.concatenate([rows, np.ones((1, rows.shape[1]), np.float32)])


def _products(known: Float) -> Float:
    """[m (m + 1) / 2, n] the products of every two of [m, n] rows, and of each with itself."""
    one, other = np.triu_indices(len(known))
    return known[one] * known[other]


def _squares(sums: Float, size: int) -> Float:
    """[n, m, m] symmetric matrices from their sums of products [n, m (m + 1) / 2]."""
    one, other = np.triu_indices(size)
    made = np.empty((len(sums), size, size), np.float32)
    made[:, one, other] = made[:, other, one] = sums
    return made


def _solved(weights: Float, values: Float, known: Float, products: Float) -> Float:
    """Coordinates [N, 32]: what is left of `_coordinates` where all fits at once."""
    size = len(known)
    values -= (weights * values).sum(axis=1, keepdims=True)
    right = ((weights * values) @ known.T).astype(np.float32, copy=False)
    return _solution(_squares(weights @ products.T, size), right)[:, :RANK]


def _solution(gram: Float, right: Float) -> Float:
    """[n, m]; a ridge pulls a coordinate to 0, the mean, where the row says nothing of it."""
    ridge = _RIDGE * np.eye(gram.shape[-1], dtype=np.float32)
    found: Float = np.linalg.solve(gram + ridge, right[..., None])[..., 0].astype(np.float32)
    return found


def known_shape(vault: Path, fingerprint: str, top_k: int) -> TailShape | None:
    """The family by which the vault in this folder holds a teacher's tails; None if there is none, or a damaged one."""
    try:
        path = _path(vault, fingerprint, top_k)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            shape = TailShape(stored["mean"], stored["directions"], stored["watched"], int(stored["tokens"]))
            return shape if str(stored["name"]) == shape.name else None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def kept_shape(vault: Path, fingerprint: str, top_k: int, tokens: int, fit: Callable[[], TailShape]) -> TailShape:
    """The family of a teacher's tails: the one at hand, or a new one from then on. Raises `KnownError` on a full disk.

    One that was fitted to less than a quarter of the `tokens` that there are now is fitted anew. A lock makes a second
    job wait for the first one's: all signals of a teacher are of one family.
    """
    path = _path(vault, fingerprint, top_k)
    with files.disk_errors(vault):
        path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(str(vault / _LOCK_NAME)):
        shape = known_shape(vault, fingerprint, top_k)
        if shape is None or 4 * shape.tokens < tokens:
            shape = fit()
            with files.atomic_file(path) as stream:
                known = {"watched": shape.watched, "tokens": np.asarray(shape.tokens), "name": np.asarray(shape.name)}
                np.savez(stream, allow_pickle=False, mean=shape.mean, directions=shape.directions, **known)
        return shape


def _path(vault: Path, fingerprint: str, top_k: int) -> Path:
    named = hashlib.blake2b(f"{fingerprint} {top_k}".encode(), digest_size=16).hexdigest()
    return vault / FOLDER_NAME / f"{named}.npz"
