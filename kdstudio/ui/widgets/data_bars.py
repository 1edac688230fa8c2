"""The bars around the table: which rows (kind, search, status), what can be done with them, and what is shown."""

from __future__ import annotations

from collections.abc import Mapping

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QButtonGroup, QFrame, QHBoxLayout, QLabel, QLineEdit, QProgressBar, QToolButton, QWidget

from kdstudio.project.content import KINDS, STATUSES, Kind
from kdstudio.ui.icons import set_icon
from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.fields import Choice
from kdstudio.ui.widgets.labels import ElidedLabel, label, set_role
from kdstudio.ui.widgets.wording import number, short_number

KIND_WORDS: dict[Kind, str] = {"prompt": "Prompts", "response": "Responses", "preference": "Preferences"}
_TYPING_MILLISECONDS = 250
_BUSY_MILLISECONDS = 200


class KindSwitch(QFrame):
    """Prompts, Responses, Preferences with their counts, one of them pressed. `chosen(kind)`: the person changed it."""

    chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("data_kinds")
        self.setProperty("role", "segments")
        self.setAccessibleName("Kind of row")
        self.buttons: dict[str, QToolButton] = {}
        group = QButtonGroup(self)
        row = QHBoxLayout(self)
        row.setContentsMargins(2, 2, 2, 2)
        row.setSpacing(2)
        for kind in KINDS:
            made = QToolButton()
            made.setObjectName(f"data_kind_{kind}")
            made.setProperty("role", "segment")
            made.setCheckable(True)
            made.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextOnly)
            made.clicked.connect(lambda _checked=False, kind=kind: self.chosen.emit(kind))
            group.addButton(made)
            row.addWidget(made)
            self.buttons[kind] = made
        self.show_counts({})

    def show_counts(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Show how many rows there are of each kind."""
        for kind in KINDS:
            total = sum(count for (one, _), count in counts.items() if one == kind)
            shown = number(total) if total < 1_000_000 else short_number(total)
            self.buttons[kind].setText(f"{KIND_WORDS[kind]} {shown}" if total else KIND_WORDS[kind])
            self.buttons[kind].setAccessibleName(f"{KIND_WORDS[kind]}, {total}")
            parts = [f"{number(counts.get((kind, status), 0))} {status}" for status in STATUSES]
            self.buttons[kind].setToolTip(" · ".join(parts))

    def choose(self, kind: Kind) -> None:
        """Press a kind without saying so."""
        self.buttons[kind].setChecked(True)


class DataToolbar(QWidget):
    """Kinds at the left, Import, Export and Generate at the right."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.kinds = KindSwitch()
        self.importing = button(
            "Import…", icon="file-down", name="data_import", tip="Add rows from a file (Ctrl+I), or drop it anywhere"
        )
        self.exporting = button(
            "Export…", icon="file-up", name="data_export", tip="Write rows to a file that other programs read"
        )
        self.generate = button(
            "Generate…", icon="sparkles", kind="primary", name="data_generate", tip="Ask a teacher about the prompts"
        )
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self.kinds)
        row.addStretch(1)
        for one in (self.importing, self.exporting, self.generate):
            row.addWidget(one)


