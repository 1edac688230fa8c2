"""The rows that fell for one reason: each with its reason in full and the raw answers that led to it."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QListWidget, QPlainTextEdit, QSplitter, QVBoxLayout, QWidget

from kdstudio.ui.fallen_rows import FallenList, read_fallen
from kdstudio.ui.job_bridge import background
from kdstudio.ui.session import Session
from kdstudio.ui.style import mono_font
from kdstudio.ui.widgets.data_dialog import Sheet
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.wording import plural

_LIST_WIDTH, _ITEM_CHARACTERS = 300, 200


class FallenSheet(Sheet):
    """Arrow keys go through the rows."""

    def __init__(
        self,
        session: Session,
        run_id: str,
        step: str,
        reason: str,
        listed: frozenset[str],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(session, "fallen_sheet", "Rows that fell", f"{step}: {reason}", parent)
        self.found = FallenList((), 0)
        self.list = QListWidget()
        self.list.setObjectName("fallen_list")
        self.list.setAccessibleName("Rows that fell")
        self.list.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setUniformItemSizes(True)
        self.prompt = label("", wrap=True, name="fallen_prompt", selectable=True)
        self.prompt.setMaximumHeight(110)
        self.reason = label("", "error", wrap=True, name="fallen_reason", selectable=True)
        self.pill = Pill("")
        self.answer = QPlainTextEdit()
        self.answer.setObjectName("fallen_answer")
        self.answer.setAccessibleName("The raw answer")
        self.answer.setReadOnly(True)
        self.answer.setFont(mono_font())
        self._build()
        self.list.currentRowChanged.connect(self._show_row)
        project = session.project
        if project is not None:
            task = background(read_fallen, project, run_id, step, reason, listed, owner=self)
            task.done.connect(self._show)
            task.failed.connect(self.show_error)
        self.resize(860, 520)

    def _build(self) -> None:
        right = QWidget()
        column = QVBoxLayout(right)
        column.setContentsMargins(10, 0, 0, 0)
        column.setSpacing(6)
        head = QHBoxLayout()
        head.addWidget(label("Row", "small"))
        head.addStretch(1)
        head.addWidget(self.pill)
        column.addLayout(head)
        column.addWidget(self.prompt)
        column.addWidget(label("Why it fell", "small"))
        column.addWidget(self.reason)
        column.addWidget(label("What was answered, as it came", "small"))
        column.addWidget(self.answer, 1)
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.addWidget(self.list)
        splitter.addWidget(right)
        splitter.setSizes([_LIST_WIDTH, 2 * _LIST_WIDTH])
        splitter.setChildrenCollapsible(False)
        self.body.addWidget(splitter, 1)
        self.add_cancel("Close")

    def _show(self, found: FallenList) -> None:
        self.found = found
        for row in found.rows:
            self.list.addItem(" ".join(row.text.split())[:_ITEM_CHARACTERS])
        shown = len(found.rows)
        more = f"; the first {shown} are listed" if found.count > shown else ""
        self.words.setText(f"{self.words.text()} · {plural(found.count, 'row')}{more}")
        self.list.setCurrentRow(0 if shown else -1)
        self.list.setFocus()

    def _show_row(self, place: int) -> None:
        if not 0 <= place < len(self.found.rows):
            return
        row = self.found.rows[place]
        self.prompt.setText(row.text[:1_000])
        self.reason.setText(row.reason)
        self.pill.set_word("rejected" if row.rejected else "dropped", "bad" if row.rejected else "idle")
        self.pill.setToolTip("It is kept in the project as rejected" if row.rejected else "It is only in the journal")
        self.answer.setPlainText(
            "\n\n────────\n\n".join(row.answers) or "There is no answer: it fell before one was asked."
        )
