"""The few dialogs of the shell: closing while jobs run, keyboard shortcuts, about."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Literal

from PySide6.QtCore import Qt, qVersion
from PySide6.QtWidgets import QDialog, QGridLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from kdstudio import __version__
from kdstudio.ui.icons import pixmap
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.labels import label

Answer = Literal["keep", "stop", "cancel"]


class _Sheet(QDialog):
    """A small modal dialog with a title; `body` takes its content."""

    def __init__(self, name: str, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setWindowTitle(title)
        self.setModal(True)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.body = QVBoxLayout(self)
        self.body.setContentsMargins(20, 18, 20, 16)
        self.body.setSpacing(12)
        self.body.addWidget(label(title, "title"))

    def _close_row(self, name: str) -> None:
        row = QHBoxLayout()
        row.addStretch(1)
        row.addWidget(button("Close", kind="primary", name=name, clicked=self.accept))
        self.body.addLayout(row)


class CloseSheet(_Sheet):
    """A job runs and the window is to close: keep it running (default), stop it, or stay."""

    def __init__(self, running: int, parent: QWidget | None = None) -> None:
        title = "A job is still running" if running == 1 else f"{running} jobs are still running"
        super().__init__("close_sheet", title, parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose, False)
        self.answer: Answer = "cancel"
        them = "It goes" if running == 1 else "They go"
        words = f"{them} on without the window. The next start of KD Studio shows the complete progress."
        text = label(words, "dim", wrap=True)
        text.setMinimumWidth(420)
        self.body.addWidget(text)
        row = QHBoxLayout()
        row.addWidget(button("Cancel", name="close_cancel", clicked=lambda: self._take("cancel")))
        row.addStretch(1)
        stop = "Stop it" if running == 1 else "Stop them"
        row.addWidget(button(stop, kind="danger", name="close_stop", clicked=lambda: self._take("stop")))
        keep = button("Keep running", kind="primary", name="close_keep", clicked=lambda: self._take("keep"))
        keep.setDefault(True)
        keep.setFocus()
        row.addWidget(keep)
        self.body.addLayout(row)

    def ask(self) -> Answer:
        """Show it and wait for the answer; Escape means cancel."""
        self.exec()
        self.deleteLater()
        return self.answer

    def _take(self, answer: Answer) -> None:
        self.answer = answer
        self.accept()


class ShortcutSheet(_Sheet):
    """Every keyboard shortcut of the shell and of reviewing rows."""

    def __init__(self, parent: QWidget | None = None) -> None:
        from kdstudio.ui.menus import SHORTCUTS

        super().__init__("shortcut_sheet", "Keyboard shortcuts", parent)
        grid = QGridLayout()
        grid.setHorizontalSpacing(22)
        grid.setVerticalSpacing(6)
        review = (
            ("A", "Accept the selected rows"),
            ("R", "Reject them; Shift+R asks for a reason"),
            ("U", "Set them back to pending"),
            ("E", "Edit the row"),
            ("J / K", "Next / previous row"),
            ("Space", "Show or hide the preview"),
            ("Ctrl+Shift+C", "Copy the rows with headings"),
            ("Ctrl+F", "Search rows"),
            ("Enter", "Send the message (Chat)"),
            ("Shift+Enter", "New line (Chat)"),
            ("Escape", "Stop the answer (Chat)"),
        )
        half = (len(SHORTCUTS) + len(review) + 1) // 2
        for number, (keys, words) in enumerate((*SHORTCUTS, *review)):
            row, column = number % half, number // half * 2
            grid.addWidget(label(keys, "mono"), row, column)
            grid.addWidget(label(words), row, column + 1)
        self.body.addLayout(grid)
        self._close_row("shortcuts_close")


class AboutSheet(_Sheet):
    """Versions and licences."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("about_sheet", f"KD Studio {__version__}", parent)
        mark = QLabel()
        mark.setPixmap(pixmap("kdstudio", "text", 64, self.devicePixelRatioF()))
        self.body.insertWidget(0, mark)
        words = "Distil what a large language model knows into a small one that runs offline. Apache License 2.0."
        text = label(words, "dim", wrap=True)
        text.setMinimumWidth(380)
        self.body.addWidget(text)
        versions = [f"Python {platform.python_version()}", f"Qt {qVersion()}"]
        for package in ("torch", "transformers", "llama-cpp-python", "gguf"):
            try:
                versions.append(f"{package} {metadata.version(package)}")
            except metadata.PackageNotFoundError:
                versions.append(f"{package} not installed")
        self.body.addWidget(label("\n".join(versions), "mono", selectable=True))
        notes = (
            "Fonts: Inter and JetBrains Mono (SIL Open Font License). Icons: Lucide (ISC). Nothing is sent anywhere."
        )
        self.body.addWidget(label(notes, "small", wrap=True))
        self._close_row("about_close")
