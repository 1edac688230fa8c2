"""Which teacher of a run answers which question: by tag, evenly, or the one that is named."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kdstudio.errors import BadInput
from kdstudio.teachers.base import Request

Share = Literal["spread", "route", "all"]
SHARES: tuple[Share, ...] = ("spread", "route", "all")
NAMED = "teacher:"  # begins a speaker that is one teacher by its name
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Sharing:
    """How the questions of a run are shared among its `teachers`, by name.

    `spread`: evenly, by the request's key, so that a run that is continued asks the same teacher. `route`: the first of
    `routes` (tag -> name) whose tag the prompt has, else `default`. `all`: the pipeline asks each by its name, and
    whatever names none is the default's. `judge` and `student` name who speaks for them; without a judge the default
    teacher judges.
    """

    teachers: tuple[str, ...]
    share: Share = "spread"
    routes: Mapping[str, str] = field(default_factory=dict)
    default: str = ""
    judge: str = ""
    student: str = ""

    def speaker_of(self, request: Request, able: Collection[str]) -> str:
        """The name of who answers, among those that are `able`; "" when nobody may."""
        if request.speaker.startswith(NAMED):
            wanted = request.speaker.removeprefix(NAMED)
            return wanted if wanted in able else ""
        if request.speaker == "student" or (request.speaker == "judge" and self.judge):
            wanted = self.student if request.speaker == "student" else self.judge
            return wanted if wanted in able else ""
        others = [name for name in self.teachers if name in able]
        if not others:
            return ""
        if self.share == "spread" and request.speaker == "teacher":
            place = _place(request.key)
            wanted = self.teachers[place % len(self.teachers)]
            return wanted if wanted in able else others[place % len(others)]
        routed = self._routed(request) if request.speaker == "teacher" else self.default
        return next(name for name in (routed, self.default, others[0]) if name in able)

    def _routed(self, request: Request) -> str:
        return next((name for tag, name in self.routes.items() if tag in request.tags), self.default)


def sharing_of(parameters: Mapping[str, Any], teachers: tuple[str, ...], judge: str, student: str) -> Sharing:
    """A job's `share`, `routes` and `default`. Raises `BadInput` for a way or a name that is not there."""
    share = str(parameters.get("share") or ("route" if parameters.get("routes") else "spread"))
    if share not in SHARES:
        raise BadInput("The questions cannot be shared so", f"share is {share!r}.", f"Known: {', '.join(SHARES)}.")
    routes = {str(tag): str(name) for tag, name in (parameters.get("routes") or {}).items()}
    default = str(parameters.get("default") or teachers[0])
    for name in (*routes.values(), default):
        if name not in teachers:
            raise BadInput(
                "This teacher takes no part",
                f"Questions are to go to {name!r}; the run's teachers are {', '.join(teachers)}.",
                "Name it among the run's teachers too.",
            )
    known = next(way for way in SHARES if way == share)
    return Sharing(teachers, known, routes, default, judge, student)


def _place(key: str) -> int:
    """A number of the key alone; those of prompts and samples that follow each other follow each other."""
    numbers = _NUMBER.findall(key)
    if numbers:
        return sum(int(number) for number in numbers)
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
