"""Rejecting with a reason: a line of text, and the usual reasons one press away."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QDialog, QGridLayout, QHBoxLayout, QLineEdit, QVBoxLayout, QWidget

from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.wording import plural

USUAL = ("Wrong", "Off topic", "Incomplete", "Too long", "Repeats itself", "Unsafe")


class ReasonSheet(QDialog):
    """`given(reason)`: reject for this reason, which may be empty."""

    given = Signal(str)

    def __init__(self, count: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("data_reason_sheet")
        self.setWindowTitle("Reject with a reason")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.reason = QLineEdit()
        self.reason.setObjectName("data_reason")
        self.reason.setAccessibleName("Reason")
        self.reason.setPlaceholderText("Why? It is kept with the row.")
        self.reason.setMinimumWidth(380)
        self.reason.returnPressed.connect(lambda: self._give(self.reason.text()))
        usual = QGridLayout()
        usual.setSpacing(8)
        for place, word in enumerate(USUAL):
            name = f"data_reason_{word.lower().replace(' ', '_')}"
            one = button(word, name=name, clicked=lambda word=word: self._give(word))  # type: ignore[misc]
            one.setAutoDefault(False)
            usual.addWidget(one, place // 3, place % 3)
        row = QHBoxLayout()
        row.addStretch(1)
        cancel = button("Cancel", name="data_reason_cancel", clicked=self.reject)
        cancel.setAutoDefault(False)
        row.addWidget(cancel)
        give = button("Reject", kind="primary", name="data_reason_give", clicked=lambda: self._give(self.reason.text()))
        give.setAutoDefault(False)
        row.addWidget(give)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 18, 20, 16)
        column.setSpacing(12)
        column.addWidget(label(f"Reject {plural(count, 'row')}", "title"))
        column.addWidget(self.reason)
        column.addLayout(usual)
        column.addLayout(row)
        self.reason.setFocus()

    def _give(self, reason: str) -> None:
        self.given.emit(reason.strip())
        self.accept()
