"""How alike two answers are: exact match and ROUGE-L, written out here and tested against worked values."""

from __future__ import annotations

import re
import string
import unicodedata

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# A word, or one letter of a script that writes without spaces (Han, Hiragana, Katakana, Thai, Lao, Khmer).
_UNSPACED = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def exact_match(answer: str, reference: str) -> bool:
    """Whether both say the same after lower-casing and dropping punctuation, articles and extra spaces.

    The normalisation of SQuAD: Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250.
    """
    return _normalised(answer) == _normalised(reference)


def _normalised(text: str) -> str:
    lowered = unicodedata.normalize("NFC", text).lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", lowered).split())


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L, the F-measure of the longest common subsequence of words, in 0..1 (Lin 2004, ACL W04-1013).

    Words are runs of letters and digits, lower-cased; for English text the value is that of the `rouge-score` package
    without stemming. Two texts without any word score 0.
    """
    ours, theirs = words(answer), words(reference)
    if not ours or not theirs:
        return 0.0
    common = longest_common_subsequence(ours, theirs)
    return (
        2 * common / (len(ours) + len(theirs))
    )  # = 2PR / (P + R) with P = common / len(ours), R = common / len(theirs)


def words(text: str) -> list[str]:
    """Lower-cased words; in scripts without spaces each letter is one."""
    return _WORDS.findall(unicodedata.normalize("NFC", text).lower())


def longest_common_subsequence(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, in O(len(first) * len(second)) time and O(len(second)) memory."""
    row = [0] * (len(second) + 1)
    for item in first:
        diagonal = 0
        for place, other in enumerate(second, start=1):
            above = row[place]
            row[place] = diagonal + 1 if item == other else max(above, row[place - 1])
            diagonal = above
    return row[-1]
