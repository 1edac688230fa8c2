"""The whole answer, its tagged parts, or the keys of a JSON object found in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from kdstudio.elicitation.parsing.base import UnparsableError

_JSON_WORK = 4_000_000  # characters that the decoder may look at in all
_JSON_DEPTH_COST = 2_000


def parse_text(answer: str, names: Sequence[str], finished: bool = True) -> dict[str, Any]:
    """The whole answer, trimmed, under each name."""
    del finished
    text = answer.strip()
    if not text:
        raise UnparsableError("the answer is empty")
    return dict.fromkeys(names, text)


def parse_tagged(answer: str, names: Sequence[str], finished: bool = True) -> dict[str, Any]:
    """The text between <name> and </name> for each name; the last one may be left open at the end of the answer.

    The last pair of a tag counts: a model that thinks aloud may write the tag before it means it.
    """
    del finished
    found: dict[str, str] = {}
    for position, name in enumerate(names):
        tag = re.escape(name)
        parts = re.findall(rf"<{tag}>((?:(?!<{tag}>).)*?)</{tag}>", answer, re.DOTALL | re.IGNORECASE)
        if not parts and position == len(names) - 1:
            parts = re.split(rf"<{tag}>", answer, flags=re.IGNORECASE)[1:]
        if not parts or not parts[-1].strip():
            raise UnparsableError(f"the answer has no <{name}> part")
        found[name] = parts[-1].strip()
    return found


def parse_json(answer: str, names: Sequence[str], finished: bool = True) -> dict[str, Any]:
    """The named keys of the first JSON object in the answer that has them all; other values become JSON text.

    A key that is null counts as missing.
    """
    del finished
    for value in json_objects(answer):
        if all(value.get(name) is not None for name in names):
            return {name: as_text(value[name]) for name in names}
    raise UnparsableError(f"the answer holds no JSON object with {', '.join(names)}")


def as_text(value: object) -> str:
    """A JSON value as a column keeps it: strings as they are, the rest as JSON."""
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def json_objects(answer: str) -> Iterator[dict[str, object]]:
    """JSON objects at any depth, outermost first, until the decoder has looked at enough."""
    decoder, work = json.JSONDecoder(), 0
    for opening in re.finditer(r'\{\s*"', answer):
        place = opening.start()
        try:
            value, end = decoder.raw_decode(answer, place)
        except json.JSONDecodeError as error:
            work += error.pos - place + error.pos // 64  # the error itself counts the lines before it
        except (ValueError, RecursionError):  # a number with too many digits, or brackets too deep
            work += _JSON_DEPTH_COST
        else:
            work += end - place
            yield value
        if work > _JSON_WORK:
            return
