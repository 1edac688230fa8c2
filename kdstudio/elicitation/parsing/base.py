"""What every parser is, and how it fails."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

_LONE = re.compile("[\ud800-\udfff]")


class UnparsableError(Exception):
    """The answer does not hold what the recipe asks for; the message is the reason that the person reads."""


class Parser(Protocol):
    """Takes an answer apart into the named columns."""

    def __call__(self, answer: str, names: Sequence[str], finished: bool = True) -> dict[str, Any]:
        """The parts by name; `finished` is False for an answer that the token limit cut. Raises `UnparsableError`."""
        ...


def clean(text: str) -> str:
    """The text as a database can keep it: lone surrogates, which no encoding has, become U+FFFD."""
    return text.encode("utf-8", "replace").decode() if _LONE.search(text) else text
