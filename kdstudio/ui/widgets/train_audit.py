"""What was found about a run, good and bad, as a card that opens: before the start, or on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QLabel, QScrollArea, QWidget

from kdstudio.ui.icons import pixmap
from kdstudio.ui.theme import Tone, theme
from kdstudio.ui.training_findings import Finding, Level
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.mask_text import MaskText
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.train_disclosure import Disclosure
from kdstudio.ui.widgets.wording import plural

_WORDS: dict[Level, tuple[Tone, str]] = {
    "fault": ("bad", "fault"),
    "warning": ("warn", "warning"),
    "good": ("good", "good"),
}
_MARKS: dict[Level, tuple[str, str]] = {
    "fault": ("circle-alert", "bad"),
    "warning": ("alert-triangle", "warn"),
    "good": ("circle-check", "good"),
}
_MOST_HEIGHT = 190


class AuditCard(Card):
    """Findings, the worst first; hidden while there are none, open by itself when one is a warning or a fault."""

    def __init__(self, heading: str, *, name: str, parent: QWidget | None = None) -> None:
        super().__init__(name=name, margin=8, parent=parent)
        self.findings: tuple[Finding, ...] = ()
        self.opener = Disclosure(heading, name=f"{name}_open")
        self._pills: dict[Level, Pill] = {level: Pill("", tone) for level, (tone, _) in _WORDS.items()}
        self._marks: list[tuple[QLabel, Level]] = []
        self._list = QWidget()
        self._list.setProperty("role", "scrolled")
        self._grid = QGridLayout(self._list)
        self._grid.setContentsMargins(8, 0, 8, 2)
        self._grid.setHorizontalSpacing(10)
        self._grid.setVerticalSpacing(7)
        self._grid.setColumnStretch(1, 1)
        self._area = QScrollArea()
        self._area.setWidgetResizable(True)
        self._area.setFrameShape(QFrame.Shape.NoFrame)
        self._area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._area.setWidget(self._list)
        self._area.setMaximumHeight(_MOST_HEIGHT)
        self._area.hide()
        head = QHBoxLayout()
        head.setSpacing(8)
        head.addWidget(self.opener)
        for pill in self._pills.values():
            head.addWidget(pill)
        head.addStretch(1)
        self.body.setSpacing(4)
        self.body.addLayout(head)
        self.body.addWidget(self._area)
        self.opener.toggled.connect(self._open)
        theme().changed.connect(self._draw_marks)
        self.hide()

    def show_findings(self, findings: Iterable[Finding | tuple[Level, str, str]]) -> None:
        """Show these (level, title, detail) instead of the ones before."""
        order = list(_WORDS)
        shown = tuple(sorted((Finding(*item) for item in findings), key=lambda found: order.index(found.level)))
        if shown == self.findings:
            return
        worse = _worse(shown) > _worse(self.findings)
        self.findings = shown
        self._fill(shown)
        for level, (tone, noun) in _WORDS.items():
            count = sum(finding.level == level for finding in shown)
            self._pills[level].set_word(f"{count} good" if level == "good" else plural(count, noun), tone)
            self._pills[level].setVisible(count > 0)
        if worse:
            self.opener.setChecked(True)
        elif not shown:
            self.opener.setChecked(False)
        self.setVisible(bool(shown))
        self._fit()

    def _fill(self, findings: Sequence[Finding]) -> None:
        while item := self._grid.takeAt(0):
            old = item.widget()
            if old is not None:
                old.setParent(None)
                old.deleteLater()
        self._marks = []
        for row, finding in enumerate(findings):
            mark = QLabel()
            mark.setAccessibleName(finding.level)
            mark.setToolTip(finding.level)
            said = "" if finding.level == "good" else f"{finding.level.capitalize()}: "
            words = label(said + finding.title, wrap=True, selectable=True)
            words.setObjectName(f"{self.objectName()}_{row}")
            self._grid.addWidget(mark, 2 * row, 0, Qt.AlignmentFlag.AlignTop)
            self._grid.addWidget(words, 2 * row, 1)
            self._marks.append((mark, finding.level))
            if finding.passages:
                self._grid.addWidget(MaskText(finding.passages), 2 * row + 1, 1)
            elif finding.detail:
                self._grid.addWidget(label(finding.detail, "small", wrap=True, selectable=True), 2 * row + 1, 1)
        self._draw_marks()

    def _draw_marks(self) -> None:
        for mark, level in self._marks:
            mark.setPixmap(pixmap(*_MARKS[level], 16, self.devicePixelRatioF()))

    def _open(self, opened: bool) -> None:
        self._area.setVisible(opened)
        self._fit()

    def _fit(self) -> None:
        """As high as the findings, up to a limit from which they scroll."""
        width = max(1, self._area.viewport().width())
        self._area.setFixedHeight(min(_MOST_HEIGHT, max(1, self._grid.heightForWidth(width))))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Follow the lines as they break."""
        super().resizeEvent(event)
        self._fit()


def _worse(findings: Sequence[Finding]) -> int:
    return sum(finding.level != "good" for finding in findings)
