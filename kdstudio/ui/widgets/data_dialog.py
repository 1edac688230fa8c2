"""The frame of the Data and Teachers dialogs: title, errors in place, content, and a row of buttons."""

from __future__ import annotations

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QDialog, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from kdstudio.errors import KnownError
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.banner import ErrorBanner
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.labels import label


class Sheet(QDialog):
    """A modal dialog: content goes into `body`, buttons go into `foot`, right of its stretch."""

    def __init__(self, session: Session, name: str, title: str, words: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.name = name
        self.setObjectName(name)
        self.setWindowTitle(title)
        self.setModal(True)
        self.title = label(title, "title", name=f"{name}_title")
        self.words = label(words, "dim", wrap=True, name=f"{name}_words")
        self.words.setVisible(bool(words))
        self.banner = ErrorBanner(f"{name}_banner")
        self.body = QVBoxLayout()
        self.body.setSpacing(12)
        self.foot = QHBoxLayout()
        self.foot.setSpacing(8)
        self.foot.addStretch(1)
        column = self._column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 16)
        column.setSpacing(12)
        head = QVBoxLayout()
        head.setSpacing(2)
        head.addWidget(self.title)
        head.addWidget(self.words)
        column.addLayout(head)
        column.addWidget(self.banner)
        column.addLayout(self.body, 1)
        column.addLayout(self.foot)

    def add_button(self, made: QPushButton, *, default: bool = False) -> QPushButton:
        """Append a button to the foot; only the default one answers Enter."""
        made.setAutoDefault(default)
        made.setDefault(default)
        self.foot.addWidget(made)
        return made

    def add_cancel(self, words: str = "Cancel") -> QPushButton:
        """A button that closes the dialog, as Escape does."""
        return self.add_button(button(words, name=f"{self.name}_cancel", clicked=self.reject))

    def show_error(self, error: KnownError) -> None:
        """Show an error above the content."""
        self.banner.show_error(error)
        self.grow()

    def grow(self) -> None:
        """Make room for what was shown just now, once its layout is known."""
        QTimer.singleShot(0, self, self._grow)

    def _grow(self) -> None:
        room = self.screen().availableSize().height() - 80
        # Unlike the size hint, the column knows how wide its wrapped words are.
        needed = max(self.sizeHint().height(), self._column.totalHeightForWidth(self.width()))
        self.resize(self.width(), max(self.height(), min(needed, room)))
