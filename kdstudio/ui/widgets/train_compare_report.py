"""A comparison of recipes as a person reads it: the verdict, each recipe's figures, and each pair's interval."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from PySide6.QtCore import QPointF, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QGridLayout, QSizePolicy, QVBoxLayout, QWidget

from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.card import Card, line
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.wording import number, plural

FOLDER_NAME = "comparisons"
_MAXIMUM_BYTES = 4 << 20
_HEIGHT = 22
_TIPS = {
    "value": "Mean over the held-out rows, weighed by their tokens, and over the seeds. 0 is equal to the teacher.",
    "seeds": "The same for the run of each seed: how far chance in training moves it.",
    "tokens": "What each run trained on. A fair comparison gives all recipes the same.",
    "interval": "The difference with its 95 % interval. Where it crosses the line, chance explains the difference.",
}


class ShownRecipe(BaseModel):
    """One recipe's figures, and in which keys it differs from the first."""

    name: str
    baseline: bool
    value: float
    by_seed: tuple[float, ...]
    tokens: tuple[int, ...] = Field(min_length=1)
    differs: dict[str, Any] = {}


class ShownPair(BaseModel):
    """One pair's difference a - b with its interval."""

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float
    winner: str
    verdict: str


class ShownReport(BaseModel):
    """What a report in the project's `comparisons/` says."""

    id: str
    created: str
    metric: str
    metric_label: str
    unit: str
    winner: str
    verdict: str
    rows: int
    prompts: int
    seeds: int
    correction: str
    recipes: tuple[ShownRecipe, ...]
    pairs: tuple[ShownPair, ...]
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The recipes' names in one line."""
        return " / ".join(recipe.name for recipe in self.recipes)

    @property
    def measured(self) -> str:
        """What the figures are over."""
        over = f"{plural(self.rows, 'held-out row')} of {plural(self.prompts, 'prompt')}, {plural(self.seeds, 'seed')}"
        return f"{over}; {self.correction}."


def read_reports(project_folder: Path) -> list[ShownReport]:
    """The project's comparisons, newest first. A file that is none, or damaged, is passed over."""
    found = []
    for path in (project_folder / FOLDER_NAME).glob("*.json"):
        with suppress(OSError, ValueError):  # pydantic's own errors are values' too
            if path.stat().st_size <= _MAXIMUM_BYTES:
                found.append(ShownReport.model_validate_json(path.read_bytes()))
    return sorted(found, key=lambda report: report.created, reverse=True)


