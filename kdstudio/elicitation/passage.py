"""One row on its way through the steps, and what can become of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from kdstudio.teachers.base import Request

MAXIMUM_REASON = 500  # characters
PYTHON = "python"  # the speaker of a request that is code to be run here


@dataclass(slots=True)
class Passage:
    """One row. `key` names it: its root (a prompt's id), then step and number of each split it came out of.

    `order` says where it stands among all rows, by the same splits; `trail` holds (key, prompt tokens, tokens) before
    each split, for when a vote puts a row together again. `prompt` is the fingerprint, in hex, of a prompt that this
    row wrote: it is then the row's prompt in place of `prompt_id`. `place` is where a passage of a document stands.
    `fallen` is why a row that has just come out of a split goes no further; `emitted`: something of it was written;
    `rejected_at`: the step that rejected it; `shown`: it was written as rejected, where a person finds it; `orphan`:
    its own prompt could not be written, so that nothing belongs to it.
    """

    prompt_id: int
    key: str
    columns: dict[str, Any] = field(default_factory=dict)
    finish_reason: str = ""
    reasoning: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    seed: int = 0
    sampling: dict[str, Any] = field(default_factory=dict)
    rejected: str = ""
    order: tuple[int, ...] = (0,)
    trail: tuple[tuple[str, int, int], ...] = ()
    section: int = 0
    prompt: str = ""
    teacher: str = ""
    place: dict[str, Any] = field(default_factory=dict)
    fallen: str = ""
    emitted: bool = False
    rejected_at: int = 0
    shown: bool = False
    orphan: bool = False

    def split(self, index: int, number: int, suffix: str = "") -> Passage:
        """A row that came out of this one at the step `index`."""
        return Passage(
            self.prompt_id,
            f"{self.key}:{index}:{number}{suffix}",
            dict(self.columns),
            self.finish_reason,
            self.reasoning,
            self.prompt_tokens,
            self.tokens,
            self.seed,
            self.sampling,
            self.rejected,
            (*self.order, number),
            (*self.trail, (self.key, self.prompt_tokens, self.tokens)),
            self.section,
            self.prompt,
            self.teacher,
            self.place,
            emitted=self.emitted,
        )

    def fail(self, reason: str, otherwise: Literal["reject", "drop"]) -> None:
        """Mark the row as rejected, or raise `FallenError`, as the step says."""
        if otherwise == "drop":
            raise FallenError(reason)
        self.rejected = reason


class FallenError(Exception):
    """The row goes no further; the message is the reason."""


@dataclass(frozen=True)
class Ask:
    """The row waits for an answer to `request`; it goes on after the step at `index`, or once `talk` is over."""

    passage: Passage
    index: int
    request: Request
    talk: object = None


@dataclass(frozen=True)
class Written:
    """The row reached an emit step; `row` is what the journal carries, `kind` what it is a row of."""

    row: dict[str, Any]
    kind: str = "response"


@dataclass(frozen=True)
class Fallen:
    """The row fell in a step and has nothing to write; `unasked` questions that it might have led to are not asked."""

    prompt_id: int
    step: str
    reason: str
    unasked: int = 0
    key: str = field(default="", compare=False)


@dataclass(frozen=True)
class Unasked:
    """So many questions are not asked: a row was rejected, or a step that asks was not for it."""

    count: int


@dataclass(frozen=True)
class Trace:
    """What a step did to a row: the columns it changed, or why the row fell; `by`: nothing, it was not for this row."""

    key: str
    index: int
    type: str
    columns: dict[str, str]
    reason: str = ""
    by: bool = False


Outcome = Ask | Written | Fallen | Unasked | Trace
