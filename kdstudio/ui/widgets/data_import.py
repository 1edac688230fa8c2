"""Importing rows: what the file is, what will happen, how far it is, and what could not be read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QTimer, QUrl, Signal
from PySide6.QtGui import QDesktopServices, QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QProgressBar, QWidget

from kdstudio.errors import KnownError, Stopped
from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.data_dialog import Sheet
from kdstudio.ui.widgets.data_import_preview import ImportPreview
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.path_picker import PathPicker
from kdstudio.ui.widgets.wording import plural

if TYPE_CHECKING:
    from kdstudio.project.exchange import Detected, ImportReport

PATTERN = "Rows (*.jsonl *.json *.csv *.tsv *.txt);;All files (*)"
_TYPING_MILLISECONDS = 200
_LOOKED_AT = 50


@dataclass(frozen=True)
class Looked:
    """What a look at a file found: what it is, or why it cannot be read, and its columns either way."""

    path: Path
    found: Detected | None
    fault: KnownError | None
    columns: tuple[str, ...]
    bytes: int


def look_at(path: Path, mapping: dict[str, str]) -> Looked:
    """Detect a file's format; for a background task. Raises `BadInput` when it cannot be read at all."""
    from kdstudio.project.exchange import detect

    columns = _columns_of(path)
    try:
        found, fault = detect(path, mapping or None), None
    except KnownError as error:
        if not columns:
            raise
        found, fault = None, error
    return Looked(path, found, fault, columns, path.stat().st_size)


def _columns_of(path: Path) -> tuple[str, ...]:
    """The keys of the first usable record, for a file whose names we do not know; none for plain lines."""
    from kdstudio.project.records import layout_of, records
    from kdstudio.project.text_source import encoding_of

    encoding = encoding_of(path)
    layout = layout_of(path, encoding)
    for record in islice(records(path, encoding, layout) if layout != "lines" else (), _LOOKED_AT):
        if not record.fault and isinstance(record.value, dict):
            return tuple(map(str, record.value))
    return ()


class _Progress(QObject):
    """Carries progress from the importing thread to the dialog, and the wish to give up back."""

    moved = Signal(int, int)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.given_up = False

    def __call__(self, done: int, total: int) -> None:
        if self.given_up:
            raise Stopped("The import was cancelled; nothing was added.")
        self.moved.emit(done, total)


