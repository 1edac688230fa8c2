"""A family of tails: what it was fitted to it gives back, a token's place in it is the weighted least squares' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from kdstudio.teachers import tail_shape
from kdstudio.teachers.llama_logits import signal_of
from kdstudio.teachers.signals import SHAPE_BYTES
from kdstudio.teachers.tail_shape import FOLDER_NAME, RANK, TailShape, fitted, kept_shape, known_shape, widened

VOCABULARY, TOP = 300, 10
Doubles = npt.NDArray[np.float64]


def logits_of(
    tokens: int, *, rank: int, noise: float = 0.0, seed: int = 0, head_seed: int = 7
) -> npt.NDArray[np.float32]:
    """A head of `rank` times states, with its own mean, and what no plane holds."""
    head, rng = np.random.default_rng(head_seed), np.random.default_rng(seed)
    mean, directions = head.standard_normal(VOCABULARY) * 2, head.standard_normal((rank, VOCABULARY))
    made = mean + rng.standard_normal((tokens, rank)) @ directions + noise * rng.standard_normal((tokens, VOCABULARY))
    return made.astype(np.float32)


def log_probs(logits: npt.NDArray[np.generic]) -> Doubles:
    wide = logits.astype(np.float64)
    found: Doubles = wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)
    return found


def lost(shape: TailShape, logits: npt.NDArray[np.float32], *, told: bool = True) -> float:
    """KL of the tails from those of the family, in nats a token; with nothing `told` of a token, from its mean."""
    exact, ids = log_probs(logits), signal_of(logits, np.zeros(len(logits), np.int64), TOP).ids
    places = widened(shape.coordinates(logits, ids)) if told else np.zeros((len(logits), RANK))
    outside = np.ones(exact.shape, bool)
    np.put_along_axis(outside, ids.astype(np.int64), False, axis=1)
    near = np.where(outside, shape.mean.astype(np.float64) + places @ shape.directions.astype(np.float64), -np.inf)
    tail = np.logaddexp.reduce(np.where(outside, exact, -np.inf), axis=1, keepdims=True)
    gap = np.where(outside, exact - (log_probs(near) + tail), 0)
    return float((np.exp(exact) * gap).sum(axis=1).mean())


def family(noise: float = 0.0, seed: int = 0) -> TailShape:
    return fitted(log_probs(logits_of(400, rank=5, noise=noise, seed=seed)).astype(np.float32), TOP)


def test_tails_on_a_plane_come_back() -> None:
    shape, unseen = family(), logits_of(50, rank=5, seed=1)
    rounding = 5 * (0.5**2 / 12) / 2  # of five coordinates that matter, as a divergence
    tail = 1 - float(signal_of(unseen, np.zeros(50, np.int64), TOP).captured_mass.mean())
    assert lost(shape, unseen) < 1.5 * rounding * tail
    assert lost(shape, unseen) < 0.1 * lost(shape, unseen, told=False)


def test_what_no_plane_holds_is_lost_and_no_more() -> None:
    shape, unseen = family(noise=0.3), logits_of(50, rank=5, noise=0.3, seed=1)
    tail = 1 - signal_of(unseen, np.zeros(50, np.int64), TOP).captured_mass.mean()
    assert lost(shape, unseen) < 0.2 * lost(shape, unseen, told=False)
    assert lost(shape, unseen) < 2 * tail * 0.3**2 / 2  # a log-normal's divergence is half its variance


def test_coordinates_are_those_of_weighted_least_squares() -> None:
    """Against float64 and NumPy's own solver, row by row, with the ridge as further rows."""
    shape, logits = family(noise=0.1), logits_of(20, rank=5, noise=0.1, seed=2)
    ids = signal_of(logits, np.zeros(20, np.int64), TOP).ids
    found = widened(shape.coordinates(logits, ids))
    design = np.concatenate([shape.directions.astype(np.float64), np.ones((1, VOCABULARY))]).T
    for row, exact in enumerate(log_probs(logits)):
        weights = np.exp(exact)
        weights[ids[row].astype(np.int64)] = 0
        weights /= weights.sum()
        values = exact - shape.mean.astype(np.float64)
        values -= (weights * values).sum()
        roots, ridge = np.sqrt(weights)[:, None], np.sqrt(1e-3) * np.eye(RANK + 1)
        rows = np.concatenate([roots * design, ridge])
        expected = np.linalg.lstsq(rows, np.concatenate([roots[:, 0] * values, np.zeros(RANK + 1)]), rcond=None)[0]
        assert abs(found[row] - np.clip(expected[:RANK], -3.75, 3.75)).max() <= 0.2501  # half a step


