"""The funnel above the rows, while a recipe runs and until a person closes it."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFrame, QScrollArea, QWidget

from kdstudio.errors import KnownError
from kdstudio.jobs.events import Funnel, Warned
from kdstudio.ui.fallen_rows import note_of, run_so_far
from kdstudio.ui.job_bridge import background
from kdstudio.ui.session import ACTIVE_STATES, Session
from kdstudio.ui.widgets.buttons import button, tool_button
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.funnel_view import LINE_HEIGHT, FunnelView
from kdstudio.ui.widgets.labels import ElidedLabel, label
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.wording import progress_words

_MOST_NOTES, _MOST_TIPS = 3, 40
_LEAST_HEIGHT, _MOST_HEIGHT, _SHARE = 3 * LINE_HEIGHT, 9 * LINE_HEIGHT, 0.22


class FunnelPanel(Card):
    """Follows one run. `failed(KnownError)`: something could not be read."""

    failed = Signal(object)

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(name="data_funnel", margin=10, parent=parent)
        self.session = session
        self.run_id = ""
        self.title = ElidedLabel("", "heading")
        self.words = ElidedLabel("", "small")
        self.words.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.pill = Pill("")
        self.stop = button("Stop", icon="stop", kind="ghost", name="data_funnel_stop", clicked=self._stop)
        self.view = FunnelView()
        self.view.setProperty("role", "scrolled")
        self.area = QScrollArea()
        self.area.setWidgetResizable(True)
        self.area.setFrameShape(QFrame.Shape.NoFrame)
        self.area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.area.setWidget(self.view)
        self.body.setSpacing(4)
        self.body.addLayout(self.header)
        for widget, stretch in ((self.title, 2), (self.words, 3), (self.pill, 0), (self.stop, 0)):
            self.header.addWidget(widget, stretch)
        self.header.addWidget(tool_button("x", "Close the funnel", name="data_funnel_close", clicked=self.close_run))
        self.body.addWidget(self.area)
        self.notes: list[str] = []
        self.said = label("", "warn", wrap=True, name="data_funnel_notes", selectable=True)
        self.said.hide()
        self.body.addWidget(self.said)
        self.view.reason_chosen.connect(self._list)
        session.events.connect(self._heard)
        session.run_changed.connect(self._moved)
        self.hide()

    def open_project(self) -> None:
        """Show a run that is under way, if there is one."""
        self.close_run()
        for run in self.session.active_runs():
            if run.kind == "elicit" and not run.parameters.get("trial"):
                self.show_run(run.id)

    def show_run(self, run_id: str) -> None:
        """Follow a run from here on, with what its journal holds already."""
        project = self.session.project
        if project is None:
            return
        self.run_id = run_id
        self.view.clear()
        self.notes = []
        self._say()
        self._fit()
        self.show()
        self._moved(run_id)
        task = background(run_so_far, project, run_id, owner=self)
        task.done.connect(lambda found: self._read(run_id, *found))
        task.failed.connect(self.failed)

    def close_run(self) -> None:
        """Follow nothing."""
        self.run_id = ""
        self.hide()

    def _read(self, run_id: str, steps: list[dict[str, Any]], notes: list[str]) -> None:
        if run_id != self.run_id:
            return
        self.notes = list(dict.fromkeys([*notes, *self.notes]))
        self._say()
        if steps and not self.view.steps:
            self._show(steps)

    def _say(self) -> None:
        """What the run said on the way: the newest in view, all of them in the tip."""
        shown = self.notes[-_MOST_NOTES:]
        more = f"and {len(self.notes) - len(shown):,} more: point here\n" if len(self.notes) > len(shown) else ""
        self.said.setText(more + "\n".join(shown))
        self.said.setToolTip("\n".join(self.notes[-_MOST_TIPS:]) if more else "")
        self.said.setVisible(bool(shown))

    def _heard(self, run_id: str, lines: list[Any]) -> None:
        if run_id != self.run_id:
            return
        if said := [note_of(line.event) for line in lines if isinstance(line.event, Warned)]:
            self.notes = list(dict.fromkeys([*self.notes, *said]))
            self._say()
        found = [line.event.steps for line in lines if isinstance(line.event, Funnel)]
        if found:
            self._show(found[-1])

    def _show(self, steps: list[dict[str, Any]]) -> None:
        self.view.show_steps(steps)
        self._fit()

    def _fit(self) -> None:
        page = self.parentWidget()
        room = round(page.height() * _SHARE) if page is not None else _MOST_HEIGHT
        room = max(_LEAST_HEIGHT, min(room, _MOST_HEIGHT))
        self.area.setFixedHeight(min(room, LINE_HEIGHT * max(1, len(self.view.lines))))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Leave the rows their room in a low window."""
        super().resizeEvent(event)
        self._fit()

    def _moved(self, run_id: str) -> None:
        project = self.session.project
        if project is None or run_id != self.run_id:
            return
        run = project.runs.get(run_id)
        over = run.state not in ACTIVE_STATES
        self.title.setText(run.title)
        self.words.setText(progress_words(run.progress, over=over))
        self.pill.set_word(run.state)
        self.stop.setVisible(not over)

    def _stop(self) -> None:
        task = self.session.stop(self.run_id)
        task.failed.connect(self.failed)

    def _list(self, index: int, type_: str, reason: str) -> None:
        from kdstudio.ui.widgets.funnel_rows import FallenSheet

        if self.session.project is None:
            self.failed.emit(KnownError("No project is open"))
            return
        sheet = FallenSheet(self.session, self.run_id, type_, reason, self.view.listed(index), self)
        sheet.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        sheet.open()
