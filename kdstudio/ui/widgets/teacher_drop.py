"""Where a model's file or folder is dropped, or chosen."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QDragEnterEvent, QDragLeaveEvent, QDropEvent
from PySide6.QtWidgets import QFileDialog, QFrame, QHBoxLayout, QLabel, QVBoxLayout

from kdstudio.ui.icons import pixmap
from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.labels import label, set_role


class DropZone(QFrame):
    """A place for a .gguf file or a folder. `given(path)`: dropped or chosen."""

    given = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("teachers_drop")
        self.setProperty("role", "drop")
        self.setAcceptDrops(True)
        self._mark = QLabel()
        self._mark.setAlignment(Qt.AlignmentFlag.AlignCenter)
        words = label("Drop a .gguf file or a model’s folder here", "dim", wrap=True)
        words.setAlignment(Qt.AlignmentFlag.AlignCenter)
        choose = button("Choose a file…", icon="file", name="teachers_choose", clicked=self._choose)
        folder = button("A folder…", icon="folder-open", name="teachers_choose_folder", clicked=self._choose_folder)
        buttons = QHBoxLayout()
        buttons.setSpacing(8)
        for one in (choose, folder):
            buttons.addWidget(one)
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 14, 12, 14)
        column.setSpacing(8)
        column.addWidget(self._mark)
        column.addWidget(words)
        column.addLayout(buttons)
        theme().changed.connect(self._draw)
        self._draw()

    def _draw(self) -> None:
        self._mark.setPixmap(pixmap("file-down", "dim", 24, self.devicePixelRatioF()))

    def _choose(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "A teacher", str(Path.home()), "GGUF models (*.gguf)")
        if chosen:
            self.given.emit(Path(chosen))

    def _choose_folder(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "A model’s folder", str(Path.home()))
        if chosen:
            self.given.emit(Path(chosen))

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Accept one local file or folder; whether it is a model is found out by reading it."""
        urls = event.mimeData().urls()
        if len(urls) == 1 and urls[0].isLocalFile():
            event.acceptProposedAction()
            set_role(self, over=True)

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        """Look calm again."""
        set_role(self, over=False)
        super().dragLeaveEvent(event)

    def dropEvent(self, event: QDropEvent) -> None:
        """Take it."""
        set_role(self, over=False)
        event.acceptProposedAction()
        self.given.emit(Path(event.mimeData().urls()[0].toLocalFile()))
