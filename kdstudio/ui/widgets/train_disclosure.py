"""A line that opens and closes what stands under it."""

from __future__ import annotations

from PySide6.QtWidgets import QPushButton, QWidget

from kdstudio.ui.icons import set_icon


class Disclosure(QPushButton):
    """A flat button with an arrow that points right while closed and down while open. `toggled(bool)` says which."""

    def __init__(self, words: str, *, name: str, parent: QWidget | None = None) -> None:
        super().__init__(words, parent)
        self.setObjectName(name)
        self.setProperty("kind", "link")
        self.setCheckable(True)
        self.toggled.connect(self._turn)
        self._turn(self.isChecked())

    def _turn(self, opened: bool) -> None:
        set_icon(self, "chevron-down" if opened else "chevron-right", "accent", gap=4)
        self.setAccessibleDescription("Open" if opened else "Closed")
