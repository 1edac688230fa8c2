"""Whether two answers are the same: numbers, formulas, choices, or a few words.

Where it is in doubt they are not: a filter that keeps a wrong row does more harm than one that loses a right one.
Nothing is evaluated as code, and time is bounded by the length of the texts.
"""

from __future__ import annotations

import re
import unicodedata

from kdstudio.quality.final_answer import final_answer
from kdstudio.quality.quantities import read_quantity, same_quantity

_SHORT = 400  # characters: what is longer is no short answer and must be the same word for word


def same_answer(first: str, second: str) -> bool:
    r"""Whether both give the same final answer.

    Read first: \boxed{}, "#### 4", "the answer is 4". Then, in turn: a choice's letter ("(B)" is "B", but two with the
    same letter and other texts differ); sets in braces in any order, points and lists in theirs; numbers and formulas
    by value (1,000 = 10^3, 1/2 = 0.5 = 50 %, 2x+2 = 2(x+1)); words but for case, articles and punctuation at their
    ends. A unit counts where both have one, and a percentage is its share or, beside a bare number, that number. A
    decimal with six or more digits is what rounds to it, a shorter one is exact. Empty answers are never the same.
    """
    ours, theirs = _tidy(final_answer(first)), _tidy(final_answer(second))
    if not ours or not theirs:
        return False
    if ours == theirs:
        return True
    if max(len(ours), len(theirs)) > _SHORT:
        return _worded(ours) == _worded(theirs)
    chosen = _same_choice(ours, theirs)
    return _same_parts(ours, theirs) if chosen is None else chosen


# ------------------------------------------------------------------------------------------------------------ tidying
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox)\s*\{([^{}]*)\}")
_IN_DOLLARS = re.compile(r"\$\$?([^$\n]+)\$\$?")
_MARKUP = re.compile(
    r"\\[()\[\]]|\*\*(?=\S)|(?<=\S)\*\*(?![\w(-])|`|\\left(?![a-z])|\\right(?![a-z])|\\!|\\displaystyle|\\(?=[%$])"
)
_SPACE = re.compile(r"\\[,;: ]|~")
_SIGNS = (
    (re.compile(r"\\leq?(?![a-z])"), "≤"),
    (re.compile(r"\\geq?(?![a-z])"), "≥"),
    (re.compile(r"\\neq?(?![a-z])"), "≠"),
    (re.compile("−"), "-"),
)


def _tidy(text: str) -> str:
    """Without mathematics' dollar signs, bold marks, text commands and the full stop at the end."""
    text = unicodedata.normalize("NFC", text)
    if len(text) <= 4 * _SHORT:
        text = _MARKUP.sub("", _WRAPPED.sub(r" \1 ", _IN_DOLLARS.sub(r"\1", text)))
        for pattern, sign in ((_SPACE, " "), *_SIGNS):
            text = pattern.sub(sign, text)
    text = " ".join(text.split())
    return text[:-1].rstrip() if text.endswith((".", "。")) and not text.endswith("..") else text


# ------------------------------------------------------------------------------------------------------------ choices
_CHOICE = re.compile(
    r"(?:(?:option|choice|answer) )?(?:\(([A-Ja-j])\)|\[([A-J])\]|([A-Ja-j])\)|([A-J])[.:])(?:\s+(\S.*))?"
    r"|(?:(?:option|choice|answer) )?([A-Ja-j])",
    re.IGNORECASE,
)


def _same_choice(ours: str, theirs: str) -> bool | None:
    """Whether both name the same choice; None when they are not about choices."""
    first, second = _CHOICE.fullmatch(ours), _CHOICE.fullmatch(theirs)
    if first is None and second is None:
        return None
    if first is None or second is None:
        said = (first or second or [""] * 7)[5]
        return True if said and _worded(said) == _worded(theirs if first else ours) else None
    if _letter(first) != _letter(second):
        return False
    return not first[5] or not second[5] or _worded(first[5]) == _worded(second[5])


def _letter(found: re.Match[str]) -> str:
    return next(group for number, group in enumerate(found.groups()) if group and number != 4).lower()


# -------------------------------------------------------------------------------------------------------------- parts
_BRACKETS = {"(": ")]", "[": "])", "{": "}"}
_THOUSANDS = re.compile(r"(?<![0-9.,])([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9])")


def _same_parts(ours: str, theirs: str) -> bool:
    first, second = _parts(ours), _parts(theirs)
    if len(first[1]) == 1 and len(second[1]) == 1:
        return _same_single(ours, theirs)
    if len(first[1]) != len(second[1]) or first[0] != second[0]:
        return False
    if first[0] == "{}":
        return _same_set(first[1], second[1])
    return all(map(_same_single, first[1], second[1]))


def _same_set(first: list[str], second: list[str]) -> bool:
    left = list(second)
    for part in first:
        match = next((place for place, other in enumerate(left) if _same_single(part, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _parts(text: str) -> tuple[str, list[str]]:
    """The outer brackets and what stands between commas inside; the whole as one part when there is no comma."""
    inner = text.replace(r"\{", "{").replace(r"\}", "}")
    brackets = ""
    if inner[:1] in _BRACKETS and inner[-1:] in _BRACKETS[inner[0]]:
        brackets, inner = inner[0] + inner[-1], inner[1:-1]
    else:
        inner = _THOUSANDS.sub(lambda found: found[1].replace(",", ""), inner)
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(inner):
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            return "", [text]
        if letter == "," and depth == 0:
            parts.append(inner[start:place].strip())
            start = place + 1
    return brackets, [*parts, inner[start:].strip()]


def _same_single(ours: str, theirs: str) -> bool:
    first, second = read_quantity(ours), read_quantity(theirs)
    if first is not None and second is not None:
        return same_quantity(first, second)
    return _worded(ours) == _worded(theirs)


# -------------------------------------------------------------------------------------------------------------- words
_ARTICLE = re.compile(r"^(?:an?|the) (?=\S)")
_HYPHEN = re.compile(r"(?<=[^\W\d_])[-\u2010\u2011_](?=[^\W\d_])")
_EDGES = ".,;:!?\"'“”‘’«»()[]*"
_RELATION = re.compile(r"\s*([<>=≤≥≠])\s*")


def _worded(text: str) -> str:
    """Words as they are compared. What has no word left stays as it is: a lone sign is not the same as another."""
    lowered = _HYPHEN.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    stripped = " ".join(word for part in lowered.split() if (word := part.strip(_EDGES)))
    return _RELATION.sub(r"\1", _ARTICLE.sub("", stripped)) or text
