"""Taking an answer apart: text, tags, JSON, lists, numbers, code, rankings and choices.

Whatever a model writes, these functions end in time linear in its length and fail only with `UnparsableError`. Each
takes the answer, the names of the columns to fill, and whether the answer ended by itself. Three take more by the
names: for `choice` they are the choices, and the chosen one comes back under "choice"; `permutation` fills the first
and ranks as many things as there are others (or the number that the only other is); `code` fills the first and prefers
a block in one of the languages that the others name.
"""

from __future__ import annotations

from kdstudio.elicitation.parsing.base import Parser, UnparsableError, clean
from kdstudio.elicitation.parsing.choices import parse_choice, parse_permutation
from kdstudio.elicitation.parsing.code import parse_code
from kdstudio.elicitation.parsing.lists import parse_list
from kdstudio.elicitation.parsing.numbers import parse_number
from kdstudio.elicitation.parsing.structured import parse_json, parse_tagged, parse_text

PARSERS: dict[str, Parser] = {
    "text": parse_text,
    "tagged": parse_tagged,
    "json": parse_json,
    "list": parse_list,
    "number": parse_number,
    "code": parse_code,
    "permutation": parse_permutation,
    "choice": parse_choice,
}

__all__ = [
    "PARSERS",
    "Parser",
    "UnparsableError",
    "clean",
    "parse_choice",
    "parse_code",
    "parse_json",
    "parse_list",
    "parse_number",
    "parse_permutation",
    "parse_tagged",
    "parse_text",
]
