"""What a student wrote beside its teacher: the newest answer to each prompt, and how it changed over the steps."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QLabel, QScrollArea, QVBoxLayout, QWidget

from kdstudio.jobs.events import Sample
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import label


class SampleList(Card):
    """A card with one row a prompt: prompt, student, teacher."""

    def __init__(self, name: str, heading: str, *, steps: bool = True, parent: QWidget | None = None) -> None:
        """`steps`: whether the heading says at which step the answers were written."""
        super().__init__(heading, name=name, margin=12, parent=parent)
        self._steps = steps
        self._name = name
        self._newest: dict[str, Sample] = {}
        self._inner = QWidget()
        self._inner.setProperty("role", "scrolled")
        self._grid = QGridLayout()
        self._grid.setContentsMargins(0, 0, 8, 0)
        self._grid.setHorizontalSpacing(18)
        self._grid.setVerticalSpacing(8)
        self._grid.setColumnStretch(1, 1)
        self._grid.setColumnStretch(2, 1)
        column = QVBoxLayout(self._inner)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(self._grid)
        column.addStretch(1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setWidget(self._inner)
        area.setFrameShape(QScrollArea.Shape.NoFrame)
        self.body.addWidget(area, 1)
        self._draw()

    def show_samples(self, samples: list[Sample]) -> None:
        """Show the newest of each prompt."""
        self._newest = {sample.prompt: sample for sample in samples}
        self._draw()

    def add_sample(self, sample: Sample) -> None:
        """Show one more."""
        known = self._newest.get(sample.prompt)
        self._newest[sample.prompt] = sample
        if known is None:
            self._draw()
        else:
            row = list(self._newest).index(sample.prompt) + 1
            cell = self.findChild(QLabel, f"{self._name}_{row}_1")
            if cell is not None:
                cell.setText(_shown(sample.student))
            self._say_step(sample.step)

    def _draw(self) -> None:
        while item := self._grid.takeAt(0):
            widget = item.widget()
            if widget is not None:
                widget.hide()
                widget.deleteLater()
        if not self._newest:
            self._grid.addWidget(label("Answers appear with the first measurement.", "dim"), 0, 0, 1, 3)
            return
        for column, text in enumerate(("Prompt", "Student", "Teacher")):
            self._grid.addWidget(label(text, "small"), 0, column, Qt.AlignmentFlag.AlignTop)
        for row, sample in enumerate(self._newest.values(), start=1):
            for column, text in enumerate((sample.prompt, sample.student, sample.teacher)):
                cell = label(_shown(text), "dim" if column == 0 else "body", wrap=True, selectable=True)
                cell.setObjectName(f"{self._name}_{row}_{column}")
                cell.setMinimumWidth(120)
                self._grid.addWidget(cell, row, column, Qt.AlignmentFlag.AlignTop)
        self._say_step(next(reversed(self._newest.values())).step)

    def _say_step(self, step: int) -> None:
        base = self.heading.text().split(" · ")[0]
        self.heading.setText(f"{base} · step {step}" if step and self._steps else base)


def _shown(text: str) -> str:
    return text.strip() or "(nothing)"
