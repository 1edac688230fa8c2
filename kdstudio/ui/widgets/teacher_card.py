"""A teacher as a card: what it is, what it can do in words, a test with its outcome, and a way to remove it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from kdstudio.errors import KnownError
from kdstudio.ui.icons import pixmap
from kdstudio.ui.session import Session
from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.buttons import button, tool_button
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import ElidedLabel, label
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.teacher_probe import Probe
from kdstudio.ui.widgets.teacher_words import KIND_ICONS, KIND_WORDS, Ability, abilities_of, facts_of, probe_words

if TYPE_CHECKING:
    from kdstudio.project.teachers import StoredTeacher

_MARKS = {"good": ("check", "good"), "warn": ("alert-triangle", "warn"), "bad": ("circle-alert", "bad")}


class AbilityLine(QWidget):
    """A mark and a few words; the longer explanation is the tool tip."""

    def __init__(self, ability: Ability, name: str) -> None:
        super().__init__()
        self._ability = ability
        self._mark = QLabel()
        words = label(ability.words, "body" if ability.mark != "idle" else "dim", wrap=True, name=name)
        self.setToolTip(ability.more)
        self.setAccessibleName(ability.words)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self._mark, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(words, 1)
        theme().changed.connect(self._draw)
        self._draw()

    def _draw(self) -> None:
        name, token = _MARKS.get(self._ability.mark, ("info", "dim"))
        self._mark.setPixmap(pixmap(name, token, 15, self.devicePixelRatioF()))


class TeacherCard(Card):
    """`removed(name)`: the person confirmed; `tested(name, result)`: a test succeeded."""

    removed = Signal(str)
    tested = Signal(str, dict)

    def __init__(self, session: Session, stored: StoredTeacher, *, file_there: bool) -> None:
        super().__init__("", name="teacher_card")
        self.stored = stored
        self.setAccessibleName(f"Teacher {stored.spec.name}")
        self._mark = QLabel()
        self._probe = Probe(session, self)
        self._probe.answered.connect(self._answered)
        self._probe.failed.connect(self._failed)
        self.test = button("Test", icon="play", name="teacher_test", tip="Ask it to say hello", clicked=self._test)
        self.test.setAccessibleName(f"Test {stored.spec.name}")
        self.remove = tool_button(
            "trash", f"Remove {stored.spec.name}", name="teacher_remove", clicked=lambda: self._ask(asking=True)
        )
        self.outcome = label("", "dim", wrap=True, name="teacher_outcome", selectable=True)
        self.pill = Pill("")
        self._build(file_there=file_there)
        theme().changed.connect(self._draw)
        self._draw()
        self._show_last(stored.capabilities.get("probe"))

    def _build(self, *, file_there: bool) -> None:
        spec = self.stored.spec
        head = QHBoxLayout()
        head.setSpacing(10)
        title = ElidedLabel(spec.name, "heading")
        title.setObjectName("teacher_name")
        head.addWidget(self._mark)
        head.addWidget(title, 1)
        head.addWidget(self.test)
        head.addWidget(self.remove)
        self.body.addLayout(head)
        facts = facts_of(self.stored)
        self.add(label(f"{KIND_WORDS[spec.kind]}{' · ' + facts if facts else ''}", "small", wrap=True))
        lines = QVBoxLayout()
        lines.setSpacing(4)
        for place, ability in enumerate(abilities_of(self.stored, file_there=file_there)):
            lines.addWidget(AbilityLine(ability, f"teacher_ability_{place}"))
        self.body.addLayout(lines)
        if spec.path:
            where = ElidedLabel(spec.path, "small", mode=Qt.TextElideMode.ElideMiddle)
            self.add(where)
        self._result = QWidget()
        row = QHBoxLayout(self._result)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self.pill, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(self.outcome, 1)
        self.add(self._result)
        self._result.hide()
        self.add(self._confirmation())
        self.test.setEnabled(file_there and spec.kind != "huggingface")
        if spec.kind == "huggingface":
            self.test.setToolTip("A folder cannot be asked")

    def _confirmation(self) -> QWidget:
        self._question = QWidget()
        row = QHBoxLayout(self._question)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(label("Remove this teacher? Its file and the rows it made stay.", wrap=True), 1)
        row.addWidget(button("Keep", name="teacher_keep", clicked=lambda: self._ask(asking=False)))
        self.confirm = button(
            "Remove", kind="danger", name="teacher_confirm", clicked=lambda: self.removed.emit(self.stored.spec.name)
        )
        row.addWidget(self.confirm)
        self._question.hide()
        return self._question

    def _ask(self, *, asking: bool) -> None:
        self._question.setVisible(asking)
        if asking:
            self.confirm.setFocus()

    def _draw(self) -> None:
        self._mark.setPixmap(pixmap(KIND_ICONS[self.stored.spec.kind], "accent", 22, self.devicePixelRatioF()))

    # ------------------------------------------------------------------------------------------------- testing
    def _test(self) -> None:
        self.test.setEnabled(False)
        self.test.setText("Testing…")
        self._show("testing", "busy", "Opening it and asking it to say hello.")
        self._probe.start(self.stored.spec)

    def _answered(self, result: dict[str, Any]) -> None:
        self._rest()
        self._show_last(result)
        self.tested.emit(self.stored.spec.name, result)

    def _failed(self, error: KnownError) -> None:
        self._rest()
        self._show("failed", "bad", "\n".join(part for part in (error.title, error.detail, error.hint) if part))

    def _rest(self) -> None:
        self.test.setEnabled(True)
        self.test.setText("Test")

    def _show_last(self, result: dict[str, Any] | None) -> None:
        if result:
            self._show("answers", "good", probe_words(result))

    def _show(self, word: str, tone: Any, words: str) -> None:
        self.pill.set_word(word, tone)
        self.outcome.setText(words)
        self._result.show()
