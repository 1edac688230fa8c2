"""Empty states: one sentence and one primary action, instead of an empty area."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QPushButton, QVBoxLayout, QWidget

from kdstudio.ui.icons import pixmap
from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.labels import label

_WIDTH = 440


class EmptyState(QWidget):
    """An icon, one sentence and one primary button, centred. `action` is the button."""

    def __init__(
        self,
        icon: str,
        sentence: str,
        action: str = "",
        clicked: Callable[[], object] | None = None,
        *,
        name: str = "empty_state",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self._icon = icon
        self._mark = QLabel()
        self._mark.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.sentence = label(sentence, "dim", wrap=True, name=f"{name}_sentence")
        self.sentence.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.action: QPushButton = button(action, kind="primary", name=f"{name}_action", clicked=clicked)
        self.action.setVisible(bool(action))
        layout = QVBoxLayout(self)
        layout.setSpacing(14)
        layout.addStretch(1)
        for part in (self._mark, self.sentence, self.action):
            layout.addWidget(part, 0, Qt.AlignmentFlag.AlignHCenter)
        layout.addStretch(1)
        theme().changed.connect(self._draw)
        self._draw()
        self._fit()

    def say(self, sentence: str, action: str = "") -> None:
        """Another sentence, and another word on the button."""
        self.sentence.setText(sentence)
        self.action.setText(action)
        self.action.setVisible(bool(action))
        self._fit()

    def _fit(self) -> None:
        """A wrapped label that is centred gets the height of one line from Qt: give it what its text needs."""
        width = min(_WIDTH, self.sentence.fontMetrics().horizontalAdvance(self.sentence.text()) + 12)
        self.sentence.setFixedWidth(width)
        self.sentence.setFixedHeight(max(self.sentence.heightForWidth(width), 0))

    def _draw(self) -> None:
        self._mark.setPixmap(pixmap(self._icon, "dim", 34, self.devicePixelRatioF()))
