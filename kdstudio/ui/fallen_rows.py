"""The rows that fell in a run for one reason, read out of its journal with the answers that led there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdstudio.errors import BadInput
from kdstudio.jobs.events import Answer, Dropped, Funnel, Row, Warned
from kdstudio.jobs.journal import read_journal

if TYPE_CHECKING:
    from kdstudio.project import Project

MOST = 500
OTHERS = "other reasons"
_REASON_CHARACTERS = 200
_MOST_ANSWERS = 6


@dataclass(frozen=True)
class FallenRow:
    """`text`: the prompt it belongs to, or its number; `answers`: what was answered to it, raw, as it came."""

    text: str
    reason: str
    answers: tuple[str, ...]
    rejected: bool = False


@dataclass(frozen=True)
class FallenList:
    """At most `MOST` of `count` rows."""

    rows: tuple[FallenRow, ...]
    count: int


def short_reason(reason: str) -> str:
    """A reason as the funnel counts it: without what it quotes."""
    return reason.partition(" “")[0][:_REASON_CHARACTERS]


def run_so_far(project: Project, run_id: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The newest counts in a run's journal, and what it had to say; for a background task."""
    found: list[dict[str, Any]] = []
    said: list[str] = []
    for line in read_journal(project.runs_folder / run_id):
        if isinstance(line.event, Funnel):
            found = line.event.steps
        elif isinstance(line.event, Warned):
            said.append(note_of(line.event))
    return found, said


def note_of(event: Warned) -> str:
    """What a run says on the way, as one line."""
    title = event.title.rstrip(".")
    return " ".join(part for part in (f"{title}.", event.detail, event.hint) if part)


def read_fallen(project: Project, run_id: str, step: str, reason: str, listed: frozenset[str]) -> FallenList:
    """The rows that fell in steps of a type for a reason; for a background task.

    `listed` are the reasons of that step that the funnel names: all others are "other reasons".
    """
    answers: dict[str, str] = {}
    fallen: list[tuple[int, str, str, bool, str]] = []
    for line in read_journal(project.runs_folder / run_id):
        event = line.event
        match event:
            case Answer():
                answers[event.key] = event.text or event.error
            case Dropped() if event.step == step and _same(event.reason, reason, listed):
                fallen.append((event.prompt, event.key, event.reason, False, ""))
            case Row() if event.row.get("status") == "rejected":
                said, row = str(event.row.get("reason", "")), event.row
                if _same(said, reason, listed):
                    text = str(row.get("text") or row.get("messages") or "")
                    fallen.append((int(row.get("prompt_id") or 0), str(row.get("key", "")), said, True, text))
    rows = tuple(
        FallenRow(_text(project, prompt, key), said, tuple(_answers(answers, key)) or ((text,) if text else ()), kept)
        for prompt, key, said, kept, text in fallen[:MOST]
    )
    return FallenList(rows, len(fallen))


def _same(said: str, reason: str, listed: frozenset[str]) -> bool:
    short = short_reason(said)
    return short == reason or (reason == OTHERS and short not in listed)


def _answers(answers: dict[str, str], key: str) -> Iterator[str]:
    """Answers to the row and to those it came out of, then to what was asked about it."""
    if not key:
        return
    line = [key]
    while line[-1].count(":") >= 2:
        line.append(line[-1].rsplit(":", 2)[0])
    own = [one for one in reversed(line) if one in answers]
    below = [one for one in answers if one.startswith(f"{key}:")]
    for one in [*own, *below][:_MOST_ANSWERS]:
        yield answers[one]


def _text(project: Project, prompt: int, key: str) -> str:
    if prompt:
        try:
            return project.rows.prompt(prompt).text
        except BadInput:
            return f"prompt {prompt}, which is no longer there"
    root = key.partition(":")[0]
    words = {"d": "document", "n": "number", "m": "made row", "a": "response"}
    return f"{words[root[0]]} {root[1:]}" if root and root[0] in words else root or "a row"
