"""The trial of a recipe: for each of three rows, what went into each step and what came out of it."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QButtonGroup,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QProgressBar,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from kdstudio.catalogue.columns import StepFlow
from kdstudio.jobs.events import Traced
from kdstudio.ui.trial_record import TrialRecord, readable
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.forecast_card import ForecastCard
from kdstudio.ui.widgets.labels import ElidedLabel, label
from kdstudio.ui.widgets.pill import Pill

_MOST_BLOCKS, _MOST_CHARACTERS = 60, 1_200
_PLUMBING = ("round", "tags", "path")


class TraceBlock(Card):
    """One step's work on one row."""

    def __init__(self, trace: Traced, before: dict[str, str], flow: StepFlow | None, among: str) -> None:
        head = f"{trace.step + 1}  {trace.type}" if trace.step >= 0 else trace.type
        super().__init__(head, name=f"trace_{trace.step}", margin=10)
        self.place = (trace.key, trace.step)
        self.body.setSpacing(6)
        if among:
            self.header.insertWidget(1, label(among, "small"))
        self.pill = Pill("fell" if trace.reason else "passed", "bad" if trace.reason else "good")
        if trace.by:
            self.pill = Pill("passed by", "idle")
            self.pill.setToolTip("This step is only for some rows: its condition is false here")
        self.header.addWidget(self.pill)
        if trace.reason:
            self.add(label(trace.reason, "error", wrap=True, selectable=True))
        form = QFormLayout()
        form.setHorizontalSpacing(10)
        form.setVerticalSpacing(4)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setLabelAlignment(Qt.AlignmentFlag.AlignTop)
        for name in flow.reads if flow is not None and not trace.by else ():
            if name in before and name not in _PLUMBING:
                form.addRow(label(f"in: {name}", "small"), ElidedLabel(readable(before[name]), "small"))
        for name, text in trace.columns.items():
            shown = readable(text)
            cut = shown if len(shown) <= _MOST_CHARACTERS else f"{shown[:_MOST_CHARACTERS]}…"
            value = label(cut or "(empty)", "mono", wrap=True, selectable=True)
            value.setToolTip(shown if cut != shown else "")
            form.addRow(label(f"out: {name}", "small"), value)
        if form.rowCount():
            self.body.addLayout(form)


