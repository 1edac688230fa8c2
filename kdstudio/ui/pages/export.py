"""Export: write the student as GGUF, each file loaded again and compared with what was trained before it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QProgressBar,
    QScrollArea,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from kdstudio.catalogue.quantizations import QUANTIZATIONS
from kdstudio.files import readable_bytes
from kdstudio.jobs.events import Line, Progress
from kdstudio.project import Run
from kdstudio.ui.pages import Page
from kdstudio.ui.session import ACTIVE_STATES, Session
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.empty_state import EmptyState
from kdstudio.ui.widgets.export_files import FileRow, ModelCard
from kdstudio.ui.widgets.fields import ElidedCombo, Switch
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.wording import ago

_CHOSEN = ("F16", "Q8_0")
_CARD_NAME = "README.md"


class ExportPage(Page):
    """Choose a student and formats, export, read each file's check, open one in Chat."""

    key: ClassVar[str] = "export"

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(session, parent)
        self.run_id = ""
        self.student = ElidedCombo()
        self.student.setObjectName("export_student")
        self.student.setAccessibleName("Student")
        self.student.setPlaceholderText("None yet")
        self.name = QLineEdit()
        self.name.setObjectName("export_name")
        self.name.setAccessibleName("Name of the model")
        self.name.setPlaceholderText("The recipe's title")
        self.formats: dict[str, Switch] = {}
        self.sizes: dict[str, Any] = {}
        self.folder = Switch("Safetensors folder")
        self.folder.setObjectName("export_safetensors")
        self.start = button("Export", icon="package", kind="primary", name="export_start", clicked=self._start)
        self.stop = button("Stop", icon="stop", name="export_stop", clicked=lambda: session.stop(self.run_id))
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.stage = label("", "small", name="export_stage")
        self.empty = EmptyState("package", "", "", lambda: session.go(self._where), name="export_empty")
        self._where = "train"
        self.card = ModelCard("export_card", self._show_folder)
        self.card.hide()
        self._files = QVBoxLayout()
        self._files.setSpacing(8)
        self._build()
        self.student.activated.connect(lambda _index: self._show_sizes())
        for switch in self.formats.values():
            switch.toggled.connect(self._allow)
        self.folder.toggled.connect(self._allow)
        session.project_changed.connect(self.refresh)
        session.run_changed.connect(self._run_changed)
        session.events.connect(self._take)
        self.refresh()

    def _build(self) -> None:
        head = QHBoxLayout()
        head.setSpacing(8)
        for words, field, stretch in (("Student", self.student, 3), ("Name", self.name, 2)):
            head.addWidget(label(words, "dim"))
            head.addWidget(field, stretch)
        for control in (self.start, self.stop):
            head.addWidget(control)
        choices, results = self._choices(), self._results()
        below = QWidget()
        columns = QHBoxLayout(below)
        columns.setContentsMargins(0, 0, 0, 0)
        columns.setSpacing(12)
        columns.addWidget(choices, 5)
        columns.addWidget(results, 6)
        self._below = below
        self.content.addLayout(head)
        self.content.addWidget(self.empty, 1)
        self.content.addWidget(below, 1)

    def _choices(self) -> QWidget:
        choices = Card("Formats", name="export_formats")
        grid = QGridLayout()
        grid.setHorizontalSpacing(16)
        grid.setVerticalSpacing(6)
        grid.setColumnStretch(2, 1)
        for row, entry in enumerate(QUANTIZATIONS):
            switch = Switch(entry.label)
            switch.setObjectName(f"export_{entry.key}")
            switch.setChecked(entry.key in _CHOSEN)
            switch.setAccessibleDescription(entry.when)
            self.formats[entry.key] = switch
            self.sizes[entry.key] = label("", "dim")
            for column, part in enumerate((switch, self.sizes[entry.key], label(entry.when, "small", wrap=True))):
                grid.addWidget(part, row, column)
        last = len(self.formats)
        grid.addWidget(self.folder, last, 0, 1, 2)
        grid.addWidget(label("For transformers and further training.", "small", wrap=True), last, 2)
        choices.body.addLayout(grid)
        choices.body.addStretch(1)
        return choices

    def _results(self) -> QWidget:
        results = Card("Files", name="export_files")
        inner = QWidget()
        inner.setProperty("role", "scrolled")
        column = QVBoxLayout(inner)
        column.setContentsMargins(0, 0, 6, 0)
        column.addLayout(self._files)
        column.addStretch(1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QScrollArea.Shape.NoFrame)
        area.setWidget(inner)
        results.body.addWidget(self.stage)
        results.body.addWidget(self.progress)
        results.body.addWidget(area, 1)
        holder = QSplitter(Qt.Orientation.Vertical)
        holder.setChildrenCollapsible(False)
        holder.addWidget(results)
        holder.addWidget(self.card)
        holder.setSizes([360, 330])
        return holder

    # ------------------------------------------------------------------------------------------------- showing
    def shown_with(self, arguments: dict[str, Any]) -> None:
        """`run=ID` chooses that training run."""
        self.refresh()
        index = self.student.findData(str(arguments.get("run", "")))
        if arguments.get("run") and index >= 0:
            self.student.setCurrentIndex(index)
            self._show_sizes()

    def refresh(self) -> None:
        """Read the trained students and the last export again."""
        project = self.session.project
        chosen = self.student.currentData()
        self.student.clear()
        for run in self.session.runs("train"):
            if project is not None and (project.runs_folder / run.id / "student").is_dir():
                self.student.addItem(f"{run.title} · trained {ago(run.finished or run.created)}", run.id)
        self.student.setCurrentIndex(max(0, self.student.findData(chosen)) if self.student.count() else -1)
        ready = self.student.count() > 0
        self._below.setVisible(ready)
        self.empty.setVisible(not ready)
        if project is None:
            self._where = "home"
            self.empty.say("Open a project to export its students.", "Go to Home")
        else:
            self._where = "train"
            self.empty.say("There is no student to export yet.", "Train a student")
        exports = self.session.runs("export")
        if self.run_id not in {run.id for run in exports}:
            self.run_id = exports[0].id if exports else ""
        self._show_sizes()
        self._show_state(next((run for run in exports if run.id == self.run_id), None))
        self._allow()

    def _show_sizes(self) -> None:
        """What each format will take, from the student's own weights."""
        project, run_id = self.session.project, self.student.currentData()
        weights = project.runs_folder / str(run_id) / "student" / "model.safetensors" if project and run_id else None
        size = weights.stat().st_size if weights is not None and weights.is_file() else 0
        for entry in QUANTIZATIONS:
            self.sizes[entry.key].setText(f"≈ {readable_bytes(size * entry.bits / 32)}" if size else "")

    def _allow(self) -> None:
        chosen = any(switch.isChecked() for switch in self.formats.values()) or self.folder.isChecked()
        self.start.setEnabled(chosen and self.student.count() > 0)

    def _show_state(self, run: Run | None) -> None:
        active = run is not None and run.state in ACTIVE_STATES
        self.start.setVisible(not active)
        self.stop.setVisible(active)
        self.progress.setVisible(active)
        self.stage.setVisible(active)
        while item := self._files.takeAt(0):
            widget = item.widget()
            if widget is not None:
                widget.hide()
                widget.deleteLater()
        if run is not None and run.state in ("failed", "interrupted") and run.error:
            self.banner.show_error(run.error)
        files = run.result.get("files", []) if run is not None else []
        if not files and not active:
            self._files.addWidget(
                label("Exported files appear here with the figures of their check.", "dim", wrap=True)
            )
        self._show_files(run, files)

    def _show_files(self, run: Run | None, files: list[dict[str, Any]]) -> None:
        project = self.session.project
        if run is None or project is None or not files:
            self.card.hide()
            return
        paths = [_current_path(str(item["path"]), project.exports_folder) for item in files]
        for item, path in zip(files, paths, strict=True):
            self._files.addWidget(FileRow(item, path, self._chat))
        there = next((path for path in paths if path.exists()), paths[0])
        self.card.show_card(there.parent / _CARD_NAME)

    def _run_changed(self, run_id: str) -> None:
        project = self.session.project
        if project is None:
            return
        run = project.runs.get(run_id)
        if run.kind == "train" and run.state not in ACTIVE_STATES:
            self.refresh()
        elif run.kind == "export" and run_id == self.run_id:
            self._show_state(run)

    def _take(self, run_id: str, lines: list[Line]) -> None:
        for line in lines:
            if run_id == self.run_id and isinstance(line.event, Progress):
                self.progress.setMaximum(max(1, line.event.total))
                self.progress.setValue(line.event.done)
                self.stage.setText(line.event.stage.capitalize())

    # ------------------------------------------------------------------------------------------------ starting
    def _start(self) -> None:
        self.banner.dismiss()
        wanted = [key for key, switch in self.formats.items() if switch.isChecked()]
        parameters = {
            "run": str(self.student.currentData()),
            "quantizations": wanted,
            "name": self.name.text().strip(),
            "safetensors": self.folder.isChecked(),
        }
        title = f"Export {self.name.text().strip() or self.student.currentText().split(' · ')[0]}"
        task = self.session.start("export", parameters, title=title, anew=True)
        task.done.connect(self._started)
        task.failed.connect(self.show_error)

    def _started(self, run_id: str) -> None:
        self.run_id = run_id
        self.progress.setMaximum(0)
        self.stage.setText("Starting")
        project = self.session.project
        if project is not None:
            self._show_state(project.runs.get(run_id))

    def _show_folder(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.card.path.parent)))

    def _chat(self, path: str) -> None:
        self.session.go("chat", student=path)


def _current_path(written: str, exports: Path) -> Path:
    """Where a file is now: a project that was moved or copied took its exports along."""
    path = Path(written)
    moved = exports / path.parent.name / path.name
    return moved if moved.exists() or not path.exists() else path
