"""Which of several trained recipes is closer to the teacher, and whether chance alone could have made the difference.

A difference met on held-out rows has two sources of chance: other rows could have been held out, and another seed would
have trained another student. Both are crossed (every run is measured on the same rows), so both are drawn:

- Rows: a paired bootstrap (Efron & Tibshirani 1993; for systems on one test set Koehn 2004, ACL W04-3250). All runs
  keep the same resampled rows, so that what makes a row hard cancels. Rows of one prompt are drawn together.
- Seeds: resampling two or three seeds cannot show what other seeds would do: with two, the 95 % interval of the plain
  hierarchical bootstrap holds the truth about half of the time. The scatter of the runs' means is drawn from Student's
  t instead, with as many degrees of freedom as the seeds give (two seeds: one, so that a winner must be far ahead).
  Runs of one seed are differenced first.
- Both: that each run met the rows differently shows in both parts. It is estimated as the interaction of a crossed
  analysis of variance (Clark 1973, doi:10.1016/S0022-5371(73)80014-3) and taken off the rows' part, to count once.

Deviations of the row bootstrap carry the same allowance for few rows (Hesterberg 2015, https://arxiv.org/abs/1411.5279).
NumPy alone; everything is drawn from one seed, so that the same figures give the same verdict.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdstudio.errors import BadInput, BugError

Array = npt.NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
ONE_SEED = "one seed only: the interval speaks of rows, not of chance in training"
_CHUNK_ELEMENTS = 1 << 22
_ROUNDING = 1e-12  # nats: smaller differences come from the order of sums


@dataclass(frozen=True)
class Metric:
    """How a held-out figure is read. `closer`: what the better side is said to do; `sign` -1 where more is better."""

    key: str
    label: str
    unit: str
    closer: str
    sign: int = 1
    by_token: bool = True


METRICS: Mapping[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("forward_kl", "Held-out forward KL", "nats a token", "is closer to the teacher"),
        Metric("nll", "Held-out surprise", "nats a token", "is closer to the held-out text"),
        Metric("free_running", "Score of free answers", "", "answers better by itself", -1, by_token=False),
    )
}
"""What pairs are compared by; of the first two, the first that every run has is the headline."""


@dataclass(frozen=True)
class System:
    """One recipe's runs: `values` [S, R] are the means of each of R held-out rows, one line for each of S seeds."""

    name: str
    seeds: tuple[int, ...]
    values: Array


@dataclass(frozen=True)
class Pair:
    """Two recipes. `difference` = a - b in the metric's unit, `low` to `high` its 95 % interval (of this pair alone).

    `p` is two-sided, from the same draws, and `p_holm` corrected for all pairs. `winner` is "" unless p_holm < 0.05,
    the interval leaves out 0 and both sides have two seeds or more.
    """

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    winner: str
    verdict: str


def compare(
    systems: Sequence[System],
    tokens: npt.ArrayLike,
    *,
    metric: str = "forward_kl",
    groups: npt.ArrayLike | None = None,
    first: str = "",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Pair]:
    """Every pair of `systems`, those with the baseline `first` in front (as side b), corrected for their number.

    `tokens` [R] weigh the rows; `groups` [R] name each row's prompt (None: each row stands alone). Raises `BadInput`
    when there are fewer than two groups of rows, and `BugError` for shapes that do not fit.
    """
    weights = _weights(systems, tokens, METRICS[metric])
    of = np.unique(np.arange(len(weights)) if groups is None else np.asarray(groups), return_inverse=True)[1]
    if len(weights) == 0 or of.max() == 0:
        raise BadInput(
            "Too few held-out rows",
            "All of them belong to one prompt: nothing can be said about chance.",
            "Hold out more prompts, by data.held_out or a tag.",
        )
    pairs = _pairs(systems, first)
    draws = _draws(pairs, weights, of, resamples, np.random.default_rng(seed))
    chances = [_two_sided(column) for column in draws.T]
    corrected = holm(chances)
    tail = (1 - LEVEL) / 2
    made = []
    for (a, b), column, p, p_holm in zip(pairs, draws.T, chances, corrected, strict=True):
        difference = float(row_mean(a.values, weights).mean() - row_mean(b.values, weights).mean())
        low, high = (float(edge) for edge in np.quantile(column, (tail, 1 - tail)))
        few = min(len(a.seeds), len(b.seeds)) < 2
        beyond = p_holm < 1 - LEVEL and not low <= 0 <= high
        side = a if difference * METRICS[metric].sign < 0 else b
        winner = side.name if beyond and not few else ""
        bare = Pair(a.name, b.name, metric, difference, low, high, p, p_holm, winner, "")
        made.append(Pair(**{**vars(bare), "verdict": _verdict(bare, len(pairs), one_seed=few)}))
    return made