class IntervalBar(QWidget):
    """A difference as a dot on its 95 % interval, beside the line at 0; `reach` is the widest of all bars shown."""

    def __init__(self, pair: ShownPair, reach: float, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._pair, self._reach = pair, reach or 1.0
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(120)
        self.setAccessibleName(f"{pair.a} minus {pair.b}")
        self.setAccessibleDescription(pair.verdict)
        self.setToolTip(_TIPS["interval"])
        theme().changed.connect(self.update)

    def sizeHint(self) -> QSize:
        """One line high."""
        return QSize(260, _HEIGHT)

    def place(self, value: float) -> float:
        """Where a value is drawn, in pixels from the left; 0 is in the middle."""
        half = max(1.0, self.width() / 2 - 8)
        return self.width() / 2 + half * max(-1.0, min(1.0, value / self._reach))

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw the line at 0, the interval and the dot."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        middle = self.height() / 2
        painter.setPen(QPen(theme().colour("border_strong"), 1, Qt.PenStyle.DashLine))
        painter.drawLine(QPointF(self.place(0), 1), QPointF(self.place(0), self.height() - 1))
        colour = theme().colour("good" if self._pair.winner else "dim")
        painter.setPen(QPen(colour, 2))
        low, high = self.place(self._pair.low), self.place(self._pair.high)
        painter.drawLine(QPointF(low, middle), QPointF(high, middle))
        for end in (low, high):
            painter.drawLine(QPointF(end, middle - 4), QPointF(end, middle + 4))
        painter.setBrush(colour)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.drawEllipse(QPointF(self.place(self._pair.difference), middle), 4.5, 4.5)


class CompareReport(Card):
    """Shows one report; `verdict` is its last word, said first."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__("Which is closer to the teacher", name=name, margin=14, parent=parent)
        self._name = name
        self.mark = Pill("")
        self.header.addWidget(self.mark)
        self.verdict = label("", "heading", wrap=True, name=f"{name}_verdict", selectable=True)
        self.measured = label("", "small", wrap=True, name=f"{name}_measured")
        self.notes = label("", "warn", wrap=True, name=f"{name}_notes")
        self._inner = QVBoxLayout()
        for part in (self.verdict, self.measured, self.notes, line()):
            self.add(part)
        self.body.addLayout(self._inner)
        self.body.addStretch(1)
        self._tables: list[QWidget] = []

    def show_report(self, report: ShownReport) -> None:
        """Show this report in place of another."""
        self.mark.set_word("winner" if report.winner else "no winner", "good" if report.winner else "idle")
        self.verdict.setText(f"{report.verdict}.")
        self.measured.setText(report.measured)
        self.notes.setText("\n".join(report.notes))
        self.notes.setVisible(bool(report.notes))
        for table in self._tables:
            table.hide()
            table.deleteLater()
        shown = tuple(pair for pair in report.pairs if pair.metric == report.metric)
        self._tables = [self._recipes(report), line(), self._pairs(shown)]
        for table in self._tables:
            self._inner.addWidget(table)

    def _recipes(self, report: ShownReport) -> QWidget:
        table, grid = _grid()
        unit = f", {report.unit}" if report.unit else ""
        heads = (
            ("Recipe", ""),
            (f"{report.metric_label}{unit}", "value"),
            ("By seed", "seeds"),
            ("Tokens a run", "tokens"),
        )
        for column, (text, tip) in enumerate(heads):
            head = label(text, "small")
            head.setToolTip(_TIPS.get(tip, ""))
            grid.addWidget(head, 0, column)
        for row, recipe in enumerate(report.recipes, start=1):
            values = (
                recipe.name + (" (baseline)" if recipe.baseline else ""),
                f"{recipe.value:.4f}",
                "  ".join(f"{value:.4f}" for value in recipe.by_seed),
                " to ".join(number(count) for count in sorted({min(recipe.tokens), max(recipe.tokens)})),
            )
            for column, text in enumerate(values):
                cell = label(text, "body", selectable=True, wrap=column == 0, name=f"{self._name}_{row}_{column}")
                cell.setToolTip(_differs(recipe) if column == 0 else "")
                grid.addWidget(cell, row, column, Qt.AlignmentFlag.AlignTop)
        grid.setColumnStretch(0, 1)
        return table

    def _pairs(self, pairs: tuple[ShownPair, ...]) -> QWidget:
        table, grid = _grid()
        reach = max((abs(edge) for pair in pairs for edge in (pair.low, pair.high)), default=1.0)
        grid.addWidget(label("Difference", "small"), 0, 0)
        grid.addWidget(label("left of the line the first is closer, right of it the second", "small"), 0, 1)
        for row, pair in enumerate(pairs, start=1):
            names = label(f"{pair.a} − {pair.b}", "body", wrap=True)
            words = label(f"{pair.verdict}.", "small", wrap=True, selectable=True, name=f"{self._name}_pair_{row}")
            grid.addWidget(names, 2 * row, 0)
            grid.addWidget(IntervalBar(pair, reach), 2 * row, 1)
            grid.addWidget(words, 2 * row + 1, 0, 1, 2)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(1, 1)
        return table


def _grid() -> tuple[QWidget, QGridLayout]:
    table = QWidget()
    grid = QGridLayout(table)
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setHorizontalSpacing(18)
    grid.setVerticalSpacing(5)
    return table, grid


def _differs(recipe: ShownRecipe) -> str:
    if not recipe.differs:
        return ""
    told = [f"{key} = {json.dumps(value, ensure_ascii=False)[:200]}" for key, value in recipe.differs.items()]
    return "Differs from the first recipe:\n" + "\n".join(told)
