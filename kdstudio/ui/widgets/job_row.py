"""One run in the jobs panel: what it is, its state, progress, rate and ETA, its error, and what can be done with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Signal, SignalInstance
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QProgressBar, QToolButton, QVBoxLayout, QWidget

from kdstudio.ui.icons import pixmap
from kdstudio.ui.session import ACTIVE_STATES
from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.buttons import tool_button
from kdstudio.ui.widgets.labels import ElidedLabel, label
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.wording import ago, fraction, kind_words, progress_words

if TYPE_CHECKING:
    from kdstudio.project import Run

KIND_ICONS = {
    "elicit": "sparkles",
    "signals": "activity",
    "train": "line-chart",
    "evaluate": "scale",
    "export": "package",
    "fetch_sample": "download",
    "probe": "plug",
}
RESUMABLE = ("paused", "stopped", "interrupted", "failed")
CONTINUABLE = ("elicit", "signals", "train")
_PROGRESS_WIDTH = 150


class JobRow(QFrame):
    """Sends `pause_wanted`, `resume_wanted`, `stop_wanted` and `log_wanted` with the run's id."""

    pause_wanted = Signal(str)
    resume_wanted = Signal(str)
    stop_wanted = Signal(str)
    log_wanted = Signal(str)

    def __init__(self, run: Run, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.run_id = run.id
        self.setObjectName(f"job_{run.id}")
        self.setProperty("role", "step")
        self._kind = run.kind
        self._mark = QLabel()
        self.title = ElidedLabel("")
        self.words = ElidedLabel("", "small")
        self.pill = Pill("")
        self.bar = QProgressBar()
        self.error: QLabel = label("", "error", wrap=True, name="job_error", selectable=True)
        self.hint: QLabel = label("", "small", wrap=True, name="job_hint")
        self._make_buttons()
        self._build()
        theme().changed.connect(self._draw_mark)
        self._draw_mark()
        self.show_run(run)

    def _make_buttons(self) -> None:
        def made(icon: str, tip: str, name: str, wanted: SignalInstance) -> QToolButton:
            return tool_button(icon, tip, name=name, clicked=lambda: wanted.emit(self.run_id))

        self.pause = made("pause", "Pause", "job_pause", self.pause_wanted)
        self.resume = made("play", "Resume", "job_resume", self.resume_wanted)
        self.stop = made("stop", "Stop and keep what was done", "job_stop", self.stop_wanted)
        self.log = made("file-text", "Open the log", "job_log", self.log_wanted)

    def _build(self) -> None:
        self.title.setObjectName("job_title")
        self.words.setObjectName("job_words")
        self.bar.setTextVisible(False)
        self.bar.setFixedWidth(_PROGRESS_WIDTH)
        self.bar.setAccessibleName("Progress")
        head = QHBoxLayout()
        head.setSpacing(10)
        head.addWidget(self._mark)
        names = QVBoxLayout()
        names.setSpacing(0)
        names.addWidget(self.title)
        names.addWidget(self.words)
        head.addLayout(names, 1)
        head.addWidget(self.bar)
        head.addWidget(self.pill)
        for one in (self.pause, self.resume, self.stop, self.log):
            head.addWidget(one)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(12, 6, 8, 6)
        outer.setSpacing(2)
        outer.addLayout(head)
        below = QVBoxLayout()
        below.setContentsMargins(26, 0, 0, 2)  # under the title, past the mark
        below.setSpacing(1)
        below.addWidget(self.error)
        below.addWidget(self.hint)
        outer.addLayout(below)

    def show_run(self, run: Run) -> None:
        """Show the run as it now stands."""
        active = run.state in ACTIVE_STATES
        self.title.setText(run.title if run.title and run.title != run.kind else kind_words(run.kind))
        done = progress_words(run.progress, over=not active) if run.progress else ""
        when = ago(run.finished or run.created)
        kind = kind_words(run.kind) if run.title and run.title != run.kind else ""
        self.words.setText(" · ".join(part for part in (kind, done, "" if active else when) if part))
        self.pill.set_word(run.state)
        share = fraction(run.progress or {})
        self.bar.setVisible(active)
        self.bar.setRange(0, 0 if share is None and run.state in ("starting", "running") else 1000)
        self.bar.setValue(round(1000 * (share or 0.0)))
        self.pause.setVisible(run.state == "running")
        self.resume.setVisible(run.state in RESUMABLE)
        again = "Resume" if run.state == "paused" or run.kind in CONTINUABLE else "Run again"
        self.resume.setToolTip(again)
        self.resume.setAccessibleName(again)
        self.stop.setVisible(active and run.state != "stopping")
        error = run.error if run.state in ("failed", "interrupted", "not responding") else {}
        said = ". ".join(part for part in (error.get("title", "").rstrip("."), error.get("detail", "")) if part)
        if run.state == "not responding":
            said = said or "The job has not shown a sign of life for a minute."
        self.error.setText(said)
        self.error.setVisible(bool(said))
        self.hint.setText(error.get("hint", ""))
        self.hint.setVisible(bool(error.get("hint")))

    def _draw_mark(self) -> None:
        name = KIND_ICONS.get(self._kind, "activity")
        self._mark.setPixmap(pixmap(name, "dim", 16, self.devicePixelRatioF()))