def row_mean(values: npt.ArrayLike, weights: npt.ArrayLike) -> Array:
    """[S] the weighted mean of `values` [S, R] over rows, `weights` [R]."""
    chosen = np.asarray(weights, np.float64)
    return np.asarray(np.asarray(values, np.float64) @ chosen / chosen.sum(), np.float64)


def holm(chances: Sequence[float]) -> list[float]:
    """Step-down p-values, which keep the chance of any false winner below the level (Holm 1979, JSTOR 4615733)."""
    corrected = [0.0] * len(chances)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=lambda place: chances[place])):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[place]))
        corrected[place] = highest
    return corrected


def _weights(systems: Sequence[System], tokens: npt.ArrayLike, metric: Metric) -> Array:
    given = np.asarray(tokens, np.float64)
    for system in systems:
        if system.values.shape != (len(system.seeds), len(given)):
            raise BugError(f"{system.name}: {system.values.shape} is not {len(system.seeds)} seeds x {len(given)} rows")
    return given if metric.by_token else np.ones_like(given)


def _pairs(systems: Sequence[System], first: str) -> list[tuple[System, System]]:
    base = [system for system in systems if system.name == first][:1]
    rest = [system for system in systems if not base or system is not base[0]]
    return [(system, base[0]) for system in rest if base] + list(itertools.combinations(rest, 2))


# ---------------------------------------------------------------------------------------------------------- chance
def _draws(
    pairs: Sequence[tuple[System, System]],
    weights: Array,
    of: npt.NDArray[np.intp],
    count: int,
    source: np.random.Generator,
) -> Array:
    """[count, pairs] differences as other rows and other seeds might have given them."""
    means = np.stack([a.values.mean(axis=0) - b.values.mean(axis=0) for a, b in pairs])
    means[np.abs(means) < _ROUNDING] = 0.0
    centre = row_mean(means, weights)
    rows = _resampled(means, weights, of, count, source) - centre
    units = int(of.max()) + 1
    rows *= math.sqrt(units / (units - 1)) * _heavier(source, units - 1, count)[:, None]
    seeds = np.zeros_like(rows)
    for place, pair in enumerate(pairs):
        scatter = 0.0
        for values in _sides(*pair):
            seed, interaction = seed_parts(values, weights, of)
            deviates = source.standard_normal(count) * _heavier(source, len(values) - 1, count)
            seeds[:, place] += deviates * math.sqrt(seed)
            scatter += interaction
        within = float(_summed(means[place : place + 1] - centre[place], weights, of)[0])
        rows[:, place] *= math.sqrt(max(0.0, 1 - scatter / within)) if within else 0.0
    return np.asarray(centre + rows + seeds, np.float64)


def _sides(a: System, b: System) -> list[Array]:
    """What scatters by seed: the differences of runs with the same seed, or each side by itself where seeds differ.

    Nothing where a side has one seed: nothing is known of it.
    """
    if min(len(a.seeds), len(b.seeds)) < 2:
        return []
    if sorted(a.seeds) != sorted(b.seeds):
        return [a.values, b.values]
    return [a.values[np.argsort(a.seeds, kind="stable")] - b.values[np.argsort(b.seeds, kind="stable")]]


