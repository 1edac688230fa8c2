"""A plot that grows while a run goes on: named lines, redrawn at most twenty times a second, in both themes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QFont
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QVBoxLayout, QWidget

from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.labels import label

_REDRAW_MILLISECONDS = 50
_SMOOTHED_FROM = 120
_SMOOTHING = 0.9
_FAINT = 80
_GRID = 0.55
_HEAD_HEIGHT = 24


@dataclass
class _Line:
    """A line's values and how it is drawn."""

    colour: int
    points: bool
    noisy: bool
    item: pg.PlotDataItem
    smooth: pg.PlotDataItem
    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)

    def add(self, step: float, value: float) -> None:
        """Append a value and its running mean; a step that was done again replaces what came after it."""
        while self.steps and self.steps[-1] >= step:
            for column in (self.steps, self.values, self.means):
                column.pop()
        # An exponential mean, corrected for its start as Adam corrects its moments.
        before, count = (self.means[-1] if self.means else 0.0), len(self.means)
        decayed = _SMOOTHING * before * (1 - _SMOOTHING**count) + (1 - _SMOOTHING) * value
        self.steps.append(step)
        self.values.append(value)
        self.means.append(decayed / (1 - _SMOOTHING ** (count + 1)))

    def clear(self) -> None:
        """Forget all values."""
        for column in (self.steps, self.values, self.means):
            column.clear()

    @property
    def smoothed(self) -> bool:
        """Whether the running mean is drawn, too."""
        return self.noisy and len(self.steps) >= _SMOOTHED_FROM


class LivePlot(QWidget):
    """Lines over steps. `set_line` replaces a line's values; the value under the pointer is read out above the plot.

    A long noisy line is drawn faintly, with its running mean on top. `logarithmic` offers a switch for the scale.
    """

    def __init__(
        self,
        name: str,
        caption: str,
        *,
        unit: str = "",
        axis: str = "step",
        logarithmic: bool = False,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setAccessibleName(f"{caption} over {axis}s")
        self._caption, self._unit, self._axis = caption, unit, axis
        self._lines: dict[str, _Line] = {}
        self._ends: tuple[float, float] | None = None  # of the horizontal axis, where its places have names
        self._plot = pg.PlotWidget()
        self._plot.setObjectName(f"{name}_plot")
        for part in (self._plot, self._plot.viewport()):  # a drawing: nothing in it is done with keys
            part.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._plot.setMenuEnabled(False)
        self._plot.hideButtons()
        self._plot.setMinimumHeight(90)
        self._plot.scene().sigMouseMoved.connect(self._read_out)
        self._caption_label = label(caption, "heading")
        self._caption_label.setMinimumHeight(_HEAD_HEIGHT)
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
        self.log_scale = QCheckBox("Log scale")
        self.log_scale.setObjectName(f"{name}_log")
        self.log_scale.setToolTip("Draw the values on a logarithmic scale: small changes late in a run show")
        self.log_scale.toggled.connect(self._scale)
        self.log_scale.setVisible(logarithmic)
        head.addWidget(self.log_scale)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addWidget(self._plot, 1)
        self._timer = QTimer(self, singleShot=True, interval=_REDRAW_MILLISECONDS)
        self._timer.timeout.connect(self._redraw)
        theme().changed.connect(self._recolour)
        self._recolour()

    def add_line(self, key: str, caption: str, *, colour: int = 0, points: bool = False, noisy: bool = False) -> None:
        """Add an empty line; `colour` counts the theme's series, `points` marks each value, `noisy` smooths many."""
        item, smooth = pg.PlotDataItem(antialias=True), pg.PlotDataItem(antialias=True)
        for drawn in (item, smooth):
            drawn.setClipToView(True)
            drawn.setDownsampling(auto=True, method="peak")
            self._plot.addItem(drawn)
        self._lines[key] = _Line(colour, points, noisy, item, smooth)
        self._keys[key] = made = label(f"●  {caption}", "small")
        made.setObjectName(f"{self.objectName()}_key_{key}")
        self._legend.addWidget(made)
        self._recolour()

    def set_line(self, key: str, steps: Sequence[float], values: Sequence[float]) -> None:
        """Give a line all its values; drawn with the next redraw."""
        line = self._lines[key]
        line.clear()
        for step, value in zip(steps, values, strict=True):
            line.add(step, value)
        self._wake()

    def append(self, key: str, step: float, value: float) -> None:
        """Add one value; a step that was done again replaces what came after it."""
        self._lines[key].add(step, value)
        self._wake()

    def clear(self) -> None:
        """Empty every line."""
        for line in self._lines.values():
            line.clear()
        self._wake()

    def set_caption(self, caption: str) -> None:
        """Another heading, and name for a screen reader."""
        self._caption_label.setText(caption)
        self.setAccessibleName(f"{caption} over {self._axis}s")

    def set_places(self, words: Mapping[float, str]) -> None:
        """Name places of the horizontal axis, which then has no numbers, and show all of them."""
        self._plot.getAxis("bottom").setTicks([list(words.items())])
        self._ends = min(words), max(words)
        self._wake()

    def count(self, key: str) -> int:
        """How many values a line has."""
        return len(self._lines[key].steps)

    def drawn(self, key: str) -> int:
        """How many values of a line are on the screen."""
        xs = self._lines[key].item.getOriginalDataset()[0]
        return 0 if xs is None else len(xs)

    def _wake(self) -> None:
        if not self._timer.isActive():
            self._timer.start()

    def _redraw(self) -> None:
        for line in self._lines.values():
            steps, values = np.asarray(line.steps, dtype=float), np.asarray(line.values, dtype=float)
            line.item.setData(steps, values)
            means = np.asarray(line.means if line.smoothed else [], dtype=float)
            line.smooth.setData(steps[: len(means)], means)
            self._pen(line)
        self._plot.enableAutoRange()
        if self._ends is not None:
            self._plot.setXRange(*self._ends)

    def _pen(self, line: _Line) -> None:
        colour = theme().series(line.colour)
        line.smooth.setPen(pg.mkPen(colour, width=2))
        if line.smoothed:
            colour.setAlpha(_FAINT)
        line.item.setPen(pg.mkPen(colour, width=1 if line.smoothed else 2))

    def _scale(self) -> None:
        self._plot.setLogMode(x=False, y=self.log_scale.isChecked())
        self._wake()

    def _recolour(self) -> None:
        tokens = theme().tokens
        self._plot.setBackground(tokens.surface)
        for side in ("left", "bottom"):
            axis = self._plot.getAxis(side)
            axis.setPen(pg.mkPen(tokens.border))
            axis.setTextPen(pg.mkPen(tokens.dim))
            font = QFont(self.font())
            font.setPointSizeF(max(7.0, font.pointSizeF() - 1.5))
            axis.setStyle(tickFont=font, tickLength=-4)
            axis.enableAutoSIPrefix(False)
        self._plot.getAxis("left").setWidth(46)
        self._plot.getAxis("bottom").setHeight(38)
        self._plot.setLabel("bottom", self._axis, **{"color": tokens.dim, "font-size": "8.5pt"})
        self._plot.showGrid(x=True, y=True, alpha=_GRID)
        for key, line in self._lines.items():
            colour = theme().series(line.colour)
            self._pen(line)
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
