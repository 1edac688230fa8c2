"""A path with a Browse button; a file may also be dropped on it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from PySide6.QtCore import Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QWidget

from kdstudio.ui.widgets.buttons import button


class PathPicker(QWidget):
    """A line edit and a Browse button; `kind` "save" names a file to write.

    `changed(text)` follows typing, browsing and dropping.
    """

    changed = Signal(str)

    def __init__(
        self,
        name: str,
        caption: str,
        *,
        kind: Literal["file", "folder", "save"] = "file",
        pattern: str = "All files (*)",
        placeholder: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName(f"{name}_picker")
        self._caption, self._kind, self._pattern = caption, kind, pattern
        self.edit = QLineEdit()
        self.edit.setObjectName(name)
        self.edit.setAccessibleName(caption)
        self.edit.setPlaceholderText(placeholder)
        self.edit.textChanged.connect(self.changed)
        self.browse = button("Browse…", icon="folder-open", name=f"{name}_browse", clicked=self._browse)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.edit, 1)
        layout.addWidget(self.browse)
        self.setFocusProxy(self.edit)
        self.setAcceptDrops(True)

    def path(self) -> Path | None:
        """The path typed or chosen; None when empty."""
        text = self.edit.text().strip()
        return Path(text).expanduser() if text else None

    def set_path(self, path: Path | str) -> None:
        """Show a path."""
        self.edit.setText(str(path))

    def _browse(self) -> None:
        start = str(self.path() or Path.home())
        if self._kind == "folder":
            chosen = QFileDialog.getExistingDirectory(self, self._caption, start)
        elif self._kind == "save":
            chosen, _ = QFileDialog.getSaveFileName(self, self._caption, start, self._pattern)
        else:
            chosen, _ = QFileDialog.getOpenFileName(self, self._caption, start, self._pattern)
        if chosen:
            self.set_path(chosen)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Accept one local file or folder."""
        urls = event.mimeData().urls()
        if len(urls) == 1 and urls[0].isLocalFile():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Take its path."""
        self.set_path(event.mimeData().urls()[0].toLocalFile())
        event.acceptProposedAction()
