"""The inspector at the right of the rows: preview, editor, JSON and provenance of the current row, and its fate."""

from __future__ import annotations

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QStackedWidget,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from kdstudio.project.content import Kind
from kdstudio.ui import style
from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.data_conversation import ConversationView
from kdstudio.ui.widgets.data_detail import Detail, read_detail
from kdstudio.ui.widgets.data_facts import FactsView
from kdstudio.ui.widgets.empty_state import EmptyState
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.wording import number

_SETTLE_MILLISECONDS = 30
PREVIEW, EDIT, RAW, PROVENANCE = range(4)


class Inspector(QFrame):
    """Follows the current row. `saved(kind, id, text)`, `decided(status)`: what the person did here."""

    saved = Signal(str, int, str)
    decided = Signal(str)
    reason_wanted = Signal()
    failed = Signal(object)

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("data_inspector")
        self.setProperty("role", "card")
        self._session = session
        self.detail: Detail | None = None
        self._wanted: tuple[Kind, int] | None = None
        self._reading: Task | None = None
        self._filled: set[int] = set()
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(_SETTLE_MILLISECONDS)
        self._settle.timeout.connect(self._read)
        self.preview = ConversationView()
        self.editor = _text_box("data_editor", "Text of the row", mono=False)
        self.raw = _text_box("data_raw", "The row as JSON", mono=True)
        self.raw.setReadOnly(True)
        self.facts = FactsView()
        self.tabs = QTabWidget()
        self.tabs.setAccessibleName("What is shown of the row")
        self.tabs.tabBar().setAccessibleName("What is shown of the row")
        self._build()
        self.show_nothing()

    # ----------------------------------------------------------------------------------------------- building
    def _build(self) -> None:
        self.tabs.setObjectName("data_tabs")
        self.tabs.setDocumentMode(True)
        self.tabs.tabBar().setObjectName("data_tab_bar")
        self.tabs.tabBar().setExpanding(False)
        self.tabs.tabBar().setDrawBase(False)
        for widget, words in (
            (self.preview, "Preview"),
            (self._editing(), "Edit"),
            (self.raw, "Raw JSON"),
            (self.facts, "Provenance"),
        ):
            self.tabs.addTab(widget, words)
        self.raw.setProperty("role", "plain")
        self.empty = EmptyState("panel-right", "Choose a row to read it here.", name="data_inspector_empty")
        self.tabs.currentChanged.connect(lambda _tab: self._fill())
        self.stack = QStackedWidget()
        self.stack.addWidget(self.tabs)
        self.stack.addWidget(self.empty)
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 4, 6, 10)
        column.setSpacing(8)
        column.addWidget(self.stack, 1)
        column.addWidget(self._deciding())

    def _editing(self) -> QWidget:
        page = QWidget()
        column = QVBoxLayout(page)
        column.setContentsMargins(8, 10, 8, 4)
        self.edit_note: QLabel = label("", "small", wrap=True, name="data_edit_note")
        self.save = button("Save", icon="save", name="data_save", tip="Save the text (Ctrl+Enter)", clicked=self.keep)
        self.revert = button("Revert", name="data_revert", tip="Back to the saved text", clicked=self._revert)
        row = QHBoxLayout()
        row.addWidget(self.edit_note, 1)
        row.addWidget(self.revert)
        row.addWidget(self.save)
        column.addWidget(self.editor, 1)
        column.addLayout(row)
        self.editor.textChanged.connect(self._show_changed)
        for keys in ("Ctrl+Return", "Ctrl+Enter", "Ctrl+S"):
            shortcut = QShortcut(QKeySequence(keys), self.editor, context=Qt.ShortcutContext.WidgetShortcut)
            shortcut.activated.connect(self.keep)
        return page

    def _deciding(self) -> QWidget:
        self.buttons = QWidget()
        row = QHBoxLayout(self.buttons)
        row.setContentsMargins(4, 0, 4, 0)
        row.setSpacing(8)
        self.accept = button(
            "Accept",
            icon="check",
            name="data_accept",
            tip="Accept the selected rows (A)",
            clicked=lambda: self.decided.emit("accepted"),
        )
        self.reject = button(
            "Reject",
            icon="x",
            name="data_reject",
            tip="Reject the selected rows (R); Shift+R asks for a reason",
            clicked=lambda: self.decided.emit("rejected"),
        )
        self.edit = button("Edit", icon="pencil", name="data_edit", tip="Edit the text (E)", clicked=self.start_editing)
        for one in (self.accept, self.reject, self.edit):
            row.addWidget(one, 1)
        return self.buttons

    # ----------------------------------------------------------------------------------------------- following
    def show_row(self, kind: Kind, row_id: int | None, chosen: int) -> None:
        """Follow the current row, and say on the buttons how many rows they act on."""
        many = f" {number(chosen)}" if chosen > 1 else ""
        self.accept.setText(f"Accept{many}")
        self.reject.setText(f"Reject{many}")
        self.buttons.setEnabled(row_id is not None)
        if row_id is None:
            self.show_nothing()
            return
        wanted = (kind, row_id)
        if wanted != self._wanted:
            self.keep()
            self._wanted = wanted
            self.editor.setReadOnly(True)  # what stands in it belongs to the row before
            self._settle.start()

    def refresh(self) -> None:
        """Read the row again after it was changed, unless the person is typing in it."""
        if self._wanted is not None and not self.changed():
            self._settle.start()

    def show_nothing(self) -> None:
        """No row is current."""
        self.keep()
        self._wanted = self.detail = None
        self._settle.stop()
        self.stack.setCurrentWidget(self.empty)
        self.buttons.setEnabled(False)

    def _read(self) -> None:
        project = self._session.project
        if project is None or self._wanted is None:
            return
        if self._reading is not None:
            self._reading.cancel()
        self._reading = background(read_detail, project, *self._wanted, owner=self)
        self._reading.done.connect(self._show)
        self._reading.failed.connect(self.failed)

    def _show(self, detail: Detail) -> None:
        if (detail.kind, detail.row_id) != self._wanted or self.changed():
            return
        same = self.detail is not None and (self.detail.kind, self.detail.row_id) == self._wanted
        self.editor.setReadOnly(detail.text is None)
        if detail == self.detail and self.stack.currentWidget() is self.tabs:
            return
        self.detail = detail
        self._filled.clear()
        if not same or self.editor.toPlainText() != detail.text:
            self.editor.setPlainText(detail.text or "")
        self.editor.document().setModified(False)
        self._fill()
        self._show_changed()
        self.edit.setEnabled(detail.text is not None)
        self.stack.setCurrentWidget(self.tabs)

    def _fill(self) -> None:
        """Fill the tab that is in front; the others when they come there."""
        tab = self.tabs.currentIndex()
        if self.detail is None or tab in self._filled:
            return
        self._filled.add(tab)
        if tab == PREVIEW:
            self.preview.show_turns(self.detail.turns)
        elif tab == RAW:
            self.raw.setPlainText(self.detail.raw)
        elif tab == PROVENANCE:
            self.facts.show_facts(self.detail.provenance)

    # ------------------------------------------------------------------------------------------------- editing
    def changed(self) -> bool:
        """Whether the editor holds a text that is not saved."""
        return self.detail is not None and self.editor.document().isModified()

    def start_editing(self) -> None:
        """Bring the editor to the front."""
        self.tabs.setCurrentIndex(EDIT)
        self.editor.setFocus()

    def keep(self) -> None:
        """Save what was typed. Leaving the row does this too: nothing typed is lost, and undo takes it back."""
        if not self.changed() or self.detail is None:
            return
        text = self.editor.toPlainText()
        self.editor.document().setModified(False)
        self._show_changed()
        if text != self.detail.text:
            self.saved.emit(self.detail.kind, self.detail.row_id, text)

    def _revert(self) -> None:
        if self.detail is not None:
            self.editor.setPlainText(self.detail.text or "")
            self.editor.document().setModified(False)
            self._show_changed()

    def _show_changed(self) -> None:
        changed = self.changed()
        self.save.setEnabled(changed)
        self.revert.setEnabled(changed)
        editable = self.detail is None or self.detail.text is not None
        self.save.setVisible(editable)
        self.revert.setVisible(editable)
        count = len(self.editor.toPlainText()) if changed else len(self.detail.text or "") if self.detail else 0
        words = f"{number(count)} characters" + (" · not saved" if changed else "")
        if self.detail is not None and self.detail.text is None:
            words = "A preference is not edited: its answers are its evidence."
        self.edit_note.setText(words)


def _text_box(name: str, caption: str, *, mono: bool) -> QPlainTextEdit:
    made = QPlainTextEdit()
    made.setObjectName(name)
    made.setAccessibleName(caption)
    made.setTabChangesFocus(True)
    if mono:
        made.setFont(style.mono_font(9))
    return made