@pytest.mark.parametrize("scale", [0.0, 1.0, 60.0])
@pytest.mark.parametrize("top_k", [1, TOP, VOCABULARY])
def test_flat_peaked_and_empty_tails_have_coordinates(scale: float, top_k: int) -> None:
    logits = logits_of(30, rank=5) * np.float32(scale)
    shape = fitted(log_probs(logits).astype(np.float32), top_k)
    assert np.isfinite(shape.mean).all()
    assert np.isfinite(shape.directions).all()
    ids = signal_of(logits, np.zeros(30, np.int64), top_k).ids
    assert shape.coordinates(logits, ids).shape == (30, SHAPE_BYTES)


def test_one_token_and_ids_that_are_ruled_out_are_enough_to_fit() -> None:
    logits = logits_of(1, rank=5)
    logits[:, -20:] = -np.inf
    with np.errstate(invalid="raise", over="raise"):
        shape = fitted(log_probs(logits).astype(np.float32), TOP)
        ids = signal_of(logits, np.zeros(1, np.int64), TOP).ids
        assert np.isfinite(widened(shape.coordinates(logits, ids))).all()
    assert shape.tokens == 1


def test_few_columns_at_a_time_give_the_same_family(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = family(noise=0.1)
    monkeypatch.setattr(tail_shape, "_COLUMNS", 64)
    unseen = logits_of(20, rank=5, noise=0.1, seed=3)
    assert lost(family(noise=0.1), unseen) == pytest.approx(lost(whole, unseen), rel=0.02)


# ------------------------------------------------------------------------------------------------------------ the vault
def test_a_family_is_fitted_once_and_kept(tmp_path: Path) -> None:
    fits: list[TailShape] = []

    def fit() -> TailShape:
        fits.append(family(seed=len(fits)))
        return fits[-1]

    assert known_shape(tmp_path, "teacher", TOP) is None
    first = kept_shape(tmp_path, "teacher", TOP, 400, fit)
    assert kept_shape(tmp_path, "teacher", TOP, 400, fit).name == first.name == fits[0].name
    known = known_shape(tmp_path, "teacher", TOP)
    assert known is not None
    assert np.array_equal(known.directions, first.directions)
    assert known_shape(tmp_path, "another", TOP) is None
    assert known_shape(tmp_path, "teacher", TOP + 1) is None
    assert len(fits) == 1


def test_a_family_of_few_tokens_is_fitted_anew_when_there_are_many(tmp_path: Path) -> None:
    few = fitted(log_probs(logits_of(20, rank=5)).astype(np.float32), TOP)
    assert kept_shape(tmp_path, "teacher", TOP, 20, lambda: few).name == few.name
    assert kept_shape(tmp_path, "teacher", TOP, 80, family).name == few.name
    assert kept_shape(tmp_path, "teacher", TOP, 81, family).tokens == 400


def test_a_damaged_family_is_none(tmp_path: Path) -> None:
    kept_shape(tmp_path, "teacher", TOP, 400, family)
    (path,) = (tmp_path / FOLDER_NAME).iterdir()
    sound = path.read_bytes()
    for damaged in (b"", sound[: len(sound) // 2], sound[:2000] + bytes([sound[2000] ^ 1]) + sound[2001:]):
        path.write_bytes(damaged)
        assert known_shape(tmp_path, "teacher", TOP) is None
    path.write_bytes(sound)
    assert known_shape(tmp_path, "teacher", TOP) is not None
