"""Which language a text is written in, without a network: py3langid's model is inside its package."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

LETTERS_NEEDED = 20
_LETTERS_READ = 4_000
_LETTER_OF_MEANING = 3  # a Han character or kana says about as much as this many letters

_NO_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|<[^<>\n]{1,80}>|\\[A-Za-z]+", re.DOTALL)
_DENSE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


def language_of(text: str) -> tuple[str, float]:
    """The ISO 639 code and how sure that is, in 0..1; ("", 0.0) when there is too little to go by.

    Code, addresses and tags are left out first. Below 20 letters (7 in Chinese, Japanese or Korean) a guess would be
    worth nothing. A mixed text gets the language of most of its beginning.
    """
    prose = _NO_PROSE.sub(" ", text[: 4 * _LETTERS_READ])[:_LETTERS_READ]
    letters = sum(map(str.isalpha, prose)) + (_LETTER_OF_MEANING - 1) * len(_DENSE.findall(prose))
    if letters < LETTERS_NEEDED:
        return "", 0.0
    code, confidence = _identifier().classify(prose)
    return str(code), float(confidence)


@cache
def _identifier() -> Any:
    """The model, read once: 5 MB that only a recipe with a language filter pays for."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