class TrialView(QWidget):
    """Follows a `TrialRecord`. `row_chosen(root)`: another row is looked at."""

    row_chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.record = TrialRecord()
        self._flows: Sequence[StepFlow] = ()
        self._texts: dict[str, str] = {}
        self._root = ""
        self.blocks: list[TraceBlock] = []
        self.words = label("", "dim", wrap=True, name="trial_words")
        self.bar = QProgressBar()
        self.bar.setRange(0, 0)
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("The trial is running")
        self.forecast = ForecastCard()
        self._build()

    def _build(self) -> None:
        self.segments = QFrame()
        self.segments.setProperty("role", "segments")
        self._buttons = QButtonGroup(self)
        self._row = QHBoxLayout(self.segments)
        self._row.setContentsMargins(3, 3, 3, 3)
        self._row.setSpacing(2)
        self.input = label("", wrap=True, name="trial_input", selectable=True)
        inner = QWidget()
        inner.setProperty("role", "scrolled")
        self._list = QVBoxLayout(inner)
        self._list.setContentsMargins(0, 0, 8, 0)
        self._list.setSpacing(8)
        self._list.addWidget(self.input)
        self._list.addStretch(1)
        area = QScrollArea()
        area.setObjectName("trial_steps")
        area.setAccessibleName("What each step did")
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(inner)
        head = QHBoxLayout()
        head.setSpacing(10)
        head.addWidget(self.segments)
        head.addWidget(self.words, 1)
        left = QVBoxLayout()
        left.setSpacing(8)
        left.addLayout(head)
        left.addWidget(self.bar)
        left.addWidget(area, 1)
        right = QVBoxLayout()
        right.addWidget(self.forecast)
        right.addStretch(1)
        columns = QHBoxLayout(self)
        columns.setContentsMargins(0, 0, 0, 0)
        columns.setSpacing(14)
        columns.addLayout(left, 1)
        columns.addLayout(right)

    # -------------------------------------------------------------------------------------------------- following
    def begin(self, flows: Sequence[StepFlow]) -> None:
        """A trial was started; `flows` are its recipe's."""
        self.record, self._flows, self._root = TrialRecord(), flows, ""
        self._texts = {}
        for button in self._buttons.buttons():
            self._buttons.removeButton(button)
            button.deleteLater()
        self.segments.hide()
        self._clear()
        self.input.hide()
        self.bar.show()
        self.words.setText("Starting…")
        self.forecast.waiting()

    def follow(self, texts: dict[str, str]) -> None:
        """Show what the record holds by now; `texts` are the rows' own, by root."""
        self._texts |= texts
        roots = self.record.roots()
        for root in roots[len(self._buttons.buttons()) :]:
            self._add_segment(root, len(self._buttons.buttons()) + 1)
        if not self._root and roots:
            self._root = roots[0]
        self.words.setText(self._said(len(roots)))
        self._show_row()

    def _said(self, rows: int) -> str:
        record = self.record
        if record.failure is not None:
            return "The trial failed."
        if record.result is None:
            return f"{record.stage.capitalize() or 'Asking'}… {record.questions} answers so far"
        kept, rejected = record.kept(), int(record.result.get("rejected", 0))
        of_them = f", {rejected} of them rejected" if rejected else ""
        return f"{rows} row{'' if rows == 1 else 's'} tried; the run would write {kept}{of_them}."

    def finished(self) -> None:
        """The trial ended, well or not."""
        self.bar.hide()
        self.words.setText(self._said(len(self.record.roots())))

    def _add_segment(self, root: str, number: int) -> None:
        made = QToolButton()
        made.setProperty("role", "segment")
        made.setText(f"Row {number}")
        made.setObjectName(f"trial_row_{number}")
        made.setCheckable(True)
        made.setChecked(number == 1)
        made.clicked.connect(lambda _checked=False: self.show_root(root))
        self._buttons.addButton(made)
        self._row.addWidget(made)
        self.segments.show()
        made.show()  # at once: a layout shows what is added to it only when the window is idle

    def show_root(self, root: str) -> None:
        """Look at another row."""
        self._root = root
        self._show_row()
        self.row_chosen.emit(root)

    def _clear(self) -> None:
        for block in self.blocks:
            self._list.removeWidget(block)
            block.hide()
            block.deleteLater()
        self.blocks = []

    def _show_row(self) -> None:
        """Only what is new is added, unless another row is looked at: nothing jumps while a person reads."""
        traces = self.record.of(self._root)[:_MOST_BLOCKS]
        text = self._texts.get(self._root, "")
        self.input.setText(f"The row: {text}" if text else "")
        self.input.setVisible(bool(text))
        if [block.place for block in self.blocks] == [(trace.key, trace.step) for trace in traces]:
            return
        self._clear()
        several = {trace.key for trace in traces}
        for place, trace in enumerate(traces):
            flow = self._flows[trace.step] if 0 <= trace.step < len(self._flows) else None
            block = TraceBlock(trace, self.record.values_before(trace), flow, _among(trace.key, several))
            self.blocks.append(block)
            self._list.insertWidget(place + 1, block)


def _among(key: str, keys: set[str]) -> str:
    """Which of several rows that came out of one this is: `answer 2`, or nothing where there is one."""
    alike = [one for one in keys if one.rsplit(":", 1)[0] == key.rsplit(":", 1)[0] and ":" in one]
    if ":" not in key or len(alike) < 2:
        return ""
    number, _, teacher = key.rsplit(":", 1)[1].partition("@")
    return f"· {int(number) + 1 if number.isdigit() else number}{f' by {teacher}' if teacher else ''}"