def _resampled(
    means: Array, weights: Array, of: npt.NDArray[np.intp], count: int, source: np.random.Generator
) -> Array:
    """[count, P] weighted means of `means` [P, R] over resampled groups of rows, the same groups for every line."""
    units = int(of.max()) + 1
    sums = np.zeros((units, len(means) + 1))
    np.add.at(sums, of, np.column_stack([(means * weights).T, weights]))
    made = np.empty((count, len(means)))
    step = max(1, _CHUNK_ELEMENTS // units)
    for start in range(0, count, step):
        size = min(step, count - start)
        chosen = source.integers(units, size=(size, units)) + units * np.arange(size)[:, None]
        times = np.bincount(chosen.ravel(), minlength=size * units).reshape(size, units)
        totals = times @ sums
        made[start : start + size] = totals[:, :-1] / totals[:, -1:]
    return made


def seed_parts(values: npt.ArrayLike, weights: npt.ArrayLike, of: npt.ArrayLike) -> tuple[float, float]:
    """Variances of the mean over S >= 2 seeds of `values` [S, R]: what seeds show, and the interaction in it.

    The first is the variance of the runs' means over S. The second is what they scatter because each run met the groups
    of rows `of` [R] differently, from the residuals of a crossed analysis of variance.
    """
    table, chosen = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    seeds, means = len(table), row_mean(table, chosen)
    centred = table - means[:, None]
    residuals = centred - centred.mean(axis=0)
    interaction = float(_summed(residuals, chosen, np.asarray(of, np.intp)).sum()) / (seeds * (seeds - 1))
    return float(means.var(ddof=1)) / seeds, interaction


def _summed(deviations: Array, weights: Array, of: npt.NDArray[np.intp]) -> Array:
    """[S] the variance of each line's weighted mean, from its `deviations` [S, R], summed by group ."""
    units = int(of.max()) + 1
    sums = np.stack([np.bincount(of, line * weights, units) for line in deviations]) / weights.sum()
    return np.asarray((sums**2).sum(axis=1) * units / (units - 1), np.float64)


def _heavier(source: np.random.Generator, freedom: int, count: int) -> Array:
    """[count] factors that turn normal deviates into Student's t: sqrt(df / chi-squared(df))."""
    return np.asarray(np.sqrt(freedom / source.chisquare(freedom, count)), np.float64)


def _two_sided(draws: Array) -> float:
    """Twice the smaller tail beyond 0, never below what so many draws can show (Davison & Hinkley 1997, chapter 4)."""
    smaller = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (1 + smaller) / (1 + len(draws)))


# ----------------------------------------------------------------------------------------------------------- words
def _verdict(pair: Pair, pairs: int, *, one_seed: bool) -> str:
    metric = METRICS[pair.metric]
    show = _Shown(pair, metric.unit)
    if pair.winner:
        return f"{pair.winner} {metric.closer} by {show.size} (95 %: {show.range})"
    if pair.low == pair.difference == pair.high == 0:
        return f"No winner: {pair.a} and {pair.b} are equal on every held-out row"
    differs = f"{pair.a} differs from {pair.b} by {show.signed} (95 %: {show.signed_range})"
    if one_seed:
        return f"No winner: {ONE_SEED}. {differs}"
    if pair.low <= 0 <= pair.high:
        return f"No winner: {differs}, which chance explains"
    return f"No winner: {differs}, which does not outlast Holm's correction for {pairs} pairs (p = {pair.p_holm:.2g})"


class _Shown:
    """A difference and its interval in the digits that the interval's width allows."""

    def __init__(self, pair: Pair, unit: str) -> None:
        width = max(pair.high - pair.low, abs(pair.difference) / 100, 1e-9)
        self._digits = min(8, max(2, 1 - math.floor(math.log10(width))))
        self._unit = f" {unit}" if unit else ""
        ends = sorted((abs(pair.low), abs(pair.high)))
        self.size = f"{abs(pair.difference):.{self._digits}f}{self._unit}"
        self.range = f"{ends[0]:.{self._digits}f} to {ends[1]:.{self._digits}f}"
        self.signed = f"{self._with_sign(pair.difference)}{self._unit}"
        self.signed_range = f"{self._with_sign(pair.low)} to {self._with_sign(pair.high)}"

    def _with_sign(self, value: float) -> str:
        return f"{value:.{self._digits}f}".replace("-", "−")


def overall(pairs: Sequence[Pair], names: Iterable[str]) -> tuple[str, str]:
    """(winner, verdict) over all pairs of one metric: the winner beats every other recipe, or is ""."""
    known = list(names)
    beaten = {
        name: {pair.b if pair.winner == pair.a else pair.a for pair in pairs if pair.winner == name} for name in known
    }
    for name in known:
        if len(known) > 1 and beaten[name] == set(known) - {name}:
            won = [pair.verdict.removeprefix(f"{name} ") for pair in pairs if pair.winner == name]
            if len(won) == 1:
                return name, f"{name} {won[0]}"
            return name, f"{name} {METRICS[pairs[0].metric].closer} than each of the {len(won)} others"
    if len(pairs) == 1:
        return "", pairs[0].verdict
    some = [f"{name} beats {' and '.join(sorted(beaten[name]))}" for name in known if beaten[name]]
    if some:
        return "", f"No winner over all: {'; '.join(some)}; chance explains the rest"
    if all(ONE_SEED in pair.verdict for pair in pairs):
        return "", f"No winner: {ONE_SEED}"
    return "", f"No winner: chance explains every difference between the {len(known)} recipes"
