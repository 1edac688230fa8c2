"""The program in an answer."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdstudio.elicitation.parsing.base import UnparsableError

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([^`\s]*)[^`]*$")
_SHORT_NAMES = {"py": "python", "python3": "python", "js": "javascript", "ts": "typescript", "sh": "bash", "c++": "cpp"}
_LONGEST_BARE = 20_000  # characters: deeper nesting than these can hold would be needed to trouble Python's own parser


@dataclass
class _Block:
    language: str
    lines: list[str]
    closed: bool = False

    @property
    def text(self) -> str:
        return "\n".join(self.lines).strip("\n")


def parse_code(answer: str, names: Sequence[str], finished: bool = True) -> dict[str, Any]:
    """The last fenced block under the first name, else the whole answer if it is a Python program.

    Further names are languages: the last block in one of them wins, then the last that names none, then any. An empty
    block does not count. Raises `UnparsableError` too when the answer was cut inside its last block.
    """
    blocks = [block for block in _blocks(answer) if block.text.strip()]
    if blocks and not finished and not blocks[-1].closed:
        raise UnparsableError("the code was cut off")
    wanted = {_language(name) for name in names[1:]}
    for fits in (wanted, {""}) if wanted else ():
        if chosen := [block for block in blocks if block.language in fits]:
            return {names[0]: chosen[-1].text}
    if blocks:
        return {names[0]: blocks[-1].text}
    if finished and _is_program(answer):
        return {names[0]: answer.strip("\n")}
    raise UnparsableError("the answer holds no code")


def _language(name: str) -> str:
    name = name.strip("{}.").lower()
    return _SHORT_NAMES.get(name, name)


def _blocks(answer: str) -> list[_Block]:
    """Fenced blocks as Markdown has them: closed by at least as many of the sign that opened them, and nothing else."""
    blocks: list[_Block] = []
    fence, indent = "", 0
    for line in answer.split("\n"):
        found = _FENCE.match(line)
        if not fence:
            if found:
                fence, indent = found[2], len(found[1])
                blocks.append(_Block(_language(found[3]), []))
        elif found and found[2].startswith(fence) and not line.strip(f"{fence[0]} \t\r"):
            blocks[-1].closed, fence = True, ""
        else:
            blocks[-1].lines.append(line[min(indent, len(line) - len(line.lstrip(" \t"))) :])
    return blocks


def _is_program(text: str) -> bool:
    """Whether Python can read it and it does something: "Sorry" is a name, and would be read too."""
    if len(text) > _LONGEST_BARE:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call) for node in tree.body)
