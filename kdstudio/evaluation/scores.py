"""Whether two answers say the same; how alike they are is told by `quality.rouge`."""

from __future__ import annotations

import re
import string
import unicodedata

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(answer: str, reference: str) -> bool:
    """Whether both say the same after lower-casing and dropping punctuation, articles and extra spaces.

    The normalisation of SQuAD: Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250.
    """
    return _normalised(answer) == _normalised(reference)


def _normalised(text: str) -> str:
    lowered = unicodedata.normalize("NFC", text).lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", lowered).split())
