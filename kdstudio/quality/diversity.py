"""How varied a set of texts is, and whether a loop that feeds on itself is collapsing."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from kdstudio.quality.rouge import rouge_l
from kdstudio.quality.words import words

WINDOW = 2_000  # n-grams
_REPEATED = 4  # words in a run that is looked for a second time
_PAIRS = 400
_WORDS_COMPARED = 300


@dataclass(frozen=True)
class Diversity:
    """Figures of a set of texts. All but the counts are in 0..1, and 0 for no texts.

    `distinct_1`, `distinct_2`: different words and pairs of words by all of them (Li et al. 2016,
    https://arxiv.org/abs/1510.03055), the mean over windows of 2,000, because the plain ratio falls with every text
    added. `repetition`: runs of four words that a text has said before, by all its runs, the mean over texts long
    enough to have one (seq-rep-4 of Welleck et al. 2019, https://arxiv.org/abs/1908.04319). `similarity`: mean
    ROUGE-L of 400 pairs, or of all if there are fewer (the idea of Self-BLEU, Zhu et al. 2018,
    https://arxiv.org/abs/1802.01886).
    """

    texts: int
    distinct_1: float
    distinct_2: float
    mean_words: float
    repetition: float
    similarity: float


@dataclass(frozen=True)
class Limits:
    """How far figures may slide from the first round's before a loop is stopped.

    `distinct` and `shorter` are the least share of the first value that must be left, `longer` the most that it may
    grow; `repetition` and `similarity` may rise by so much, in points.
    """

    distinct: float = 0.7
    shorter: float = 0.5
    longer: float = 3.0
    repetition: float = 0.15
    similarity: float = 0.15


def figures(texts: Iterable[str]) -> Diversity:
    """Measure a set of texts. The same texts in the same order always give the same figures."""
    split = [words(text) for text in texts]
    counted = len(split)
    repeated = [share for each in split if (share := _repetition(each)) is not None]
    return Diversity(
        texts=counted,
        distinct_1=_distinct(split, 1),
        distinct_2=_distinct(split, 2),
        mean_words=math.fsum(map(len, split)) / counted if counted else 0.0,
        repetition=math.fsum(repeated) / len(repeated) if repeated else 0.0,
        similarity=_similarity(split),
    )


def slides(first: Diversity, now: Diversity, limits: Limits | None = None) -> str:
    """Why a round is worse than the first by more than the limits allow, in a person's words; "" when it is not."""
    allowed = limits or Limits()
    if not first.texts:
        return ""
    if not now.texts:
        return "the round brought no texts"
    checks = (
        (now.distinct_2 < allowed.distinct * first.distinct_2, "fewer different word pairs", "distinct_2"),
        (now.distinct_1 < allowed.distinct * first.distinct_1, "fewer different words", "distinct_1"),
        (now.mean_words < allowed.shorter * first.mean_words, "texts have become short", "mean_words"),
        (now.mean_words > allowed.longer * first.mean_words, "texts have become long", "mean_words"),
        (now.repetition > first.repetition + allowed.repetition, "texts repeat themselves", "repetition"),
        (now.similarity > first.similarity + allowed.similarity, "texts have become alike", "similarity"),
    )
    for worse, reason, name in checks:
        if worse:
            return f"{reason} ({_shown(getattr(first, name))} at first, {_shown(getattr(now, name))} now)"
    return ""


def _shown(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _grams(split: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(split[start:] for start in range(size)), strict=False)


def _distinct(split: Sequence[Sequence[str]], size: int) -> float:
    """Different n-grams by all n-grams, the mean over full windows; of a smaller set, over what there is."""
    shares: list[float] = []
    window: set[tuple[str, ...]] = set()
    count = 0
    for gram in chain.from_iterable(_grams(each, size) for each in split):
        window.add(gram)
        count += 1
        if count == WINDOW:
            shares.append(len(window) / count)
            window, count = set(), 0
    if not shares:
        return len(window) / count if count else 0.0
    return math.fsum(shares) / len(shares)


def _repetition(split: Sequence[str]) -> float | None:
    grams = list(_grams(split, _REPEATED))
    return 1 - len(set(grams)) / len(grams) if grams else None


def _similarity(split: Sequence[Sequence[str]]) -> float:
    beginnings = [" ".join(each[:_WORDS_COMPARED]) for each in split if each]
    pairs = _pairs(len(beginnings))
    return math.fsum(rouge_l(beginnings[a], beginnings[b]) for a, b in pairs) / len(pairs) if pairs else 0.0


def _pairs(count: int) -> list[tuple[int, int]]:
    """All pairs of `count` texts, or as many as are compared, drawn by a fixed seed."""
    if count * (count - 1) // 2 <= _PAIRS:
        return [(first, second) for second in range(count) for first in range(second)]
    draw = random.Random(count)
    chosen: set[tuple[int, int]] = set()
    while len(chosen) < _PAIRS:
        first, second = draw.sample(range(count), 2)
        chosen.add((min(first, second), max(first, second)))
    return sorted(chosen)
