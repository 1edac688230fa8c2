"""ROUGE-L, and a pool of texts that a new one is held against before it is let in.

The score is Lin 2004 (https://aclanthology.org/W04-1013), the pool Self-Instruct's rule: an instruction is new when
its ROUGE-L with every earlier one is below 0.7 (Wang et al. 2022, https://arxiv.org/abs/2212.10560).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import LCSseq

from kdstudio.errors import BadInput
from kdstudio.quality.words import words

SELF_INSTRUCT_THRESHOLD = 0.7


def rouge_l(candidate: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, in 0..1; two texts without any word score 0.

    With LCS words in common, precision is LCS / candidate's words and recall LCS / reference's words, so that
    F1 = 2 LCS / (candidate's words + reference's words): Lin 2004 with beta = 1.
    """
    ours, theirs = words(candidate), words(reference)
    if not ours or not theirs:
        return 0.0
    return 2 * LCSseq.similarity(ours, theirs) / (len(ours) + len(theirs))


class RougePool:
    """Texts so far, and which of them a new text is most like.

    A common subsequence has no more words than both texts share. So 2 * shared / (words in both) bounds ROUGE-L from
    above, it is counted for the whole pool at once, and only texts whose bound reaches the best score are compared.
    Memory is one number for each distinct word of each text.
    """

    def __init__(self, threshold: float = SELF_INSTRUCT_THRESHOLD) -> None:
        """Raises `BadInput` when `threshold` is not in 0 < threshold <= 1."""
        if not 0 < threshold <= 1:
            raise BadInput("A threshold is out of range", f"ROUGE-L threshold {threshold:g}.", "It goes from 0 to 1.")
        self.threshold = threshold
        self._texts: list[str] = []
        self._coded: list[array[int]] = []
        self._lengths = array("I")
        self._numbers: dict[str, int] = {}
        self._holders: list[tuple[array[int], array[int]]] = []  # for each word: texts that have it, and how often

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> None:
        """Let a text into the pool."""
        place, found = len(self._texts), words(text)
        for word, count in Counter(found).items():
            number = self._numbers.setdefault(word, len(self._numbers))
            if number == len(self._holders):
                self._holders.append((array("I"), array("I")))
            texts, counts = self._holders[number]
            texts.append(place)
            counts.append(count)
        self._texts.append(text)
        self._coded.append(array("I", (self._numbers[word] for word in found)))
        self._lengths.append(len(found))

    def nearest(self, text: str) -> tuple[float, str]:
        """The highest ROUGE-L with a text of the pool, and that text (the earliest of equals); (0, "") when none is."""
        found = words(text)
        if not found or not self._texts:
            return 0.0, ""
        bounds = self._bounds(found)
        coded = array("I", (self._numbers.get(word, len(self._numbers)) for word in found))
        best, where = 0.0, -1
        likely = np.flatnonzero(bounds > 0)
        for place in likely[np.argsort(-bounds[likely], kind="stable")].tolist():
            if bounds[place] < best:
                break
            score = self._score(coded, self._coded[place])
            if score > best or (score == best and place < where):
                best, where = score, place
        return (best, self._texts[where]) if where >= 0 else (0.0, "")

    def admits(self, text: str) -> bool:
        """Whether nothing in the pool is as like the text as the threshold says."""
        return self.nearest(text)[0] < self.threshold

    def _bounds(self, found: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The highest score that each text of the pool can have [texts]."""
        shared = np.zeros(len(self._texts), dtype=np.int64)
        for word, count in Counter(found).items():
            if (number := self._numbers.get(word)) is not None:
                texts, counts = (np.frombuffer(part, dtype=np.uint32) for part in self._holders[number])
                shared[texts] += np.minimum(counts, count)
        return 2 * shared / (np.frombuffer(self._lengths, dtype=np.uint32) + len(found))

    @staticmethod
    def _score(ours: array[int], theirs: array[int]) -> float:
        return 2 * LCSseq.similarity(ours, theirs) / (len(ours) + len(theirs))
