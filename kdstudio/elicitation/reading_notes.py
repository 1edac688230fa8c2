"""What a person should know of how documents were read: pages left out, scanned ones, a guessed encoding."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kdstudio.elicitation.documents import Document
from kdstudio.jobs.events import Warned

if TYPE_CHECKING:
    from kdstudio.jobs.child import Job

MOST = 20
"""So many documents are spoken of one by one; the rest is counted."""
_TITLE = "{} {} not read just as {}"


class ReadingNotes:
    """Says each document's notes once in a run, however often it is read again: in a later round, after a kill."""

    def __init__(self, job: Job, said: Iterable[Warned] = ()) -> None:
        self._job = job
        self._said = {(event.title, event.detail) for event in said}
        self._paths: set[str] = set()

    def read(self, document: Document) -> None:
        """A document was read."""
        if not document.notes or document.source in self._paths:
            return
        self._paths.add(document.source)
        title, detail = _TITLE.format(Path(document.source).name, "was", "it stands"), " ".join(document.notes)
        if len(self._paths) <= MOST and (title, detail) not in self._said:
            self._job.warn(title, detail, "Rows from it are made from the rest.")

    def end(self) -> None:
        """Count those that were not spoken of."""
        if (more := len(self._paths) - MOST) > 0:
            words = ("document", "was", "it stands") if more == 1 else ("documents", "were", "they stand")
            self._job.warn(_TITLE.format(f"{more:,} more {words[0]}", *words[1:]), "A trial shows each one's notes.")
