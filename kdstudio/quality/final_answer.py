r"""Where the answer is in an answer: in \boxed{}, after ####, after "the answer is", or all of a short text."""

from __future__ import annotations

import re

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)", re.MULTILINE)
_SAID = re.compile(
    r"\b(?:answer|result|solution)(?: (?:to|for|of) [^:.\n]{1,80})?"
    r"[ \t*_]*(?:\bis\b|\bequals\b|:|=)[ \t:*_]*(?=[^\s:*_])",
    re.IGNORECASE,
)
_STOP = re.compile(r"(?<![A-Z])[.?](?=\s|$)")  # neither a decimal point nor the stop after a choice's letter


def final_answer(text: str) -> str:
    r"""The part that answers: the last \boxed{}, else what follows ####, else "answer is", else the whole, trimmed."""
    if (boxed := last_boxed(text)) is not None:
        return boxed.strip()
    if marked := _HASHES.findall(text):
        return str(marked[-1]).strip()
    return after_the_word_answer(text) or text.strip()


def after_the_word_answer(text: str) -> str:
    """The sentence's rest after the last "answer is" or "answer:", up to its full stop; "" when nobody says so."""
    end = -1
    for found in _SAID.finditer(text):
        end = found.end()
    if end < 0:
        return ""
    line = text[end:].split("\n", 1)[0]
    stop = _STOP.search(line)
    return (line[: stop.start()] if stop else line).strip()


def last_boxed(text: str) -> str | None:
    r"""What is inside the last \boxed{...} that is closed, its inner braces matched; None without one."""
    inside = None
    open_at: list[tuple[int, bool]] = []
    for found in _BRACES.finditer(text):
        brace = found[0]
        if brace in (r"\{", r"\}"):
            continue
        if brace.endswith("{"):
            open_at.append((found.end(), len(brace) > 1))
        elif open_at:
            start, boxed = open_at.pop()
            inside = text[start : found.start()] if boxed else inside
    return inside
