"""Where a message is typed: Enter sends, Shift+Enter breaks the line, the box grows to five lines."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QPlainTextEdit, QWidget

_MAXIMUM_LINES = 5


class MessageEdit(QPlainTextEdit):
    """`sent` on Enter, `escaped` on Escape."""

    sent = Signal()
    escaped = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("chat_message")
        self.setAccessibleName("Message")
        self.setPlaceholderText("Write a message. Enter sends it.")
        self.setTabChangesFocus(True)
        self.document().setDocumentMargin(2)
        self.document().contentsChanged.connect(self._fit)
        self._fit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter sends; with Shift it breaks the line."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            if event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
                self.insertPlainText("\n")
            else:
                self.sent.emit()
        elif event.key() == Qt.Key.Key_Escape:
            self.escaped.emit()
        else:
            super().keyPressEvent(event)

    def _fit(self) -> None:
        needed = max(1, self.document().lineCount())
        lines = min(_MAXIMUM_LINES, needed)
        always, never = Qt.ScrollBarPolicy.ScrollBarAsNeeded, Qt.ScrollBarPolicy.ScrollBarAlwaysOff
        self.setVerticalScrollBarPolicy(always if needed > _MAXIMUM_LINES else never)
        self.setFixedHeight(lines * self.fontMetrics().lineSpacing() + 14)
