"""What a person does to rows: accept, reject, reset, edit, copy. Written in the background, one after the other."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QGuiApplication

from kdstudio.project.content import Kind, Status
from kdstudio.ui.job_bridge import background
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.row_table import RowTableView
from kdstudio.ui.widgets.wording import number, plural

if TYPE_CHECKING:
    from kdstudio.project import Project

MARKED_AT_ONCE = 2000
COPIED_ROWS = 10_000
_DONE: dict[Status, str] = {"accepted": "accepted", "rejected": "rejected", "pending": "set back to pending"}


class RowActions(QObject):
    """Acts on the rows of a table. `failed(KnownError)`, `working(words)` with "" at the end."""

    failed = Signal(object)
    working = Signal(str)

    def __init__(self, session: Session, table: RowTableView) -> None:
        super().__init__(table)
        self._session = session
        self._table = table
        self._running = 0

    def decide(self, status: Status, reason: str = "") -> None:
        """Give the chosen rows a status, and go on to the next row."""
        ids = self._table.chosen_ids()
        if len(ids):
            self._set_status(ids, status, reason)
            self._table.advance()

    def decide_all(self, status: Status) -> None:
        """Give every row of the filter a status."""
        self._set_status(self._table.rows.ids, status, "")

    def _set_status(self, ids: Sequence[int], status: Status, reason: str) -> None:
        project, kind = self._session.project, self._table.rows.kind
        if project is None or not len(ids):
            return
        few = ids if len(ids) <= MARKED_AT_ONCE else ()
        self._table.rows.mark(few, status=status, reason=reason)
        self._begin(f"Writing {plural(len(ids), 'row')}…" if len(ids) > MARKED_AT_ONCE else "")
        task = background(project.rows.set_status, kind, ids, status, reason, owner=self, in_order=True)
        task.done.connect(lambda changed: self._decided(changed, len(ids), status))
        task.failed.connect(self.failed)
        task.finished.connect(lambda: self._end(few))

    def _decided(self, changed: int, asked: int, status: Status) -> None:
        if asked > 1:
            self._session.say(f"{plural(changed, 'row')} {_DONE[status]} · Ctrl+Z takes it back")
        self._session.rows_changed.emit()

    def edit(self, kind: Kind, row_id: int, text: str) -> None:
        """Write a row's new text."""
        project = self._session.project
        if project is None:
            return
        marked = (row_id,) if kind == self._table.rows.kind and text.strip() else ()
        if marked and kind == "prompt":
            self._table.rows.mark(marked, prompt=text)
        elif marked:
            self._table.rows.mark(marked, response=text)
        self._begin("")
        task = background(project.rows.edit_text, kind, row_id, text, owner=self, in_order=True)
        task.done.connect(lambda _none: self._session.rows_changed.emit())
        task.failed.connect(self.failed)
        task.finished.connect(lambda: self._end(marked))

    def copy(self) -> None:
        """Put the chosen rows on the clipboard: headings and whole texts, as a spreadsheet takes them."""
        project = self._session.project
        ids = self._table.chosen_ids()
        if project is None or not len(ids):
            return
        task = background(as_table, project, self._table.rows.kind, ids[:COPIED_ROWS], owner=self)
        task.done.connect(lambda text: self._copied(text, len(ids)))
        task.failed.connect(self.failed)

    def _copied(self, text: str, asked: int) -> None:
        QGuiApplication.clipboard().setText(text)
        cut = (
            f"the first {number(COPIED_ROWS)} of {number(asked)} rows" if asked > COPIED_ROWS else plural(asked, "row")
        )
        self._session.say(f"Copied {cut}", "idle")

    def _begin(self, words: str) -> None:
        self._running += 1
        if words:
            self.working.emit(words)

    def _end(self, marked: Sequence[int]) -> None:
        self._table.rows.unmark(marked)
        self._running -= 1
        if not self._running:
            self.working.emit("")


def as_table(project: Project, kind: Kind, ids: Sequence[int]) -> str:
    """Rows as tab-separated text with a heading line; for a background task."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    if kind == "prompt":
        writer.writerow(["id", "prompt", "tags", "source", "status", "reason"])
        for prompt in map(project.rows.prompt, ids):
            tags = " ".join(prompt.tags)
            writer.writerow([prompt.id, prompt.text, tags, prompt.source, prompt.status, prompt.reason])
    elif kind == "response":
        writer.writerow(["id", "prompt", "answer", "tokens", "teacher", "status", "reason"])
        for row in map(project.rows.response, ids):
            asked = project.rows.prompt(row.prompt_id).text
            writer.writerow([row.id, asked, row.text, row.tokens, row.teacher, row.status, row.reason])
    else:
        writer.writerow(["id", "prompt", "answers, best first", "source", "status", "reason"])
        for pair in map(project.rows.preference, ids):
            ranked = sorted(zip(pair.scores, pair.candidates, strict=True), key=lambda scored: -scored[0])
            answers = "\n\n".join(text for _, text in ranked)
            asked = project.rows.prompt(pair.prompt_id).text
            writer.writerow([pair.id, asked, answers, pair.source, pair.status, pair.reason])
    return out.getvalue()