class ImportDialog(Sheet):
    """`imported(kind)`: rows of that kind came in."""

    imported = Signal(str)

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        words = "JSONL, JSON, CSV, TSV or plain lines: conversations, prompts, answers or preferences."
        super().__init__(session, "import_sheet", "Import rows", words, parent)
        self._looking: Task | None = None
        self._importing: Task | None = None
        self._progress = _Progress(self)
        self._progress.moved.connect(self._moved)
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(_TYPING_MILLISECONDS)
        self._typing.timeout.connect(self._look)
        placeholder = "Choose a file, or drop it here"
        self.picker = PathPicker("import_path", "File to import", pattern=PATTERN, placeholder=placeholder)
        self.preview = ImportPreview()
        self.bar = QProgressBar()
        self.bar.setObjectName("import_progress")
        self.bar.setAccessibleName("Progress of the import")
        self.bar.setTextVisible(False)
        self.status = label("", "small", wrap=True, name="import_status")
        for part in (self.picker, self.preview, self.bar, self.status):
            self.body.addWidget(part, 1 if part is self.preview else 0)
        self.bar.hide()
        self.cancel = self.add_cancel()
        self.start = self.add_button(
            button("Import", kind="primary", name="import_start", clicked=self._start), default=True
        )
        self.start.setEnabled(False)
        self.picker.changed.connect(lambda _text: self._typing.start())
        self.preview.changed.connect(self._look)
        self.setAcceptDrops(True)
        self.resize(680, 560)

    def set_path(self, path: Path) -> None:
        """Look at this file at once."""
        self.picker.set_path(path)
        self._typing.stop()
        self._look()

    # ------------------------------------------------------------------------------------------------- looking
    def _look(self) -> None:
        path = self.picker.path()
        self.start.setEnabled(False)
        self.banner.dismiss()
        if self._looking is not None:
            self._looking.cancel()
        if path is None:
            self.preview.show_nothing()
            return
        self._looking = background(look_at, path, self.preview.mapping(), owner=self)
        self._looking.done.connect(self._looked)
        self._looking.failed.connect(self._not_readable)

    def _looked(self, looked: Looked) -> None:
        self.preview.show_file(looked)
        self.start.setEnabled(looked.found is not None)

    def _not_readable(self, error: KnownError) -> None:
        self.preview.show_nothing()
        self.show_error(error)

    # ----------------------------------------------------------------------------------------------- importing
    def _start(self) -> None:
        project, path = self.session.project, self.picker.path()
        if project is None or path is None:
            return
        from kdstudio.project.exchange import import_file

        kind, mapping, progress = self.preview.kind(), self.preview.mapping() or None, self._progress
        self._set_busy(busy=True)
        self._importing = background(
            lambda: import_file(project, path, kind=kind, mapping=mapping, progress=progress), owner=self
        )
        self._importing.done.connect(self._done)
        self._importing.failed.connect(self._failed)

    def _set_busy(self, *, busy: bool) -> None:
        for one in (self.picker, self.preview, self.start):
            one.setEnabled(not busy)
        self.bar.setVisible(busy)
        self.bar.setRange(0, 0)
        self.status.setText("Reading…" if busy else "")
        self.status.setVisible(busy)

    def _moved(self, done: int, total: int) -> None:
        self.bar.setRange(0, 1000)
        self.bar.setValue(1000 * done // max(total, 1))
        self.status.setText(f"{done / 1e6:.1f} of {total / 1e6:.1f} MB")

    def _done(self, report: ImportReport) -> None:
        self._importing = None
        self._set_busy(busy=False)
        self.session.rows_changed.emit()
        kind = "response" if report.responses else "preference" if report.preferences else "prompt"
        self.imported.emit(self.preview.kind() or kind)
        self._show_report(report)

    def _show_report(self, report: ImportReport) -> None:
        """Leave when all went in; stay to show what did not."""
        parts = [
            plural(count, noun)
            for count, noun in (
                (report.prompts, "prompt"),
                (report.responses, "response"),
                (report.preferences, "preference"),
            )
            if count
        ]
        said = f"{' and '.join(parts) or 'No new rows'} imported"
        left = f"{plural(report.duplicates, 'record')} were already here." if report.duplicates > 0 else ""
        reject_file = report.reject_file
        if reject_file is None:
            self.session.say(said if not left else f"{said}; {left.rstrip('.')}")
            self.accept()
            return
        bad = f"{plural(report.rejected, 'record')} could not be read; each is kept with its line and the reason."
        self.banner.show_message(
            said,
            " ".join(part for part in (bad, left) if part),
            str(reject_file),
            tone="warn",
            action="Show them",
            on_action=lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(str(reject_file))),
        )
        self.preview.setEnabled(False)
        self.start.hide()
        self.cancel.setText("Close")

    def _failed(self, error: KnownError) -> None:
        self._importing = None
        self._progress.given_up = False
        self._set_busy(busy=False)
        if isinstance(error, Stopped):
            self.banner.show_message("The import was cancelled", "Nothing was added.", tone="idle")
        else:
            self.show_error(error)

    def reject(self) -> None:
        """Cancel the running import, or close."""
        if self._importing is not None:
            self._progress.given_up = True
            self.status.setText("Cancelling…")
            return
        super().reject()

    # --------------------------------------------------------------------------------------------------- drops
    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Accept a local file anywhere in the dialog."""
        urls = event.mimeData().urls()
        if self._importing is None and len(urls) == 1 and urls[0].isLocalFile():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Take the file."""
        event.acceptProposedAction()
        self.set_path(Path(event.mimeData().urls()[0].toLocalFile()))
