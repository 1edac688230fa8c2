"""A run's log: the end of what its process printed, followed while it runs."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QTimer, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QDialog, QHBoxLayout, QPlainTextEdit, QVBoxLayout, QWidget

from kdstudio import secrets
from kdstudio.jobs.folder import log_tail
from kdstudio.ui import style
from kdstudio.ui.widgets.buttons import button

_TAIL_CHARACTERS = 60_000


class LogDialog(QDialog):
    """Shows the last 60,000 characters of a run's log, with keys blanked out, once a second."""

    def __init__(self, run_folder: Path, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("log_dialog")
        self.setWindowTitle(f"Log · {title}")
        self.resize(760, 460)
        self._folder = run_folder
        self.text = QPlainTextEdit()
        self.text.setObjectName("log_text")
        self.text.setAccessibleName("Log")
        self.text.setReadOnly(True)
        self.text.setFont(style.mono_font(9))
        self.text.setPlaceholderText("Nothing was printed.")
        actions = QHBoxLayout()
        actions.addWidget(button("Open folder", icon="folder-open", name="log_folder", clicked=self._open_folder))
        actions.addWidget(button("Copy", icon="copy", name="log_copy", clicked=self._copy))
        actions.addStretch(1)
        actions.addWidget(button("Close", name="log_close", clicked=self.close))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(14, 14, 14, 12)
        layout.addWidget(self.text, 1)
        layout.addLayout(actions)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self.reload)
        self._timer.start(1000)
        self.reload()

    def reload(self) -> None:
        """Read the log's end again; keeps the place unless it is at the end."""
        text = secrets.redact(log_tail(self._folder, _TAIL_CHARACTERS))
        if text == self.text.toPlainText():
            return
        bar = self.text.verticalScrollBar()
        at_end, place = bar.value() >= bar.maximum() - 2, bar.value()
        self.text.setPlainText(text)
        bar.setValue(bar.maximum() if at_end else place)

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self.text.toPlainText())

    def _open_folder(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._folder)))
