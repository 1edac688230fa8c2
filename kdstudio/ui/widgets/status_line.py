"""The status bar: rows at the left; the running job with its progress, ETA and a stop button at the right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QLabel, QProgressBar, QStatusBar, QWidget

from kdstudio.ui.session import Session
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.wording import fraction, kind_words, plural, progress_words

if TYPE_CHECKING:
    from kdstudio.project import Run

_REDRAW_MILLISECONDS = 200
_BAR_WIDTH = 160


class StatusLine(QStatusBar):
    """Follows the session by itself. `stop_wanted(run_id)`: the person pressed Stop."""

    stop_wanted = Signal(str)

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self._run_id = ""
        self._said = ""
        self.setSizeGripEnabled(False)
        self.setContentsMargins(10, 1, 10, 1)
        self.rows: QLabel = label("No project open", name="status_rows")
        self.job: QLabel = label("", name="status_job")
        self.bar = QProgressBar()
        self.bar.setObjectName("status_progress")
        self.bar.setAccessibleName("Progress of the running job")
        self.bar.setTextVisible(False)
        self.bar.setFixedWidth(_BAR_WIDTH)
        self.stop = button("Stop", name="status_stop", clicked=lambda: self.stop_wanted.emit(self._run_id))
        self.stop.setToolTip("Stop the running job and keep what was done")
        self.addWidget(self.rows)
        for part in (self.job, self.bar, self.stop):
            self.addPermanentWidget(part)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REDRAW_MILLISECONDS)
        self._timer.timeout.connect(self.redraw)
        for signal in (session.project_changed, session.rows_changed, session.run_changed):
            signal.connect(self._soon)
        self.redraw()

    def say(self, text: str) -> None:
        """Words of the page that is shown, instead of the project's row count; empty for the count."""
        self._said = text
        self._show_rows()

    def _soon(self) -> None:
        if not self._timer.isActive():
            self._timer.start()

    def redraw(self) -> None:
        """Show the project as it now stands."""
        self._show_rows()
        active = self._session.active_runs()
        self._show_run(active[0] if active else None, len(active))

    def _show_rows(self) -> None:
        project = self._session.project
        if project is None:
            self.rows.setText("No project open")
            return
        if self._said:
            self.rows.setText(self._said)
            return
        counts = project.rows.counts()
        prompts = sum(count for (kind, _), count in counts.items() if kind == "prompt")
        responses = sum(count for (kind, _), count in counts.items() if kind == "response")
        self.rows.setText(f"{plural(prompts, 'prompt')} · {plural(responses, 'response')}")

    def _show_run(self, run: Run | None, count: int) -> None:
        for part in (self.job, self.bar, self.stop):
            part.setVisible(run is not None)
        if run is None:
            return
        self._run_id = run.id
        words = progress_words(run.progress or {})
        state = "" if run.state == "running" else run.state
        more = f"{count} jobs" if count > 1 else ""
        self.job.setText(" · ".join(part for part in (more, kind_words(run.kind), state, words) if part))
        share = fraction(run.progress or {})
        self.bar.setRange(0, 0 if share is None and run.state in ("starting", "running") else 1000)
        self.bar.setValue(round(1000 * (share or 0.0)))
        self.stop.setEnabled(run.state != "stopping")
