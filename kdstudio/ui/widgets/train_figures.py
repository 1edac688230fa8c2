"""The row of figures above a run's plots: each a number, what it is, and nothing else."""

from __future__ import annotations

from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from kdstudio.ui.widgets.labels import label


class Figures(QFrame):
    """Named figures side by side. `show_figure(key, "1.23")` changes one."""

    def __init__(self, name: str, figures: dict[str, tuple[str, str]], parent: QWidget | None = None) -> None:
        """`figures`: key -> (caption, what the tool tip explains)."""
        super().__init__(parent)
        self.setObjectName(name)
        self.setProperty("role", "card")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(14, 8, 14, 8)
        layout.setSpacing(20)
        self._values = {}
        for key, (caption, tip) in figures.items():
            column = QVBoxLayout()
            column.setSpacing(0)
            value = label("–", "heading", name=f"{name}_{key}")
            value.setAccessibleName(caption)
            words = label(caption, "small")
            for part in (value, words):
                part.setToolTip(tip)
                column.addWidget(part)
            self._values[key] = value
            layout.addLayout(column)
            layout.addStretch(1)

    def show_figure(self, key: str, text: str) -> None:
        """Show a figure; "" shows a dash."""
        self._values[key].setText(text or "–")

    def text(self, key: str) -> str:
        """What a figure shows."""
        return self._values[key].text()

    def clear(self) -> None:
        """Dashes everywhere."""
        for value in self._values.values():
            value.setText("–")
