"""A plot that grows while a run goes on: named lines, redrawn at most twenty times a second, in both themes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.labels import label

_REDRAW_MILLISECONDS = 50
_SMOOTHED_FROM = 40


@dataclass
class _Line:
    """A line's values and how it is drawn."""

    colour: int
    points: bool
    item: pg.PlotDataItem
    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


class LivePlot(QWidget):
    """Lines over steps. `set_line` replaces a line's values; the value under the pointer is read out above the plot."""

    def __init__(self, name: str, caption: str, *, unit: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setAccessibleName(f"{caption} over steps")
        self._caption, self._unit = caption, unit
        self._lines: dict[str, _Line] = {}
        self._plot = pg.PlotWidget()
        self._plot.setObjectName(f"{name}_plot")
        self._plot.setMenuEnabled(False)
        self._plot.hideButtons()
        self._plot.setMinimumHeight(90)
        self._plot.scene().sigMouseMoved.connect(self._read_out)
        self._caption_label = label(caption, "heading")
        self._legend = QHBoxLayout()
        self._legend.setSpacing(12)
        self._readout = label("", "small", name=f"{name}_readout")
        self._keys: dict[str, QWidget] = {}
        head = QHBoxLayout()
        head.setSpacing(12)
        head.addWidget(self._caption_label)
        head.addLayout(self._legend)
        head.addStretch(1)
        head.addWidget(self._readout)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addWidget(self._plot, 1)
        self._timer = QTimer(self, singleShot=True, interval=_REDRAW_MILLISECONDS)
        self._timer.timeout.connect(self._redraw)
        theme().changed.connect(self._recolour)
        self._recolour()

    def add_line(self, key: str, caption: str, *, colour: int = 0, points: bool = False) -> None:
        """Add an empty line; `colour` counts the theme's series, `points` marks each value."""
        item = pg.PlotDataItem()
        item.setClipToView(True)
        self._plot.addItem(item)
        self._lines[key] = _Line(colour, points, item)
        self._keys[key] = made = label(f"●  {caption}", "small")
        made.setObjectName(f"{self.objectName()}_key_{key}")
        self._legend.addWidget(made)
        self._recolour()

    def set_line(self, key: str, steps: Sequence[float], values: Sequence[float]) -> None:
        """Give a line all its values; drawn with the next redraw."""
        line = self._lines[key]
        line.steps, line.values = list(steps), list(values)
        self._wake()

    def append(self, key: str, step: float, value: float) -> None:
        """Add one value; a step that was done again replaces what came after it."""
        line = self._lines[key]
        while line.steps and line.steps[-1] >= step:
            line.steps.pop()
            line.values.pop()
        line.steps.append(step)
        line.values.append(value)
        self._wake()

    def clear(self) -> None:
        """Empty every line."""
        for line in self._lines.values():
            line.steps, line.values = [], []
        self._wake()

    def count(self, key: str) -> int:
        """How many values a line has."""
        return len(self._lines[key].steps)

    def drawn(self, key: str) -> int:
        """How many values of a line are on the screen."""
        xs = self._lines[key].item.getData()[0]
        return 0 if xs is None else len(xs)

    def _wake(self) -> None:
        if not self._timer.isActive():
            self._timer.start()

    def _redraw(self) -> None:
        for line in self._lines.values():
            line.item.setData(np.asarray(line.steps, dtype=float), np.asarray(line.values, dtype=float))
        self._plot.setTitle(None)
        self._plot.enableAutoRange()

    def _recolour(self) -> None:
        tokens = theme().tokens
        self._plot.setBackground(tokens.surface)
        for side in ("left", "bottom"):
            axis = self._plot.getAxis(side)
            axis.setPen(pg.mkPen(tokens.border))
            axis.setTextPen(pg.mkPen(tokens.dim))
            axis.setTickFont(self.font())
        self._plot.getAxis("left").setWidth(46)
        self._plot.setLabel("bottom", "step", color=tokens.dim)
        self._plot.showGrid(x=True, y=True, alpha=0.12)
        for key, line in self._lines.items():
            colour = theme().series(line.colour)
            line.item.setPen(pg.mkPen(colour, width=1))
            line.item.setSymbol("o" if line.points else None)
            line.item.setSymbolSize(6)
            line.item.setSymbolPen(None)
            line.item.setSymbolBrush(pg.mkBrush(colour))
            self._keys[key].setStyleSheet(f"color: {colour.name() if hasattr(colour, 'name') else colour}")

    def _read_out(self, position: object) -> None:
        view = self._plot.getPlotItem().vb
        step = view.mapSceneToView(position).x()
        parts = []
        for key, line in self._lines.items():
            if line.steps:
                nearest = int(np.argmin(np.abs(np.asarray(line.steps) - step)))
                words = self._keys[key].text().removeprefix("●  ")  # type: ignore[attr-defined]
                parts.append(f"{words} {line.values[nearest]:.4g}{self._unit} at {line.steps[nearest]:.0f}")
        self._readout.setText(" · ".join(parts))
