"""The jobs panel: every run of the project, newest first, always within reach below the pages.

It holds nothing of its own: what it shows is read from the project, so it is the same after a restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QScrollArea, QSizePolicy, QVBoxLayout, QWidget

from kdstudio.ui.job_bridge import Task
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.buttons import button, tool_button
from kdstudio.ui.widgets.empty_state import EmptyState
from kdstudio.ui.widgets.job_row import JobRow
from kdstudio.ui.widgets.labels import label

if TYPE_CHECKING:
    from kdstudio.project import Run

_REDRAW_MILLISECONDS = 200
PAGE_LENGTH = 30
_LEAST_HEIGHT = 58


class JobsPanel(QWidget):
    """Rows of runs. `failed(KnownError)`: a wish could not be granted. `log_wanted(run_id)`: show its log.

    `hide_wanted`: the person closed the panel.
    """

    failed = Signal(object)
    log_wanted = Signal(str)
    hide_wanted = Signal()

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("jobs_panel")
        self._session = session
        self._rows: dict[str, JobRow] = {}
        self._dirty: set[str] = set()
        self._limit = PAGE_LENGTH
        self.summary = label("", "dim", name="jobs_summary")
        self.setProperty("role", "dock")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.empty = EmptyState("jobs", "Jobs show here while they run and after they end.", name="jobs_empty")
        self._list = QWidget()
        self._list.setProperty("role", "scrolled")
        self._column = QVBoxLayout(self._list)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(0)
        self.older = button("Show older jobs", kind="link", name="jobs_older", clicked=self._show_older)
        self._column.addWidget(self.older)
        self._column.addStretch(1)
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setMinimumHeight(_LEAST_HEIGHT)
        self._scroll.setWidget(self._list)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self._header())
        layout.addWidget(self.empty)
        layout.addWidget(self._scroll)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REDRAW_MILLISECONDS)
        self._timer.timeout.connect(self._redraw)
        session.project_changed.connect(self.reload)
        session.run_changed.connect(self._mark)
        self.reload()

    def _header(self) -> QFrame:
        header = QFrame()
        header.setProperty("role", "dock_header")
        header.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)  # a low panel must not squeeze it
        row = QHBoxLayout(header)
        row.setContentsMargins(12, 5, 8, 5)
        row.addWidget(label("Jobs", "heading"))
        row.addWidget(self.summary)
        row.addStretch(1)
        row.addWidget(tool_button("x", "Hide the jobs panel (Ctrl+J)", name="jobs_hide", clicked=self.hide_wanted.emit))
        return header

    def row(self, run_id: str) -> JobRow | None:
        """The row of a run, if it is shown."""
        return self._rows.get(run_id)

    def reload(self) -> None:
        """Read all runs again."""
        for row in self._rows.values():
            self._column.removeWidget(row)
            row.deleteLater()
        self._rows.clear()
        runs = self._session.runs()
        for run in reversed(runs[: self._limit]):
            self._insert(run)
        self.older.setVisible(len(runs) > self._limit)
        self._settle()

    def _show_older(self) -> None:
        self._limit += PAGE_LENGTH
        self.reload()

    def _insert(self, run: Run) -> None:
        row = JobRow(run)
        row.pause_wanted.connect(lambda run_id: self._wish(self._session.pause(run_id)))
        row.resume_wanted.connect(lambda run_id: self._wish(self._session.resume(run_id)))
        row.stop_wanted.connect(lambda run_id: self._wish(self._session.stop(run_id)))
        row.log_wanted.connect(self.log_wanted)
        self._rows[run.id] = row
        self._column.insertWidget(0, row)

    def _wish(self, task: Task) -> None:
        task.failed.connect(self.failed)

    def _mark(self, run_id: str) -> None:
        self._dirty.add(run_id)
        if not self._timer.isActive():
            self._timer.start()

    def _redraw(self) -> None:
        dirty, self._dirty = self._dirty, set()
        if self._session.project is None:
            return
        for run_id in sorted(dirty):
            run = self._session.project.runs.get(run_id)
            if run_id in self._rows:
                self._rows[run_id].show_run(run)
            else:
                self._insert(run)
        self._settle()

    def _settle(self) -> None:
        self.empty.setVisible(not self._rows)
        self._scroll.setVisible(bool(self._rows))
        running = len(self._session.active_runs())
        self.summary.setText(f"{running} running" if running else "")
