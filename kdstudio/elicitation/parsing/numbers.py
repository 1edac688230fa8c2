r"""The number that an answer comes to: boxed, announced, or simply the last one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from kdstudio.elicitation.parsing.base import UnparsableError
from kdstudio.quality.final_answer import after_the_word_answer, last_boxed

_LONGEST = 300  # digits: what is longer is no number that anybody meant

_PLAIN = (
    (re.compile(r"[−‒–](?=\s?[0-9.])"), "-"),  # noqa: RUF001 -- the minus signs that models write
    (re.compile(r"\\[dtc]?frac\s*\{\s*(-?[0-9]{1,99})\s*\}\s*\{\s*([0-9]{1,99})\s*\}"), r" \1/\2"),
    (re.compile(r"\\[dtc]?frac\s*([0-9])\s*([0-9])"), r" \1/\2"),
    (re.compile(r"([0-9])[,_]?(?:\\[,;! ]|\{,\}|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))"), r"\1,"),
    (re.compile(r"([0-9])\s?(?:×|\\times|\*)\s?10\s?\^\s?\{?(-?[0-9]{1,3})\}?"), r"\1e\2"),
)
_HALVES = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}
_SIGNS = str.maketrans({sign: f" {value}" for sign, value in _HALVES.items()} | {0xFF10 + n: str(n) for n in range(10)})
_WHOLE = r"[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}(?![0-9])|[0-9]+"
_NUMBER = re.compile(
    rf"(?<![\w.])(?:(?<![\w)\]}}])(-)\s?)?(?:[$€£¥]\s?)?(?:"
    rf"(?:([0-9]{{1,9}})[ \t]+)?([0-9]{{1,99}})[ \t]?/[ \t]?([0-9]{{1,99}})(?![0-9/])"
    rf"|((?:{_WHOLE})(?:\.[0-9]+)?|\.[0-9]+)(e[+-]?[0-9]{{1,3}}(?![0-9]))?)[ \t]*(\\?%|percent\b)?",
    re.IGNORECASE,
)


def parse_number(answer: str, names: Sequence[str], finished: bool = True) -> dict[str, Any]:
    r"""The number as text under the first name: 1234.5, -3/4, 1.5e3 or 50%, without thousands separators.

    Looked for in the last \boxed{}, else after the last "answer is" or "####", else the last number of the answer
    counts. Of a cut answer a number at its very end may be half, and is not taken.
    """
    text = answer if finished else answer.rstrip("0123456789.,/")
    for part, which in ((last_boxed(text), -1), (_announced(text), 0), (text, -1)):
        if part and (found := _numbers(part)):
            return {names[0]: found[which]}
    raise UnparsableError("the answer holds no number")


def _announced(text: str) -> str:
    _, marker, after = text.rpartition("####")
    return after.split("\n", 1)[0] if marker else after_the_word_answer(text)


def _numbers(text: str) -> list[str]:
    text = text.translate(_SIGNS)
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    return [number for found in _NUMBER.finditer(text) if (number := _written(found))]


def _written(found: re.Match[str]) -> str:
    minus, whole, over, under, decimal, power, percent = found.groups()
    if over:
        value = f"{over}/{under}"
        if whole and int(under):
            mixed = Fraction(int(over), int(under)) + int(whole)
            value = f"{mixed.numerator}/{mixed.denominator}"
    else:
        value = decimal.replace(",", "") + (power or "").lower()
    return f"{minus or ''}{value}{'%' if percent else ''}" if len(value) <= _LONGEST else ""
