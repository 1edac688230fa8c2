"""What a run's journal says of its own soundness, before its first step and on the way. No widgets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from kdstudio.jobs.events import Checked, Line, Metric, Started, Warned

Level = Literal["good", "warning", "fault"]
_LEVELS: dict[str, Level] = {"good": "good", "warning": "warning", "fault": "fault"}


class Finding(NamedTuple):
    """One line of the audit: a plain (level, title, detail) will do wherever one is taken.

    `passages`: a row's text in pieces, each with "read" or "learnt"; where given they are shown in place of `detail`.
    """

    level: Level
    title: str
    detail: str = ""
    passages: tuple[tuple[str, str], ...] = ()


class Findings:
    """Gathers findings from journal lines, each once, by its number.

    `before`: what the newest start found before its first step; `later`: what was said on the way.
    """

    def __init__(self) -> None:
        self.before: list[Finding] = []
        self.later: list[Finding] = []
        self._last = 0
        self._stepped = False

    def take(self, lines: Iterable[Line]) -> bool:
        """Read further lines, in their order; whether there is something else to show."""
        shown = (len(self.before), len(self.later))
        for line in lines:
            if line.seq <= self._last:
                continue
            self._last = line.seq
            match line.event:
                case Started():  # a run that goes on is checked anew
                    self._stepped = False
                    self.before.clear()
                case Metric(step=step) if step > 0:
                    self._stepped = True
                case Checked(level=level, title=title, detail=detail, passages=passages):
                    pieces = tuple((str(piece[0]), str(piece[1])) for piece in passages if len(piece) == 2)
                    self.before.append(Finding(_LEVELS.get(level, "warning"), title, detail, pieces))
                case Warned(title=title, detail=detail, hint=hint):
                    finding = Finding("warning", title, " ".join(part for part in (detail, hint) if part))
                    (self.later if self._stepped else self.before).append(finding)
        return shown != (len(self.before), len(self.later))


def read_findings(run_folder: Path) -> Findings:
    """All findings of a run's journal; none if it has no journal yet. For the background."""
    from kdstudio.jobs.journal import read_journal

    found = Findings()
    found.take(read_journal(run_folder))
    return found
