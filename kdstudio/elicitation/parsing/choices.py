"""What an answer chooses, and in which order it puts things."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from kdstudio.elicitation.parsing.base import UnparsableError
from kdstudio.quality.final_answer import final_answer

_EDGES = " \t\r\n.,;:!?\"'“”‘’`*_()[]{}<>#$"


def parse_choice(answer: str, names: Sequence[str], finished: bool = True) -> dict[str, Any]:
    r"""Which of the names the answer chooses, spelled as there, under "choice".

    In turn: the final answer (\boxed{}, "the answer is"), the first line, the last line, when one of them is a choice
    and nothing else; a bracketed or leading letter, where choices are letters; the only choice named anywhere. An
    answer that names several, and says nowhere which it means, is not parsed.
    """
    del finished
    by_name = {_bare(choice): choice for choice in names}
    lines = [line for line in answer.strip().split("\n") if line.strip()]
    if not lines or not names:
        raise UnparsableError("the answer is empty" if names else "there is nothing to choose from")
    said = final_answer(answer)
    for part in (said, lines[0], lines[-1]):
        if (chosen := by_name.get(_bare(part))) is not None:
            return {"choice": chosen}
    if said != answer.strip() and (first := re.match(r"\W*(\w+)\b(?!-)", said)) and _bare(first[1]) in by_name:
        return {"choice": by_name[_bare(first[1])]}
    named: set[str] = set()
    for part in (said, lines[0], lines[-1], answer):
        if len(named := _named(part, by_name)) == 1:
            return {"choice": named.pop()}
    raise UnparsableError(f"the answer names {'several' if named else 'none'} of {', '.join(names)}")


def _bare(text: str) -> str:
    return (text.strip(_EDGES) or text.strip()).casefold()


def _named(text: str, by_name: dict[str, str]) -> set[str]:
    """The choices in a text as whole words, longer ones first: "not relevant" does not name "relevant"."""
    words = "|".join(re.escape(name) for name in sorted(by_name, key=len, reverse=True))
    if all(len(name) == 1 for name in by_name):
        # "A good answer" names no A: a letter counts in brackets, before a bracket or stop, or in bold.
        pattern = rf"[(\[*]({words})[)\]*]|(?:^|\n)[ \t]*({words})[).:](?=\s|$)|\b(?:option|choice|answer) ({words})\b"
    else:
        pattern = rf"(?<!\w)({words})(?!\w)"
    found = re.finditer(pattern, text.casefold())
    return {by_name[next(group for group in each.groups() if group is not None)] for each in found}


# ----------------------------------------------------------------------------------------------------------- rankings
_ID = r"\[?(?:(?<=\[)[ \t]{1,9})?\d{1,6}[ \t]{0,9}\]?"
_CHAIN = re.compile(rf"{_ID}(?:\s{{0,20}}>\s{{0,20}}{_ID})+")
_BRACKETED = re.compile(r"\[([ \t]{0,9}\d{1,6}(?:[ \t]{0,9},\s{0,20}\d{1,6})*[ \t]{0,9})\]")
_DIGITS = re.compile(r"(?<![\w.])\d{1,6}(?![\w])")
_LIST_MARK = re.compile(r"^[ \t]*\d{1,4}[.)][ \t]+(?=.*\d)", re.MULTILINE)


def parse_permutation(answer: str, names: Sequence[str], finished: bool = True) -> dict[str, Any]:
    """A ranking as places from 1, best first, under names[0]; names[1:] are the things, or one number says how many.

    Read from the last chain "[3] > [1] > [2]", else from identifiers in brackets (a JSON list too), else from all
    numbers. RankGPT's rule (Sun et al. 2023, https://arxiv.org/abs/2304.09542): what comes twice counts where it comes
    first, strangers are dropped, and what is missing follows in the order given. Without a count nothing is missing
    and no number is a stranger. Unlike there, an answer that ranks nothing is an error and not the given order.
    """
    column, *others = names
    alone = others[0].strip() if len(others) == 1 else ""
    count = int(alone) if alone.isdecimal() and len(alone) < 7 else len(others)
    named = [number for number in _ranked(answer, finished) if number >= 1 and (not count or number <= count)]
    order = list(dict.fromkeys(named))
    if not order:
        raise UnparsableError("the answer ranks nothing")
    there = set(order)
    missing = [number for number in range(1, count + 1) if number not in there]
    return {column: [*order, *missing]}


def _ranked(answer: str, finished: bool) -> list[int]:
    text = answer if finished else answer.rstrip("0123456789")
    if chains := _CHAIN.findall(text):
        return _numbers(chains[-1])
    if bracketed := _BRACKETED.findall(text):
        return [number for part in bracketed for number in _numbers(part)]
    return _numbers(_LIST_MARK.sub("", text))


def _numbers(text: str) -> list[int]:
    return [int(digits) for digits in _DIGITS.findall(text)]
