"""Errors and warnings in place: title, detail and hint above the work they belong to, dismissible, never a dialog."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from kdstudio.errors import KnownError
from kdstudio.ui.icons import pixmap
from kdstudio.ui.theme import Tone, theme
from kdstudio.ui.widgets.buttons import button, tool_button
from kdstudio.ui.widgets.labels import label, set_role

_ICONS: dict[Tone, tuple[str, str]] = {
    "bad": ("circle-alert", "bad"),
    "warn": ("alert-triangle", "warn"),
    "good": ("circle-check", "good"),
    "idle": ("info", "dim"),
    "busy": ("info", "accent"),
}


class ErrorBanner(QFrame):
    """Shows a `KnownError` (or a warning, or good news) in place; hidden until then."""

    dismissed = Signal()

    def __init__(self, name: str = "error_banner", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setProperty("role", "banner")
        self._tone: Tone = "bad"
        self._mark = QLabel()
        self._mark.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.title = label("", "heading", wrap=True, name=f"{name}_title", selectable=True)
        self.detail = label("", wrap=True, name=f"{name}_detail", selectable=True)
        self.hint = label("", "dim", wrap=True, name=f"{name}_hint", selectable=True)
        self._action: QPushButton = button("", name=f"{name}_action", clicked=self._act)
        self._action.hide()
        self._on_action: Callable[[], object] | None = None
        self._build(name)
        theme().changed.connect(self._draw_mark)
        self.hide()

    def _build(self, name: str) -> None:
        outer = QHBoxLayout(self)
        outer.setContentsMargins(12, 9, 8, 9)
        outer.setSpacing(10)
        words = QVBoxLayout()
        words.setSpacing(2)
        for part in (self.title, self.detail, self.hint):
            words.addWidget(part)
        close = tool_button("x", "Dismiss", name=f"{name}_dismiss", clicked=self.dismiss)
        outer.addWidget(self._mark, 0, Qt.AlignmentFlag.AlignTop)
        outer.addLayout(words, 1)
        outer.addWidget(self._action, 0, Qt.AlignmentFlag.AlignVCenter)
        outer.addWidget(close, 0, Qt.AlignmentFlag.AlignTop)

    def show_error(self, error: KnownError | Mapping[str, str]) -> None:
        """Show an error, or its three fields as a journal carries them."""
        fields = error.as_dict() if isinstance(error, KnownError) else error
        self.show_message(fields.get("title", ""), fields.get("detail", ""), fields.get("hint", ""), tone="bad")

    def show_message(
        self,
        title: str,
        detail: str = "",
        hint: str = "",
        *,
        tone: Tone = "idle",
        action: str = "",
        on_action: Callable[[], object] | None = None,
    ) -> None:
        """Show any message in a tone, with at most one button."""
        for part, text in ((self.title, title), (self.detail, detail), (self.hint, hint)):
            part.setText(text)
            part.setVisible(bool(text))
        self._action.setText(action)
        self._action.setVisible(bool(action))
        self._on_action = on_action
        self._tone = tone
        set_role(self, tone=tone)
        self._draw_mark()
        self.setAccessibleName(title)
        self.setAccessibleDescription(" ".join(part for part in (detail, hint) if part))
        self.show()

    def dismiss(self) -> None:
        """Hide the message."""
        if not self.isHidden():
            self.hide()
            self.dismissed.emit()

    def _act(self) -> None:
        act = self._on_action
        self.dismiss()
        if act is not None:
            act()

    def _draw_mark(self) -> None:
        name, token = _ICONS[self._tone]
        self._mark.setPixmap(pixmap(name, token, 18, self.devicePixelRatioF()))
