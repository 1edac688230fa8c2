"""One step of Home's checklist: its number or tick, what it is, how it stands, and one button."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from kdstudio.ui.checklist import StepState
from kdstudio.ui.icons import pixmap
from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.labels import ElidedLabel, set_role
from kdstudio.ui.widgets.pill import Pill

_DISC = 26


class StepMark(QWidget):
    """A disc with the step's number, or a tick once it is done."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number, self._state = number, "blocked"
        self.setFixedSize(QSize(_DISC, _DISC))
        theme().changed.connect(self.update)

    def set_state(self, state: str) -> None:
        """Draw for another state."""
        self._state = state
        self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw the disc."""
        tokens = theme().tokens
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        box = QRectF(0.5, 0.5, _DISC - 1, _DISC - 1)
        filled = self._state in ("next", "running")
        painter.setPen(
            QColor(
                {"done": tokens.good, "next": tokens.primary, "running": tokens.primary}.get(
                    self._state, tokens.border_strong
                )
            )
        )
        painter.setBrush(QColor(tokens.primary) if filled else Qt.BrushStyle.NoBrush)
        painter.drawEllipse(box)
        if self._state == "done":
            ratio = self.devicePixelRatioF()
            painter.drawPixmap(6, 6, pixmap("check", "good", 14, ratio))
            return
        painter.setPen(QColor(tokens.on_primary if filled else tokens.dim))
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, str(self._number))


class StepRow(QFrame):
    """`acted(key)`: its button was pressed; `other(key)`: its second choice."""

    acted = Signal(str)
    other = Signal(str)

    def __init__(self, number: int, key: str, *, second: str = "", last: bool = False) -> None:
        super().__init__()
        self.key = key
        self.state = ""
        self.setObjectName(f"step_{key}")
        self.setProperty("role", "step")
        self.setProperty("last", last)
        self.mark = StepMark(number)
        self.title = ElidedLabel("", "heading")
        self.title.setObjectName(f"step_{key}_title")
        self.words = ElidedLabel("", "small")
        self.note = ElidedLabel("", "small")
        self.note.setObjectName(f"step_{key}_note")
        self.note.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.note.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.pill = Pill("")
        self.action: QPushButton = button("", name=f"step_{key}_action", clicked=lambda: self.acted.emit(key))
        self.second: QPushButton = button(
            second, kind="link", name=f"step_{key}_second", clicked=lambda: self.other.emit(key)
        )
        self._build()

    def _build(self) -> None:
        words = QVBoxLayout()
        words.setSpacing(1)
        words.addStretch(1)
        words.addWidget(self.title)
        words.addWidget(self.words)
        words.addStretch(1)
        row = QHBoxLayout(self)
        row.setContentsMargins(12, 8, 10, 8)
        row.setSpacing(12)
        row.addWidget(self.mark)
        row.addLayout(words, 3)
        row.addWidget(self.note, 2)
        for part in (self.pill, self.second, self.action):
            row.addWidget(part)

    def show_step(self, step: StepState, *, action: str = "") -> None:
        """Show how the step stands; `action` replaces the word on its button."""
        self.state = step.state
        self.mark.set_state(step.state)
        self.title.setText(step.text.title)
        self.words.setText(step.text.words)
        self.note.setText(step.note)
        self.note.setVisible(bool(step.note))
        self.pill.set_word(step.state)
        self.pill.setVisible(step.state in ("done", "running"))
        self.action.setText(action or step.text.action)
        self.action.setVisible(step.state in ("next", "ready"))
        self.second.setVisible(bool(self.second.text()) and step.state in ("next", "ready"))
        set_role(self.action, kind="primary" if step.state == "next" else "normal")
        set_role(self, state=step.state)
        self.setAccessibleName(f"{step.text.title}: {step.state}. {step.note}")
