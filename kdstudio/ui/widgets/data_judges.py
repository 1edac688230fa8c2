"""Above the rows that a judge scored or put in order: how far it agrees with what the person decided."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PySide6.QtCore import QTimer, Signal
from PySide6.QtGui import QCursor
from PySide6.QtWidgets import QHBoxLayout, QToolTip, QWidget

from kdstudio.project.judgements import Compared, criterion_words
from kdstudio.ui.job_bridge import background
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.buttons import button, tool_button
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.wording import number, plural

_PATIENCE_SECONDS, _REST = 0.5, 5  # after a change; and at least so many times as long as the last look took
_EXPLAINED = (
    "Kappa is the agreement beyond chance: 0 is chance, 1 is complete. In brackets: where it lies, at 95%.\n"
    "A score from the one named on counts as accepting the row; of two answers, chance is right half the time.\n"
    "Only rows count whose status you set or confirmed yourself."
)


class JudgeStrip(Card):
    """One line for the judge and criterion with most rows of the kind that is shown; the others on demand.

    `differing_wanted(key)`: the person wants the rows on which that criterion differs. `failed(KnownError)`.
    """

    differing_wanted = Signal(str)
    failed = Signal(object)

    def __init__(self, session: Session, visible: Callable[[], bool], parent: QWidget | None = None) -> None:
        super().__init__(name="data_judges", margin=10, parent=parent)
        self.compared: list[Compared] = []
        self.kind = ""
        self.more = button("", kind="link", name="data_judges_more", clicked=self._turn)
        self._session, self._visible = session, visible
        self._all = self._looking = self._stale = False
        self._seconds = 0.0
        self._lines: list[JudgeLine] = []
        self._timer = QTimer(self, singleShot=True)
        self._timer.timeout.connect(self._look)
        self.body.setSpacing(6)
        session.rows_changed.connect(self.look_soon)
        self.hide()

    def show_kind(self, kind: str) -> None:
        """Show what is known of rows of this kind."""
        self.kind = kind
        self._show()

    def open_project(self) -> None:
        """Forget the last project, and look into this one."""
        self.compared, self._all = [], False
        self._show()
        self.look_soon()

    def look_soon(self) -> None:
        """Count again after a change, once the page is in sight; not again and again where rows keep changing."""
        self._stale = True
        if self._visible() and not self._looking and not self._timer.isActive():
            self._timer.start(round(1000 * max(_PATIENCE_SECONDS, _REST * self._seconds)))

    def catch_up(self) -> None:
        """Count now what changed while the page was out of sight."""
        if self._stale:
            self.look_soon()

    def _look(self) -> None:
        project = self._session.project
        if project is None:
            return
        self._looking, self._stale, began = True, False, time.monotonic()
        task = background(project.judgements.compared, owner=self)
        task.done.connect(lambda found: self._found(project.folder, found))
        task.failed.connect(self.failed)
        task.finished.connect(lambda: self._over(time.monotonic() - began))

    def _found(self, folder: Path, found: list[Compared]) -> None:
        project = self._session.project
        if project is not None and project.folder == folder:
            self.compared = found
            self._show()

    def _over(self, seconds: float) -> None:
        self._looking, self._seconds = False, seconds
        self.catch_up()

    def _turn(self) -> None:
        self._all = not self._all
        self._show()

    def _show(self) -> None:
        self.more.setParent(self)  # or it would go with the line it stands in
        for line in self._lines:
            line.hide()
            line.deleteLater()
        found = [one for one in self.compared if one.kind == self.kind]
        self._lines = [JudgeLine(one) for one in (found if self._all else found[:1])]
        for line in self._lines:
            line.differing.clicked.connect(partial(self._want, line.key))
            self.body.addWidget(line)
            line.show()
        self.more.setText("Fewer" if self._all else f"{len(found) - 1} more")
        self.more.setAccessibleName("Show fewer judges" if self._all else f"Show {len(found) - 1} more judges")
        if self._lines:
            self._lines[0].row.addWidget(self.more)
        self.more.setVisible(len(found) > 1)
        self.setVisible(bool(found))

    def _want(self, key: str, _checked: bool = False) -> None:
        self.differing_wanted.emit(key)


class JudgeLine(QWidget):
    """What one judge's criterion comes to, and the way to the rows on which it differs."""

    def __init__(self, one: Compared, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.key = one.key
        self.words = label(f"{criterion_words(one)} {one.in_words()}", wrap=True, name="data_judge_words")
        self.warning = label(f"{plural(one.missing, 'more row')} needed", "warn", name="data_judge_warning")
        self.warning.setToolTip(one.warning())
        self.warning.setVisible(bool(one.missing))
        count = one.rows - one.agreed
        self.differing = button(
            f"Show the {number(count)} that differ" if count != 1 else "Show the one that differs",
            kind="link",
            name="data_judge_differing",
            tip="Only the rows on which this judge and you differ; clear the search to see all again",
        )
        self.differing.setVisible(count > 0)
        self.row = QHBoxLayout(self)
        self.row.setContentsMargins(0, 0, 0, 0)
        self.row.setSpacing(12)
        mark = tool_button("scale", _EXPLAINED, name="data_judge_explained")
        mark.setAccessibleName("What these figures mean")
        mark.clicked.connect(lambda _checked=False: QToolTip.showText(QCursor.pos(), _EXPLAINED, mark))
        for widget, stretch in ((mark, 0), (self.words, 1), (self.warning, 0), (self.differing, 0)):
            self.row.addWidget(widget, stretch)
