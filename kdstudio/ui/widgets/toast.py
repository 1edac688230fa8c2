"""Toasts: a line at the bottom right that says a job ended, and goes by itself."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt, QTimer, Signal
from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QMainWindow, QWidget

from kdstudio.ui.icons import pixmap
from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.buttons import tool_button
from kdstudio.ui.widgets.labels import label

SECONDS = 5.0
_ABOVE = 14
_MARKS = {
    "good": ("circle-check", "good"),
    "bad": ("circle-alert", "bad"),
    "warn": ("alert-triangle", "warn"),
    "busy": ("info", "accent"),
    "idle": ("info", "dim"),
}


class Toast(QFrame):
    """One message with its mark; closes itself. `closed(toast)` says so."""

    closed = Signal(object)

    def __init__(self, text: str, tone: str, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("toast")
        self.setProperty("role", "toast")
        self.setAccessibleName(text)
        self.mark = QLabel()
        self._tone = tone
        self.text = label(text, wrap=True, name="toast_text")
        wide = self.text.fontMetrics().horizontalAdvance(text) + 4
        self.text.setFixedWidth(min(wide, 380))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(12, 8, 6, 8)
        layout.addWidget(self.mark)
        layout.addWidget(self.text, 1)
        layout.addWidget(tool_button("x", "Dismiss", name="toast_dismiss", clicked=self.close))
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.timeout.connect(self.close)
        timer.start(int(SECONDS * 1000))
        theme().changed.connect(self._draw)
        self._draw()

    def _draw(self) -> None:
        name, token = _MARKS.get(self._tone, _MARKS["idle"])
        self.mark.setPixmap(pixmap(name, token, 16, self.devicePixelRatioF()))

    def closeEvent(self, event: QCloseEvent) -> None:
        """Tell the stack to close the gap."""
        super().closeEvent(event)
        self.closed.emit(self)


class Toasts(QObject):
    """Stacks toasts over the bottom right corner of a widget; at most three at a time."""

    def __init__(self, over: QWidget) -> None:
        super().__init__(over)
        self._over = over
        self._shown: list[Toast] = []
        over.installEventFilter(self)

    def show(self, text: str, tone: str = "good") -> None:
        """Show a message for five seconds."""
        toast = Toast(text, tone, self._over)
        toast.closed.connect(self._forget)
        self._shown.append(toast)
        while len(self._shown) > 3:
            self._shown.pop(0).close()
        toast.show()
        self._place()

    def _forget(self, toast: Toast) -> None:
        if toast in self._shown:
            self._shown.remove(toast)
        self._place()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Follow the corner when the window is resized."""
        if event.type() == QEvent.Type.Resize:
            self._place()
        return super().eventFilter(watched, event)

    def _bottom(self) -> int:
        """Over the pages of a window, so that neither its status bar nor a panel below them is covered."""
        central = self._over.centralWidget() if isinstance(self._over, QMainWindow) else None
        return central.geometry().bottom() - _ABOVE if central is not None else self._over.height() - _ABOVE

    def _place(self) -> None:
        bottom = self._bottom()
        for toast in reversed(self._shown):
            toast.adjustSize()
            toast.move(self._over.width() - toast.width() - 14, bottom - toast.height())
            toast.raise_()
            bottom -= toast.height() + 8