class FilterBar(QWidget):
    """The search box and the status. `changed()` comes a quarter of a second after the last key, at once by Enter."""

    changed = Signal()
    left = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.search = QLineEdit()
        self.search.setObjectName("data_search")
        self.search.setAccessibleName("Search rows")
        self.search.setPlaceholderText('Search prompts and answers, or tag:held_out teacher:"name"   (Ctrl+F)')
        self.search.setToolTip(
            "Words are searched in prompts and answers; the last may be unfinished.\n"
            "tag:NAME, teacher:NAME and status:pending narrow the rows; names with spaces go in quotes."
        )
        self.search.setClearButtonEnabled(True)
        mark = QAction(self.search)
        set_icon(mark, "search", "dim")
        self.search.addAction(mark, QLineEdit.ActionPosition.LeadingPosition)
        self.status = Choice(("", *STATUSES), {"": "All statuses", **{one: one.capitalize() for one in STATUSES}})
        self.status.setObjectName("data_status")
        self.status.setAccessibleName("Status")
        self.status.setMinimumWidth(130)
        self._quiet = False
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(_TYPING_MILLISECONDS)
        self._typing.timeout.connect(self.changed)
        self.search.textEdited.connect(lambda _text: self._typing.start())
        self.search.textChanged.connect(self._emptied)
        self.search.returnPressed.connect(self._at_once)
        self.status.changed.connect(self._at_once)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self.search, 1)
        row.addWidget(self.status)

    def _emptied(self, text: str) -> None:
        """The clear button does not count as typing."""
        if not text and not self._quiet:
            self._typing.start()

    def _at_once(self) -> None:
        if self._quiet:
            return
        self._typing.stop()
        self.changed.emit()
        if self.sender() is self.search:
            self.left.emit()

    def show_filter(self, text: str, status: str) -> None:
        """Set both without waiting; `changed` is not sent."""
        self._quiet = True
        self.search.setText(text)
        self.status.set_value(status)
        self._quiet = False
        self._typing.stop()

    def is_empty(self) -> bool:
        """Whether nothing is narrowed."""
        return not self.search.text().strip() and not self.status.value()


class Footer(QWidget):
    """What is shown and chosen, a quiet sign of work, and the actions on everything that is shown."""

    all_decided = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.words = ElidedLabel("", "small")
        self.words.setObjectName("data_shown")
        self.fault: QLabel = label("", "error", name="data_filter_fault")
        self.bar = QProgressBar()
        self.bar.setObjectName("data_busy")
        self.bar.setAccessibleName("Working on the rows")
        self.bar.setRange(0, 0)
        self.bar.setTextVisible(False)
        self.bar.setFixedWidth(90)
        self.accept_all = button(
            "", kind="link", name="data_accept_all", clicked=lambda: self.all_decided.emit("accepted")
        )
        self.reject_all = button(
            "", kind="link", name="data_reject_all", clicked=lambda: self.all_decided.emit("rejected")
        )
        self._patience = QTimer(self)
        self._patience.setSingleShot(True)
        self._patience.setInterval(_BUSY_MILLISECONDS)
        self._patience.timeout.connect(self.bar.show)
        row = QHBoxLayout(self)
        row.setContentsMargins(4, 0, 0, 0)
        row.setSpacing(10)
        row.addWidget(self.words, 1)
        for one in (self.fault, self.bar, self.accept_all, self.reject_all):
            row.addWidget(one)
        self.bar.hide()
        self.fault.hide()
        self.show_rows(0, 0)
        theme().changed.connect(self.update)

    def show_rows(self, shown: int, total: int) -> None:
        """Say how many rows are shown; the status bar says how many are chosen."""
        self.words.setText(f"{number(shown)} shown" if shown == total else f"{number(shown)} of {number(total)} shown")
        for one, verb in ((self.accept_all, "Accept"), (self.reject_all, "Reject")):
            one.setText(f"{verb} all {number(shown)} shown" if verb == "Accept" else "Reject all")
            one.setAccessibleName(f"{verb} all {shown} rows that are shown")
            one.setToolTip(f"{verb} every row of this filter; Ctrl+Z takes it back")
            one.setVisible(shown > 1)

    def show_working(self, words: str) -> None:
        """Say what is being written; "" when it is done."""
        self.show_busy(busy=bool(words))
        for one in (self.accept_all, self.reject_all):
            one.setEnabled(not words)
        if words:
            self.words.setText(words)

    def show_fault(self, text: str) -> None:
        """Say what in the search cannot be meant."""
        self.fault.setText(text)
        self.fault.setVisible(bool(text))
        set_role(self.fault, role="error")

    def show_busy(self, *, busy: bool) -> None:
        """A moving bar, once work takes longer than a glance."""
        if not busy:
            self._patience.stop()
            self.bar.hide()
        elif not self.bar.isVisible() and not self._patience.isActive():
            self._patience.start()
