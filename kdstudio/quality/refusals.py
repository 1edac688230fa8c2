"""Whether an answer refuses instead of answering; how that is said is in `resources/refusals.toml`.

Only the beginning is read: who refuses says so at once, and a long answer may well mention what cannot be done.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict, TypeAdapter

_BEGINNING = 400  # characters
_STEPS = 8

_MARKS = re.compile(r"^[\s>*_#\"'“”«»(\[-]+")
_BETWEEN = re.compile(r"[^\w]*")


class _Wording(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    before: tuple[str, ...]
    unable: tuple[str, ...]
    gap: str
    request: tuple[str, ...]
    whole: tuple[str, ...]


def is_refusal(text: str) -> bool:
    """Whether the answer begins by refusing: in English, German, French, Spanish, Italian, Portuguese, Russian,
    Chinese, Japanese or Korean.

    Apologies and the like are stepped over, what comes next decides. An empty answer is no refusal; what is refused
    half-way, or in another language, is not seen.
    """
    before, refusal = _patterns()
    rest = _MARKS.sub("", text[: 2 * _BEGINNING]).lower().replace("’", "'")
    rest = " ".join(rest.split())[:_BEGINNING]
    for _ in range(_STEPS):
        if refusal.match(rest):
            return True
        found = before.match(rest)
        if found is None or not found.end():
            return False
        rest = _BETWEEN.sub("", rest[found.end() :], count=1)
    return False


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What may come before a refusal, and what is one, in any of the languages."""
    text = resources.files("kdstudio").joinpath("resources", "refusals.toml").read_text("utf-8")
    languages = TypeAdapter(dict[str, _Wording]).validate_python(tomllib.loads(text)).values()
    pairs = [f"{_any(words.unable)}{words.gap}{_any(words.request)}" for words in languages]
    whole = [pattern for words in languages for pattern in words.whole]
    before = [pattern for words in languages for pattern in words.before]
    return re.compile(_any(before)), re.compile(_any([*pairs, *whole]))


def _any(patterns: tuple[str, ...] | list[str]) -> str:
    return "(?:" + "|".join(f"(?:{pattern})" for pattern in patterns) + ")"
