"""All objectives of the catalogue, grouped by family and searched by word: what the Train page shows behind "More"."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from PySide6.QtCore import QEvent, QObject, Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QLineEdit, QScrollArea, QSizePolicy, QVBoxLayout, QWidget

from kdstudio.catalogue.objectives import OBJECTIVES, Family, Objective
from kdstudio.ui.training_choice import FAMILIES, finds, methods_found
from kdstudio.ui.widgets.fields import Switch
from kdstudio.ui.widgets.labels import label, set_role

_ABREAST_FROM = 680
_NAME_WIDTH = 272
_PAPER_WIDTH = 150
_LOWER = 3
_INDENT = 24
_MOST_HEIGHT = 430


class ObjectiveChoice(QFrame):
    """One objective as a line: its name, when to use it, its paper. `picked(bool)`: a person ticked or unticked it."""

    picked = Signal(bool)

    def __init__(self, entry: Objective, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.entry = entry
        self.setProperty("role", "row")
        self.setObjectName(f"objective_{entry.key}")
        self.choose = Switch(entry.label)
        self.choose.setObjectName(f"objective_{entry.key}_choose")
        self.choose.setAccessibleDescription(entry.when)
        self.choose.clicked.connect(self.picked)
        self.when = label(entry.when, "small", wrap=True)
        self.paper = label(entry.reference.removeprefix("https://"), "small", wrap=True, selectable=True)
        self.paper.setMinimumWidth(_PAPER_WIDTH)
        for part in (self.when, self.paper):
            part.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.obstacle = label("", "small", wrap=True, name=f"objective_{entry.key}_obstacle")
        self.methods = label("", "small", wrap=True, name=f"objective_{entry.key}_methods")
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(6, 5, 6, 5)
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(3)
        self._abreast: bool | None = None
        self.arrange(abreast=True)
        for part in (self.obstacle, self.methods):
            part.hide()

    def arrange(self, *, abreast: bool) -> None:
        """Stand in three columns, or in lines where these would be too narrow."""
        if abreast == self._abreast:
            return
        self._abreast = abreast
        grid, top = self._grid, Qt.AlignmentFlag.AlignTop
        words = 1 if abreast else 0
        grid.addWidget(self.choose, 0, 0, top | Qt.AlignmentFlag.AlignLeft)
        grid.addWidget(self.when, 0 if abreast else 1, words)
        grid.addWidget(self.paper, 0 if abreast else 2, 2 if abreast else 0)
        grid.addWidget(self.obstacle, 3, words, 1, 2 if abreast else 1)
        grid.addWidget(self.methods, 4, words, 1, 2 if abreast else 1)
        for column, width in enumerate((_NAME_WIDTH, 0, _PAPER_WIDTH)):
            grid.setColumnMinimumWidth(column, width if abreast else 0)
            grid.setColumnStretch(column, int(column == words))
        for part in (self.when, self.paper, self.obstacle, self.methods):  # in line with the tick box's words
            lower = _LOWER if abreast and part in (self.when, self.paper) else 0
            part.setContentsMargins(0 if abreast else _INDENT, lower, 0, 0)

    def forbid(self, reason: str) -> None:
        """Say why it cannot be used now; "" allows it. What is chosen may always be taken out again."""
        self.obstacle.setText(reason)
        set_role(self.obstacle, role="warn" if self.choose.isChecked() else "small")
        self.obstacle.setVisible(bool(reason))
        self.choose.setEnabled(not reason or self.choose.isChecked())

    def search(self, words: str) -> bool:
        """Show itself if it is found, with the methods that it is known from; whether it is."""
        found = finds(self.entry, words)
        methods = methods_found(self.entry, words)
        self.methods.setText(f"Known from: {', '.join(methods)}")
        self.methods.setVisible(bool(methods))
        self.setVisible(found)
        return found


class ObjectiveList(QWidget):
    """A search field over all objectives, several of which may be ticked. `picked(key, bool)`: by a person."""

    picked = Signal(str, bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.search = QLineEdit()
        self.search.setObjectName("objective_search")
        self.search.setAccessibleName("Search objectives")
        self.search.setPlaceholderText("Search by name, purpose or method: DPO, WizardLM, MiniLLM, Zephyr…")
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(self._search)
        self.choices = {entry.key: ObjectiveChoice(entry) for entry in OBJECTIVES}
        self._headings = {family: label(words, "heading") for family, words in FAMILIES.items()}
        self.nothing = label("", "dim", wrap=True, name="objective_none_found")
        self.nothing.hide()
        self._area = QScrollArea()
        self._area.setObjectName("objective_area")
        self._area.setWidgetResizable(True)
        self._area.setFrameShape(QScrollArea.Shape.NoFrame)
        self._area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._area.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        for part in (self.search, self.nothing, self._area):
            column.addWidget(part)
        self._inner = QWidget()
        self._inner.setProperty("role", "scrolled")
        self._area.setWidget(self._inner)
        self._fill(self._inner)
        self._inner.installEventFilter(self)
        for key, choice in self.choices.items():
            choice.picked.connect(lambda ticked, key=key: self.picked.emit(key, ticked))

    def _fill(self, inner: QWidget) -> None:
        column = QVBoxLayout(inner)
        column.setContentsMargins(0, 0, 8, 0)
        column.setSpacing(1)
        for family, heading in self._headings.items():
            heading.setContentsMargins(6, 10, 6, 3)
            column.addWidget(heading)
            for choice in self.of_family(family):
                column.addWidget(choice)
        column.addStretch(1)

    def of_family(self, family: Family) -> list[ObjectiveChoice]:
        """The objectives of a family, in the catalogue's order."""
        return [choice for choice in self.choices.values() if choice.entry.family == family]

    def show_state(self, chosen: Collection[str], obstacles: Mapping[str, str]) -> None:
        """Tick what is chosen, and say of the others why they cannot be."""
        for key, choice in self.choices.items():
            choice.choose.setChecked(key in chosen)
            choice.forbid(obstacles.get(key, ""))
        self._fit()

    def _search(self, words: str) -> None:
        found = [choice.entry.family for choice in self.choices.values() if choice.search(words)]
        for family, heading in self._headings.items():
            heading.setVisible(family in found)
        self.nothing.setText(f"Nothing here is called “{words.strip()}”. Try the name of a method or of a paper.")
        self.nothing.setVisible(not found)
        self._area.setVisible(bool(found))
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Break the lines where they would be too narrow."""
        super().resizeEvent(event)
        for choice in self.choices.values():
            choice.arrange(abreast=event.size().width() >= _ABREAST_FROM)
        self._fit()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Follow the height of what is found."""
        if watched is self._inner and event.type() == QEvent.Type.LayoutRequest:
            self._fit()
        return super().eventFilter(watched, event)

    def _fit(self) -> None:
        """As high as what is shown, up to a limit from which it scrolls by itself."""
        width = max(1, self._area.viewport().width())
        layout = self._inner.layout()
        needed = layout.heightForWidth(width) if layout is not None and layout.hasHeightForWidth() else 0
        self._area.setFixedHeight(min(_MOST_HEIGHT, max(needed, self._inner.minimumSizeHint().height())))
