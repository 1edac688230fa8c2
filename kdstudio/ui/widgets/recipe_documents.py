"""Documents of a recipe: files and folders, one a line, chosen, dropped or typed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QVBoxLayout, QWidget

from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.fields import Paragraph

_PATTERN = "Documents (*.txt *.md *.html *.htm *.pdf *.docx);;All files (*)"


class DocumentsField(QWidget):
    """A field of a form, as `fields.Field`: its value is the text with one path a line."""

    changed = Signal()

    def __init__(self, name: str, caption: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.edit = Paragraph(3)
        self.edit.setObjectName(name)
        self.edit.setAccessibleName(caption)
        self.edit.setPlaceholderText("Drop files or folders here: txt, md, html, pdf, docx")
        self.edit.setAcceptDrops(False)  # the field takes them, as lines
        self.edit.changed.connect(self.changed)
        buttons = QHBoxLayout()
        buttons.setSpacing(8)
        buttons.addWidget(button("Add files…", icon="file-text", name=f"{name}_files", clicked=self._add_files))
        buttons.addWidget(button("Add a folder…", icon="folder-open", name=f"{name}_folder", clicked=self._add_folder))
        buttons.addStretch(1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(self.edit)
        column.addLayout(buttons)
        self.setAcceptDrops(True)
        self.setFocusProxy(self.edit)

    def value(self) -> str:
        """The paths, one a line."""
        return self.edit.value()

    def set_value(self, value: Any) -> None:
        """Show paths."""
        self.edit.set_value(value)

    def add(self, paths: Iterable[str | Path]) -> None:
        """Append paths that are not there yet."""
        lines = [line for line in self.value().splitlines() if line.strip()]
        self.set_value("\n".join(dict.fromkeys([*lines, *map(str, paths)])))

    def _add_files(self) -> None:
        chosen, _ = QFileDialog.getOpenFileNames(self, "Documents", str(Path.home()), _PATTERN)
        self.add(chosen)

    def _add_folder(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "A folder with documents", str(Path.home()))
        self.add([chosen] if chosen else [])

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Accept local files and folders."""
        if any(url.isLocalFile() for url in event.mimeData().urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Take their paths."""
        self.add(url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile())
        event.acceptProposedAction()
