"""Taking an answer apart: trimmed text, tagged parts, or the keys of a JSON object found in it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence


class UnparsableError(Exception):
    """The answer does not hold what the recipe asks for; the message is the reason that the person reads."""


def parse_text(answer: str, names: Sequence[str]) -> dict[str, str]:
    """The whole answer, trimmed, under each name."""
    text = answer.strip()
    if not text:
        raise UnparsableError("the answer is empty")
    return dict.fromkeys(names, text)


def parse_tagged(answer: str, names: Sequence[str]) -> dict[str, str]:
    """The text between <name> and </name> for each name; the last one may be left open at the end of the answer.

    The last pair of a tag counts: a model that thinks aloud may write the tag before it means it.
    """
    found: dict[str, str] = {}
    for position, name in enumerate(names):
        tag = re.escape(name)
        parts = re.findall(rf"<{tag}>((?:(?!<{tag}>).)*?)</{tag}>", answer, re.DOTALL | re.IGNORECASE)
        if not parts and position == len(names) - 1:
            _, opened, rest = answer.rpartition(f"<{name}>")
            parts = [rest] if opened else []
        if not parts or not parts[-1].strip():
            raise UnparsableError(f"the answer has no <{name}> part")
        found[name] = parts[-1].strip()
    return found


def parse_json(answer: str, names: Sequence[str]) -> dict[str, str]:
    """The named keys of the first JSON object in the answer that has them all; other values become JSON text."""
    decoder = json.JSONDecoder()
    for match in _openings(answer):
        try:
            value, _ = decoder.raw_decode(answer, match)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and all(name in value for name in names):
            return {name: value[name] if isinstance(value[name], str) else json.dumps(value[name]) for name in names}
    raise UnparsableError(f"the answer holds no JSON object with {', '.join(names)}")


def _openings(answer: str, most: int = 200) -> list[int]:
    """Where a JSON object may begin; a text full of braces is not tried for ever."""
    places: list[int] = []
    place = answer.find("{")
    while place >= 0 and len(places) < most:
        places.append(place)
        place = answer.find("{", place + 1)
    return places


PARSERS = {"text": parse_text, "tagged": parse_tagged, "json": parse_json}
