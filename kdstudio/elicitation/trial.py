"""A trial: three rows through the whole recipe before anything is spent on the rest, writing nothing into the project.

What a trial paid for is not paid for again: a real run of the same recipe, teacher and seed takes over the answers to
questions that are the same to the letter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdstudio.elicitation.answers import from_event
from kdstudio.jobs.events import Answer
from kdstudio.jobs.journal import read_journal
from kdstudio.project import Project
from kdstudio.teachers.base import Completion, Request

_SAME = ("recipe_hash", "values", "teacher", "teachers", "share", "judge", "student", "seed")


def digest_of(request: Request) -> str:
    """What makes two questions the same: who is asked, what, and how the answer is sampled."""
    parts = [request.speaker, request.messages, asdict(request.sampling)]
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).hexdigest()


def tried_answers(
    project: Project, run_folder: Path, parameters: Mapping[str, Any]
) -> dict[str, tuple[str, Completion]]:
    """Key -> (digest of the question, answer) of earlier trials of the same work."""
    found: dict[str, tuple[str, Completion]] = {}
    wanted = {name: parameters.get(name) or None for name in _SAME}
    for run in project.runs.list("elicit"):
        mine = {name: run.parameters.get(name) or None for name in _SAME}
        if not run.parameters.get("trial") or run.id == run_folder.name or mine != wanted:
            continue
        for line in read_journal(run_folder.parent / run.id):
            event = line.event
            if isinstance(event, Answer) and event.request and event.finish_reason != "error":
                found.setdefault(event.key, (event.request, from_event(event)))
    return found
