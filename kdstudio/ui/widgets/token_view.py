"""The text of `token_text`: as tall as its text up to a limit, and pointed at and walked through by position."""

from __future__ import annotations

from PySide6.QtCore import QPointF, Qt, Signal
from PySide6.QtGui import QKeyEvent, QMouseEvent, QResizeEvent, QTextCursor
from PySide6.QtWidgets import QFrame, QSizePolicy, QTextEdit, QWidget

_TALLEST = 260
_WAYS = {
    (Qt.Key.Key_Right, False): "next",
    (Qt.Key.Key_Left, False): "previous",
    (Qt.Key.Key_Right, True): "next unlikely",
    (Qt.Key.Key_Left, True): "previous unlikely",
    (Qt.Key.Key_Up, False): "up",
    (Qt.Key.Key_Down, False): "down",
    (Qt.Key.Key_Home, False): "first",
    (Qt.Key.Key_End, False): "last",
}


class TokenView(QTextEdit):
    """`pointed(position)`: the mouse is over, or pressed, that character. `walked(way)`: an arrow key was pressed."""

    pointed = Signal(int)
    walked = Signal(str)

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setAccessibleName("Answer, token by token")
        self.setReadOnly(True)
        self.setTabChangesFocus(True)
        self.setMouseTracking(True)
        self.viewport().setMouseTracking(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.document().setDocumentMargin(3)
        self.document().documentLayout().documentSizeChanged.connect(lambda _size: self._fit())
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Another width, another height."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        edge = self.height() - self.viewport().height()
        self.setFixedHeight(min(_TALLEST, max(round(self.document().size().height()), 22) + max(edge, 0)))

    def line_from(self, position: int, *, down: bool) -> int:
        """The position one line below or above; the same where there is none."""
        cursor = QTextCursor(self.document())
        cursor.setPosition(position)
        cursor.movePosition(QTextCursor.MoveOperation.Down if down else QTextCursor.MoveOperation.Up)
        return cursor.position()

    def bring_into_sight(self, cursor: QTextCursor) -> None:
        """Scroll so far that the cursor's end can be seen."""
        area, bar = self.cursorRect(cursor), self.verticalScrollBar()
        if area.bottom() > self.viewport().height():
            bar.setValue(bar.value() + area.bottom() - self.viewport().height() + 4)
        elif area.top() < 0:
            bar.setValue(bar.value() + area.top() - 4)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Say which character is under the mouse."""
        super().mouseMoveEvent(event)
        position = self.document().documentLayout().hitTest(self._inside(event), Qt.HitTestAccuracy.ExactHit)
        if position >= 0:
            self.pointed.emit(position)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """As pointing; also begins a selection."""
        super().mousePressEvent(event)
        found = self.document().documentLayout().hitTest(self._inside(event), Qt.HitTestAccuracy.FuzzyHit)
        self.pointed.emit(max(0, found))

    def _inside(self, event: QMouseEvent) -> QPointF:
        """Where in the document a mouse event is."""
        return event.position() + QPointF(self.horizontalScrollBar().value(), self.verticalScrollBar().value())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrow keys walk from token to token; the rest is a text's own (copying, selecting all)."""
        control = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
        way = _WAYS.get((Qt.Key(event.key()), control))
        if way is None or event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            super().keyPressEvent(event)
        else:
            self.walked.emit(way)
