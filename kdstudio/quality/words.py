"""What counts as a word, for every figure that compares or counts them."""

from __future__ import annotations

import re
import unicodedata

# A word, or one letter of a script that writes without spaces (Han, Hiragana, Katakana, Thai, Lao, Khmer).
_UNSPACED = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits; in scripts without spaces each letter is one."""
    return _WORDS.findall(unicodedata.normalize("NFC", text).lower())


def plain(text: str) -> str:
    """The text without differences that nobody reads: form of characters, case, kind and number of spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
