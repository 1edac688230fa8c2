"""One training run as it goes on: figures, the loss and the gap to the teacher, what the student writes."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QSplitter, QVBoxLayout, QWidget

from kdstudio.files import readable_bytes
from kdstudio.jobs.events import Line, Metric, Progress, Sample
from kdstudio.project import Project, Run
from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.session import ACTIVE_STATES, Session
from kdstudio.ui.training_findings import Findings, read_findings
from kdstudio.ui.widgets.banner import ErrorBanner
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.live_plot import LivePlot
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.sample_list import SampleList
from kdstudio.ui.widgets.train_audit import AuditCard
from kdstudio.ui.widgets.train_figures import Figures
from kdstudio.ui.widgets.wording import duration, number

_FIGURES = {
    "step": ("Step", "Optimiser steps done, of all."),
    "loss": ("Training loss", "Mean loss a token of the last step, as the objectives weigh it."),
    "gap": (
        "Held-out divergence",
        "Forward KL to the teacher on rows that are not trained on, nats a token: before, and now. 0 is equal.",
    ),
    "agreement": (
        "Same first choice",
        "Share of held-out tokens at which student and teacher think the same token likeliest: before, and now.",
    ),
    "rate": ("Speed", "Tokens trained on in a second."),
    "memory": ("Memory", "Resident memory of the training process."),
    "eta": ("Time", "What is left at the present speed; once it is over, what the training took."),
}
_DRAWN = {
    "loss": ("loss", "loss"),
    "held_out_forward_kl": ("loss", "gap"),
    "learning_rate": ("rate", "learning_rate"),
    "tokens_per_second": ("speed", "tokens_per_second"),
}
_ONLY_SAID = ("held_out_top1_agreement", "memory_bytes")


class TrainRun(QWidget):
    """Shows one run of the project, live or over. `head`: its state and what can be done with it, for the page."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.run_id = ""
        self._before: dict[str, float] = {}
        self.pill = Pill("")
        self.figures = Figures("train_figures", _FIGURES)
        self.banner = ErrorBanner("train_run_banner")
        self.findings = Findings()
        self._reading: Task | None = None
        self._unread: list[Line] | None = None  # lines that came while the journal is read
        self.audit = AuditCard("Checked before the start", name="train_audit")
        self.warnings = AuditCard("Said on the way", name="train_warnings")
        self.plots = {
            "loss": LivePlot("train_plot_loss", "Loss and gap", logarithmic=True),
            "rate": LivePlot("train_plot_rate", "Learning rate"),
            "speed": LivePlot("train_plot_speed", "Tokens a second"),
        }
        self.plots["loss"].add_line("loss", "training loss", colour=0, noisy=True)
        self.plots["loss"].add_line("gap", "held-out divergence", colour=1, points=True)
        self.plots["rate"].add_line("learning_rate", "rate", colour=3)
        self.plots["speed"].add_line("tokens_per_second", "tokens/s", colour=4, noisy=True)
        self.samples = SampleList("train_samples", "What it writes on held-out prompts")
        self._build()
        session.events.connect(self._take)
        session.run_changed.connect(self._changed)

    def _build(self) -> None:
        self.pause = button("Pause", icon="pause", name="train_pause", clicked=lambda: self._ask("pause"))
        self.resume = button("Resume", icon="play", name="train_resume", clicked=lambda: self._ask("resume"))
        self.stop = button("Stop", icon="stop", name="train_stop", clicked=lambda: self._ask("stop"))
        self.evaluate = button("Evaluate", icon="scale", name="train_evaluate", clicked=lambda: self._go("evaluate"))
        self.export = button(
            "Export", icon="package", kind="primary", name="train_export", clicked=lambda: self._go("export")
        )
        self.head = QWidget()
        head = QHBoxLayout(self.head)
        head.setContentsMargins(0, 0, 0, 0)
        head.setSpacing(8)
        head.addWidget(self.pill)
        for control in (self.pause, self.resume, self.stop, self.evaluate, self.export):
            head.addWidget(control)
        small = QVBoxLayout()
        small.setSpacing(8)
        small.addWidget(self.plots["rate"], 1)
        small.addWidget(self.plots["speed"], 1)
        plots = QHBoxLayout()
        plots.setSpacing(16)
        plots.addWidget(self.plots["loss"], 2)
        plots.addLayout(small, 1)
        card = Card(margin=12)
        card.body.addLayout(plots, 1)
        splitter = QSplitter(Qt.Orientation.Vertical)
        splitter.setChildrenCollapsible(False)
        splitter.addWidget(card)
        splitter.addWidget(self.samples)
        splitter.setStretchFactor(0, 3)
        splitter.setStretchFactor(1, 2)
        splitter.setSizes([360, 230])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(10)
        layout.addWidget(self.banner)
        layout.addWidget(self.figures)
        layout.addWidget(self.audit)
        layout.addWidget(self.warnings)
        layout.addWidget(splitter, 1)

    def show_run(self, run_id: str) -> None:
        """Show a run with all that its journal said so far."""
        project = self.session.project
        if project is None:
            return
        self.run_id = run_id
        self._before = {}
        self.figures.clear()
        self.banner.hide()
        for name in (*_DRAWN, *_ONLY_SAID):
            steps, values = project.runs.metrics(run_id, name)
            if name in _DRAWN:
                plot, line = _DRAWN[name]
                self.plots[plot].set_line(line, steps, values)
            if steps:
                self._figure(name, steps[0], values[0])
                self._figure(name, steps[-1], values[-1])
        self.samples.show_samples(project.runs.samples(run_id))
        self._show_state(project.runs.get(run_id))
        self._read_findings(project, run_id)

    def _read_findings(self, project: Project, run_id: str) -> None:
        """Read what the journal says of the run's soundness; its new lines wait meanwhile."""
        self._found(Findings())
        self._unread = []
        if self._reading is not None:
            self._reading.cancel()
        self._reading = background(read_findings, project.runs_folder / run_id, owner=self)
        self._reading.done.connect(self._found)
        self._reading.failed.connect(lambda _error: self._found(Findings()))

    def _found(self, found: Findings) -> None:
        found.take(self._unread or ())
        self.findings, self._unread = found, None
        self._show_findings()

    def _show_findings(self) -> None:
        self.audit.show_findings(self.findings.before)
        self.warnings.show_findings(self.findings.later)

    def _take(self, run_id: str, lines: list[Line]) -> None:
        """Follow new journal lines of the shown run."""
        if run_id != self.run_id:
            return
        if self._unread is not None:
            self._unread += lines
        elif self.findings.take(lines):
            self._show_findings()
        for line in lines:
            match line.event:
                case Metric(step=step, values=values):
                    for name, value in values.items():
                        self._figure(name, step, value)
                        if name in _DRAWN:
                            plot, key = _DRAWN[name]
                            self.plots[plot].append(key, step, value)
                case Progress() as progress:
                    self._show_progress(progress.done, progress.total, progress.eta, progress.unit, progress.stage)
                case Sample() as sample:
                    self.samples.add_sample(sample)

    def _figure(self, name: str, step: int, value: float) -> None:
        """Show the newest value; what was measured before the first step stays beside it."""
        if step == 0:
            self._before[name] = value
        before = self._before.get(name) if step else None
        match name:
            case "loss":
                self.figures.show_figure("loss", f"{value:.3f}")
            case "held_out_forward_kl":
                self.figures.show_figure("gap", f"{value:.3f}" if before is None else f"{before:.3f} → {value:.3f}")
            case "held_out_top1_agreement":
                self.figures.show_figure(
                    "agreement", f"{value:.0%}" if before is None else f"{before:.0%} → {value:.0%}"
                )
            case "tokens_per_second":
                self.figures.show_figure("rate", f"{number(value)} tokens/s")
            case "memory_bytes":
                self.figures.show_figure("memory", readable_bytes(value))

    def _show_progress(self, done: int, total: int, eta: float | None, unit: str, stage: str) -> None:
        if unit == "steps":
            self.figures.show_figure("step", f"{number(done)} of {number(total)}")
        else:
            self.figures.show_figure("step", f"{stage}: {number(done)} of {number(total)} {unit}")
        self.figures.show_figure("eta", f"{duration(eta)} left" if eta and done < total else "")

    def _changed(self, run_id: str) -> None:
        project = self.session.project
        if run_id == self.run_id and project is not None:
            self._show_state(project.runs.get(run_id))

    def _show_state(self, run: Run) -> None:
        self.pill.set_word(run.state)
        active = run.state in ACTIVE_STATES
        self.pause.setVisible(run.state in ("running", "starting"))
        self.resume.setVisible(run.state in ("paused", "stopped", "interrupted", "failed"))
        self.stop.setVisible(active and run.state != "stopping")
        has_student = run.state in ("finished", "stopped") and self._has_student(run)
        self.evaluate.setVisible(has_student)
        self.export.setVisible(has_student)
        if run.progress:
            progress = run.progress
            self._show_progress(
                progress["done"],
                progress["total"],
                progress.get("eta") if active else None,
                progress["unit"],
                progress["stage"],
            )
        if not active and run.result.get("seconds"):
            self.figures.show_figure("eta", duration(float(run.result["seconds"])))
        if run.error:
            self.banner.show_message(
                run.error.get("title", ""), run.error.get("detail", ""), run.error.get("hint", ""), tone="bad"
            )
        else:
            self.banner.hide()

    def _has_student(self, run: Run) -> bool:
        project = self.session.project
        return project is not None and (project.runs_folder / run.id / "student").is_dir()

    def _ask(self, what: str) -> None:
        task = getattr(self.session, what)(self.run_id)
        task.failed.connect(self.banner.show_error)

    def _go(self, page: str) -> None:
        self.session.go(page, run=self.run_id)


def training_runs(project: Project | None) -> list[Run]:
    """The project's training runs, newest first."""
    return project.runs.list("train") if project is not None else []
