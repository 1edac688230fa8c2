"""Changing what a teacher's terms are, what it costs, where a run must stop, and its key."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFormLayout, QHBoxLayout, QLineEdit, QWidget

from kdstudio import secrets
from kdstudio.errors import KnownError
from kdstudio.models.terms import FREE, MAXIMUM_STAMP_CHARACTERS, RESTRICTED, TERMS, single, terms_of
from kdstudio.models.terms_stamp import OPTION, own_terms, terms_stamp
from kdstudio.ui.job_bridge import background
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.data_dialog import Sheet
from kdstudio.ui.widgets.fields import Choice
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.teacher_price import PriceFields
from kdstudio.ui.widgets.teacher_words import ENDPOINTS

if TYPE_CHECKING:
    from kdstudio.project.teachers import StoredTeacher

_STATED, _FREE, _RESTRICTED = "stated", "free", "restricted"


class TermsField(QWidget):
    """`changed`: another choice or other words. What is stated, a licence that is known, or a person's own words."""

    changed = Signal()

    def __init__(self, stored: StoredTeacher) -> None:
        super().__init__()
        bare = {key: value for key, value in stored.spec.options.items() if key != OPTION}
        self._stated = terms_stamp(replace(stored.spec, options=bare), stored.capabilities)
        words = {
            _STATED: f"As stated: {terms_of(self._stated).name}" if self._stated else "Nothing is stated",
            _FREE: "My own words: training is allowed",
            _RESTRICTED: "My own words: there are restrictions",
            **{key: terms.name for key, terms in TERMS.items()},
        }
        self.choice = Choice(tuple(words), words)
        self.choice.setObjectName("teacher_terms_choice")
        self.choice.setAccessibleName("Terms of use")
        self.words = QLineEdit()
        self.words.setObjectName("teacher_terms_words")
        self.words.setAccessibleName("The terms in your words")
        self.words.setPlaceholderText("for example: agreed with the maker on 3 May")
        self.words.setMaxLength(MAXIMUM_STAMP_CHARACTERS - len(RESTRICTED))
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self.choice, 1)
        row.addWidget(self.words, 1)
        self.set_stamp(str(stored.spec.options.get(OPTION) or ""))
        self.choice.changed.connect(self._chosen)
        self.words.textChanged.connect(self.changed)
        self._chosen()

    def set_stamp(self, stamp: str) -> None:
        """Show a person's earlier word; "" for none."""
        for key, mark in ((_FREE, FREE), (_RESTRICTED, RESTRICTED)):
            if stamp.startswith(mark):
                self.choice.set_value(key)
                self.words.setText(stamp.removeprefix(mark))
                return
        if stamp and stamp not in TERMS:
            self.choice.addItem(terms_of(stamp).name, stamp)
        self.choice.set_value(stamp or _STATED)

    def _chosen(self) -> None:
        self.words.setVisible(self.choice.value() in (_FREE, _RESTRICTED))
        self.changed.emit()

    def error(self) -> str:
        """What is missing; "" when all is well."""
        own = self.choice.value() in (_FREE, _RESTRICTED)
        return "Say in a few words what was agreed." if own and not single(self.words.text()) else ""

    def stamp(self) -> str:
        """For `Teachers.set_terms`: "" goes back to what is stated."""
        chosen = self.choice.value()
        if chosen in (_FREE, _RESTRICTED):
            return own_terms(self.words.text(), free=chosen == _FREE)
        return "" if chosen == _STATED else chosen

    def says(self) -> str:
        """What the chosen terms say."""
        return terms_of(self.stamp() or self._stated).says


class TermsSheet(Sheet):
    """`changed(stamp, options)`: keep these; a key that was typed is kept already."""

    changed = Signal(str, dict)

    def __init__(self, session: Session, stored: StoredTeacher, parent: QWidget | None = None) -> None:
        super().__init__(session, "teacher_terms_sheet", stored.spec.name, "", parent)
        self._stored = stored
        paid = stored.spec.kind in ENDPOINTS
        self.terms = TermsField(stored)
        self.says = label("", "small", wrap=True, name="teacher_terms_says")
        self.fault = label("", "error", wrap=True, name="teacher_terms_fault")
        self.price = PriceFields("teacher_terms_price")
        self.price.set_options(stored.spec.options)
        self.key = QLineEdit()
        self.key.setObjectName("teacher_terms_key")
        self.key.setAccessibleName("Key")
        self.key.setEchoMode(QLineEdit.EchoMode.Password)
        self.key.setPlaceholderText("leave it empty to keep the one that is known")
        self._build(paid=paid)
        self.terms.changed.connect(self._show_says)
        self._show_says()
        self.resize(600, self.sizeHint().height())

    def _build(self, *, paid: bool) -> None:
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(8)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Terms", self.terms)
        form.addRow("", self.says)
        form.addRow("", self.fault)
        self.fault.hide()
        if paid:
            form.addRow("Price", self.price)
            words = "For a million tokens; “list” takes the price list’s. A run that reaches the ceiling stops."
            form.addRow("", label(words, "small", wrap=True))
        if paid and self._stored.spec.key_name:
            form.addRow("Key", self.key)
            form.addRow("", label(f"Kept as {self._stored.spec.key_name}, never in the project.", "small", wrap=True))
        self.body.addLayout(form)
        self.body.addStretch(1)
        self.add_cancel()
        self.keep = self.add_button(
            button("Keep", kind="primary", name="teacher_terms_keep", clicked=self._keep), default=True
        )

    def _show_says(self) -> None:
        self.says.setText(f"{self.terms.says()} Rows that are there keep what they were made under.")
        self.fault.hide()
        self.grow()

    def _keep(self) -> None:
        wrong = self.terms.error()
        self.fault.setText(wrong)
        self.fault.setVisible(bool(wrong))
        if self.price.error() or wrong:
            self.grow()
            return
        key = self.key.text().strip()
        if not key:
            self._kept("")
            return
        self.keep.setEnabled(False)
        task = background(secrets.store, self._stored.spec.key_name, key, "keyring", owner=self)
        task.done.connect(self._kept)
        task.failed.connect(self._not_kept)

    def _kept(self, place: str) -> None:
        if place:
            where = "in the system’s keyring" if place == "keyring" else "for this session only: there is no keyring"
            self.session.say(f"The key is kept {where}", "good" if place == "keyring" else "warn")
        options: dict[str, Any] = self.price.options() if self._stored.spec.kind in ENDPOINTS else {}
        self.changed.emit(self.terms.stamp(), options)
        self.accept()

    def _not_kept(self, error: KnownError) -> None:
        self.keep.setEnabled(True)
        self.show_error(error)

    def done(self, code: int) -> None:
        """Forget what stands in the field."""
        self.key.clear()
        super().done(code)
