"""A card: a bordered panel with an optional heading and actions at its right."""

from __future__ import annotations

from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from kdstudio.ui.widgets.labels import label


class Card(QFrame):
    """Put content into `body`; `header` holds the heading and whatever is added after it."""

    def __init__(self, heading: str = "", *, name: str = "", margin: int = 14, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        if name:
            self.setObjectName(name)
        self.body = QVBoxLayout(self)
        self.body.setContentsMargins(margin, margin - 2, margin, margin)
        self.body.setSpacing(10)
        self.header = QHBoxLayout()
        self.header.setSpacing(8)
        self.heading: QLabel = label(heading, "heading")
        if heading:
            self.header.addWidget(self.heading)
            self.header.addStretch(1)
            self.body.addLayout(self.header)

    def add(self, widget: QWidget, stretch: int = 0) -> QWidget:
        """Append a widget to the body and return it."""
        self.body.addWidget(widget, stretch)
        return widget


def line() -> QFrame:
    """A thin horizontal rule."""
    made = QFrame()
    made.setProperty("role", "line")
    return made
