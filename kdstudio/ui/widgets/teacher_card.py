"""A teacher as a card: what it is and can be used for, its speed and cost, a test, a trial, and a way to remove it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QWidget

from kdstudio.errors import KnownError
from kdstudio.ui.icons import pixmap, set_icon
from kdstudio.ui.session import Session
from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.buttons import button, tool_button
from kdstudio.ui.widgets.card import Card, line
from kdstudio.ui.widgets.labels import ElidedLabel, label
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.teacher_probe import Probe
from kdstudio.ui.widgets.teacher_try import TryPanel
from kdstudio.ui.widgets.teacher_words import (
    ENDPOINTS,
    KIND_ICONS,
    KIND_WORDS,
    Ability,
    abilities_of,
    answer_words,
    facts_of,
    money_words,
    speed_words,
)
from kdstudio.ui.widgets.wording import short_path

if TYPE_CHECKING:
    from kdstudio.project.teachers import StoredTeacher

_MARKS = {"good": ("check", "good"), "warn": ("alert-triangle", "warn"), "bad": ("circle-alert", "bad")}
_CANNOT = ("minus", "dim")


class AbilityLine(QWidget):
    """A mark and a few words; the longer explanation is the tool tip."""

    def __init__(self, ability: Ability, name: str) -> None:
        super().__init__()
        self._ability = ability
        self._mark = QLabel()
        words = label(ability.words, "body" if ability.mark != "idle" else "dim", wrap=True, name=name)
        self.setToolTip(ability.more)
        self.setAccessibleName(ability.words)
        self.setAccessibleDescription(ability.more)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self._mark, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(words, 1, Qt.AlignmentFlag.AlignTop)
        theme().changed.connect(self._draw)
        self._draw()

    def _draw(self) -> None:
        name, token = _MARKS.get(self._ability.mark, _CANNOT)
        self._mark.setPixmap(pixmap(name, token, 15, self.devicePixelRatioF()))


class TeacherCard(Card):
    """`removed(name)`: the person confirmed; `tested(name, result)`: a test succeeded.

    `card_wanted(path, name)`: show what its file says; `terms_wanted(name)`: change terms, price or key;
    `trying(name)`: its trial was opened.
    """

    removed = Signal(str)
    tested = Signal(str, dict)
    card_wanted = Signal(object, str)
    terms_wanted = Signal(str)
    trying = Signal(str)

    def __init__(self, session: Session, stored: StoredTeacher, *, file_there: bool) -> None:
        super().__init__("", name="teacher_card")
        self.stored = stored
        self.setAccessibleName(f"Teacher {stored.spec.name}")
        self._session = session
        self._mark = QLabel()
        self._probe = Probe(session, self)
        self._probe.answered.connect(self._answered)
        self._probe.failed.connect(self._failed)
        self.test = button("Test", icon="gauge", name="teacher_test", tip="Ask it to say hello", clicked=self._test)
        self.test.setAccessibleName(f"Test {stored.spec.name}")
        self.try_it = button("Try it", icon="play", name="teacher_try", clicked=self.toggle_try)
        self.try_it.setAccessibleName(f"Try {stored.spec.name}")
        self.remove = tool_button(
            "trash", f"Remove {stored.spec.name}", name="teacher_remove", clicked=lambda: self._ask(asking=True)
        )
        self.money = label("", "small", wrap=True, name="teacher_money")
        self.speed = label("", "small", name="teacher_speed")
        self.outcome = label("", "dim", wrap=True, name="teacher_outcome", selectable=True)
        self.pill = Pill("")
        self.panel: TryPanel | None = None
        self._build(file_there=file_there)
        theme().changed.connect(self._draw)
        self._draw()
        self.show_spent(0.0)
        self._show_last(stored.capabilities.get("probe"))

    # ------------------------------------------------------------------------------------------------ building
    def _build(self, *, file_there: bool) -> None:
        spec = self.stored.spec
        head = QHBoxLayout()
        head.setSpacing(8)
        title = ElidedLabel(spec.name, "heading")
        title.setObjectName("teacher_name")
        head.addWidget(self._mark)
        head.addWidget(title, 1)
        for part in (self.try_it, self.test, self.remove):
            head.addWidget(part)
        self.body.addLayout(head)
        facts = facts_of(self.stored)
        self.add(label(f"{KIND_WORDS[spec.kind]}{' · ' + facts if facts else ''}", "small", wrap=True))
        self.body.addLayout(self._abilities(file_there=file_there))
        if spec.path:
            self.add(ElidedLabel(short_path(spec.path), "small", mode=Qt.TextElideMode.ElideMiddle))
        self.add(self.money)
        self.body.addLayout(self._foot(file_there=file_there))
        self._result = QWidget()
        row = QHBoxLayout(self._result)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self.pill, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(self.outcome, 1)
        self.add(self._result)
        self._result.hide()
        self.add(self._confirmation())
        self.test.setEnabled(file_there)
        self.try_it.setEnabled(file_there)

    def _abilities(self, *, file_there: bool) -> QGridLayout:
        """Two columns; what is said of the terms is long and has a line of its own."""
        grid = QGridLayout()
        grid.setHorizontalSpacing(14)
        grid.setVerticalSpacing(5)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(1, 1)
        abilities = abilities_of(self.stored, file_there=file_there)
        *short, last = abilities
        for place, ability in enumerate(short):
            grid.addWidget(AbilityLine(ability, f"teacher_ability_{place}"), place // 2, place % 2)
        grid.addWidget(AbilityLine(last, f"teacher_ability_{len(short)}"), (len(short) + 1) // 2, 0, 1, 2)
        return grid

    def _foot(self, *, file_there: bool) -> QHBoxLayout:
        """Ways to its file's card and to its terms, and how fast it was."""
        spec, row = self.stored.spec, QHBoxLayout()
        row.setSpacing(12)
        if spec.kind in ("gguf", "huggingface"):
            about = button("Model card", kind="link", name="teacher_card_open", clicked=self._want_card)
            about.setAccessibleName(f"Model card of {spec.name}")
            about.setEnabled(file_there)
            row.addWidget(about)
        words = "Terms, price and key" if spec.kind in ENDPOINTS else "Terms"
        terms = button(words, kind="link", name="teacher_terms", clicked=lambda: self.terms_wanted.emit(spec.name))
        terms.setAccessibleName(f"{words} of {spec.name}")
        row.addWidget(terms)
        row.addStretch(1)
        row.addWidget(self.speed)
        return row

    def _want_card(self) -> None:
        from pathlib import Path

        self.card_wanted.emit(Path(self.stored.spec.path), self.stored.spec.name)

    def _confirmation(self) -> QWidget:
        self._question = QWidget()
        row = QHBoxLayout(self._question)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        self.warning = label("", wrap=True, name="teacher_remove_words")
        row.addWidget(self.warning, 1)
        row.addWidget(button("Keep", name="teacher_keep", clicked=lambda: self._ask(asking=False)))
        self.confirm = button(
            "Remove", kind="danger", name="teacher_confirm", clicked=lambda: self.removed.emit(self.stored.spec.name)
        )
        row.addWidget(self.confirm)
        self._question.hide()
        return self._question

    def _ask(self, *, asking: bool) -> None:
        """Ask before removing it; while a job asks it, say so instead."""
        self._question.setVisible(asking)
        if asking:
            in_use = in_use_words(self._session, self.stored.spec.name)
            self.warning.setText(in_use or "Remove this teacher? Its file and the rows it made stay.")
            self.confirm.setEnabled(not in_use)
            if not in_use:
                self.confirm.setFocus()

    def _draw(self) -> None:
        self._mark.setPixmap(pixmap(KIND_ICONS[self.stored.spec.kind], "accent", 22, self.devicePixelRatioF()))

    # ------------------------------------------------------------------------------------------------- figures
    def show_spent(self, amount: float) -> None:
        """What it has cost this project so far, in US dollars."""
        words = money_words(self.stored, amount)
        self.money.setText(words)
        self.money.setVisible(bool(words))

    # -------------------------------------------------------------------------------------------------- trying
    def toggle_try(self) -> None:
        """Open the trial, or close it and let the teacher go."""
        if self.panel is not None:
            self.end_try()
            return
        project = self._session.project
        panel = TryPanel(self.stored.spec, self, project=project.folder if project else None)
        panel.paid.connect(self._session.teachers_changed)
        self._hold(panel).question.setFocus()
        self.trying.emit(self.stored.spec.name)

    def take_try(self, other: TeacherCard) -> None:
        """Go on with the trial of a card whose place this one takes, if it is of the very same teacher."""
        panel = other.panel
        if panel is not None and other.stored.spec == self.stored.spec:
            other.panel = None
            panel.closed.disconnect(other.end_try)
            self._hold(panel)

    def _hold(self, panel: TryPanel) -> TryPanel:
        self.panel, self._rule = panel, line()
        panel.closed.connect(self.end_try)
        for part in (self._rule, panel):
            self.add(part)
            part.show()
        self.try_it.setText("Close")
        set_icon(self.try_it, "x", gap=4)
        return panel

    def end_try(self) -> None:
        """Close the trial; its process ends."""
        panel, self.panel = self.panel, None
        self.try_it.setText("Try it")
        set_icon(self.try_it, "play", gap=4)
        if panel is not None:
            panel.end()
            for part in (panel, self._rule):
                self.body.removeWidget(part)
                part.hide()
                part.deleteLater()

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
            self._show("answers", "good", answer_words(result))
        self.speed.setText(speed_words(result))

    def _show(self, word: str, tone: Any, words: str) -> None:
        self.pill.set_word(word, tone)
        self.outcome.setText(words)
        self._result.show()


def in_use_words(session: Session, name: str) -> str:
    """Why a teacher cannot be removed now: the job that asks it; "" when none does."""
    from kdstudio.ui.widgets.teacher_spend import teachers_of

    titles = [run.title for run in session.active_runs() if name in teachers_of(run)]
    if not titles:
        return ""
    return f"“{titles[0]}” is asking it now. Stop that job first, or wait until it ends: then remove it."
