"""The funnel of a run: how many rows came to each step and went on, and why the others fell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QWidget

from kdstudio.ui.theme import mix, theme
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.wording import number

_REASONS_SHOWN = 3
_REASON_CHARACTERS = 44
LINE_HEIGHT = 22
"""Pixels of a step."""


class FunnelBar(QWidget):
    """What went on, filled; what came but fell, faint; both as a share of the most rows that came to any step."""

    def __init__(self) -> None:
        super().__init__()
        self._left = self._entered = 0.0
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme().changed.connect(self.update)

    def set_shares(self, left: float, entered: float) -> None:
        """Shares from 0 to 1."""
        self._left, self._entered = left, entered
        self.update()

    def sizeHint(self) -> QSize:
        """A thin bar."""
        return QSize(90, 14)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw both shares."""
        tokens, painter = theme().tokens, QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        whole = QRectF(0, 3, self.width(), 8)
        for share, colour in (
            (1.0, tokens.track),
            (self._entered, mix(tokens.bad, tokens.surface, 0.45)),
            (self._left, tokens.primary),
        ):
            if share > 0:
                painter.setBrush(QColor(colour))
                painter.drawRoundedRect(QRectF(0, whole.top(), max(8.0, whole.width() * min(1, share)), 8), 4, 4)
        painter.end()


class _StepLine:
    """The widgets of one step."""

    def __init__(self, grid: QGridLayout, index: int, step: int, type_: str) -> None:
        self.index, self.type = index, type_
        self.name = label(f"{step + 1}  {type_}" if step >= 0 else type_, "small")
        self.bar = FunnelBar()
        self.bar.setMinimumWidth(70)
        self.figures: QLabel = label("", "small", name=f"funnel_figures_{index}")
        self.figures.setMinimumWidth(72)
        self.reasons = QHBoxLayout()
        self.reasons.setSpacing(4)
        self.shown: list[tuple[str, int]] = []
        self.by = 0
        self.buttons: list[QPushButton] = []
        for column, widget in enumerate((self.name, self.bar, self.figures)):
            grid.addWidget(widget, index, column)
        grid.addLayout(self.reasons, index, 3)
        grid.setRowMinimumHeight(index, LINE_HEIGHT)

    def show_counts(self, step: dict[str, Any], most: int, chosen: Callable[[int, str], None]) -> None:
        entered, left = int(step["entered"]), int(step["left"])
        self.bar.set_shares(left / most, entered / most)
        self.figures.setText(f"{number(entered)} → {number(left)}")
        self.bar.setAccessibleName(f"Step {self.index + 1}, {self.type}: {entered} came, {left} went on")
        fell, by = list(step["fell"].items()), int(step.get("passed_by", 0))
        if (fell, by) != (self.shown, self.by):
            self.shown, self.by = fell, by
            self._show_reasons(chosen)

    def _show_reasons(self, chosen: Callable[[int, str], None]) -> None:
        while item := self.reasons.takeAt(0):
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        self.buttons = []
        if self.by:
            passed = label(f"{number(self.by)} passed by", "small", name=f"funnel_by_{self.index}")
            passed.setToolTip("The step is only for some rows: its condition was false for these, and they went on")
            self.reasons.addWidget(passed)
        for place, (reason, count) in enumerate(self.shown[:_REASONS_SHOWN]):
            cut = reason if len(reason) <= _REASON_CHARACTERS else f"{reason[: _REASON_CHARACTERS - 1]}…"
            made = button(
                f"{number(count)} × {cut}",
                kind="link",
                name=f"funnel_reason_{self.index}_{place}",
                tip=f"{reason}\nClick to see these rows",
                clicked=partial(chosen, self.index, reason),
            )
            made.setAutoDefault(False)
            made.setFixedHeight(LINE_HEIGHT)
            self.buttons.append(made)
            self.reasons.addWidget(made)
        if (more := len(self.shown) - _REASONS_SHOWN) > 0:
            self.reasons.addWidget(label(f"and {more} more", "small"))
        self.reasons.addStretch(1)


class FunnelView(QWidget):
    """`reason_chosen(step, type, reason)`: the rows that fell there are wanted."""

    reason_chosen = Signal(int, str, str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("funnel_view")
        self.steps: list[dict[str, Any]] = []
        self.lines: list[_StepLine] = []
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(0)
        self._grid.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._grid.setColumnStretch(1, 1)
        self._grid.setColumnStretch(3, 3)

    def clear(self) -> None:
        """Forget the run that was shown."""
        for line in self.lines:
            for widget in (line.name, line.bar, line.figures, *line.buttons):
                self._grid.removeWidget(widget)
                widget.hide()
                widget.deleteLater()
            while item := line.reasons.takeAt(0):
                if (word := item.widget()) is not None and word not in line.buttons:
                    word.hide()
                    word.deleteLater()
            self._grid.removeItem(line.reasons)
            self._grid.setRowMinimumHeight(line.index, 0)
        self.steps, self.lines = [], []

    def show_steps(self, steps: list[dict[str, Any]]) -> None:
        """Show counts; the same run's later ones move the bars."""
        if [step["type"] for step in steps] != [line.type for line in self.lines]:
            self.clear()
            self.lines = [
                _StepLine(self._grid, place, int(step["step"]), str(step["type"])) for place, step in enumerate(steps)
            ]
        self.steps = steps
        most = max([1, *(int(step["entered"]) for step in steps)])
        for line, step in zip(self.lines, steps, strict=True):
            line.show_counts(step, most, self._chosen)

    def listed(self, index: int) -> frozenset[str]:
        """The reasons that a step names."""
        return frozenset(self.steps[index]["fell"]) if index < len(self.steps) else frozenset()

    def _chosen(self, index: int, reason: str) -> None:
        self.reason_chosen.emit(index, self.lines[index].type, reason)
