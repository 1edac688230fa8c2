"""What the student learns: three presets first, all objectives behind "More ways", and the forms that a choice needs.

It holds the recipe's `[[objective]]`, `[rollout]`, `[reward]` and the teacher's signals, and keeps them in agreement:
which preset they equal, which forms count, which objectives cannot be used and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QWidget

from kdstudio.catalogue.objectives import OBJECTIVES, TEACHER_SIGNALS
from kdstudio.catalogue.objectives import Signal as Needed
from kdstudio.catalogue.training import TeacherTable
from kdstudio.ui import training_choice as choice
from kdstudio.ui.forms import Form, align
from kdstudio.ui.training_presets import PRESETS, preset_of
from kdstudio.ui.training_signals import StoredSignals, captured_words
from kdstudio.ui.widgets.card import Card, line
from kdstudio.ui.widgets.fields import Switch
from kdstudio.ui.widgets.labels import label, set_role
from kdstudio.ui.widgets.objective_list import ObjectiveList
from kdstudio.ui.widgets.train_disclosure import Disclosure
from kdstudio.ui.widgets.train_own_answers import OwnAnswersCard, RewardCard
from kdstudio.ui.widgets.train_parts import Parts
from kdstudio.ui.widgets.train_presets import PresetRow

_HALF = 0.5
_FORM_WIDTH = 440
_BLIND_REWARD = "{name} cannot give this reward: it needs a teacher with weights on this machine."
_BLIND_WRITER = "{name} cannot take part in writing: that needs a teacher with weights on this machine."


class LearningCard(Card):
    """`changed` follows every edit. `rollout` and `reward` are cards of their own, for the page to place."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("What it learns", name="train_card_objective", parent=parent)
        self.situation = choice.Situation()
        self.presets = PresetRow()
        self.parts = Parts()
        self.parts.set_tables(PRESETS[1].tables())
        self.own = Switch("Also on answers that the student writes itself")
        self.own.setObjectName("train_rollout_use")
        self.more = Disclosure("More ways", name="train_more_ways")
        self.objectives: ObjectiveList | None = None
        self.signals = Form(
            TeacherTable, {"signals": "dense"}, name="train_signals", include=["signals", "top_k", "tail"]
        )
        self.rollout, self.reward = OwnAnswersCard(), RewardCard()
        self.mix = label("Your own mix", "heading", name="train_own_mix")
        self.notice = label("", "small", wrap=True, name="train_signals_notice")
        self.captured = label("", "small", wrap=True, name="train_signals_captured")
        self.stored: Mapping[int, StoredSignals] = {}
        self.fault = label("", "warn", wrap=True, name="train_objective_fault")
        self._stored_before = False
        self._settling = False
        self._build()
        self._connect()
        self.settle()

    def _build(self) -> None:
        head = QHBoxLayout()
        head.setSpacing(10)
        head.addWidget(self.more)
        words = f"all {len(OBJECTIVES)} objectives, to choose and to weigh against each other"
        head.addWidget(label(words, "small", wrap=True), 1)
        align(self.signals)
        self.signals.setMaximumWidth(_FORM_WIDTH)
        self.add(self.presets)
        self.add(self.mix)
        self.add(self.parts)
        self.body.addWidget(self.own, 0, Qt.AlignmentFlag.AlignLeft)
        self.add(self.fault)
        self.body.addLayout(head)
        self._place = self.body.count()
        self._rule = self.add(line())
        self.add(self.notice)
        self.add(self.signals)
        self.add(self.captured)

    def _connect(self) -> None:
        self.presets.picked.connect(self._pick_preset)
        self.own.clicked.connect(self._pick_own)
        self.more.toggled.connect(self._open_more)
        for part in (self.parts, self.signals, self.rollout, self.reward):
            part.changed.connect(self.settle)

    # --------------------------------------------------------------------------------------------------- the recipe
    def tables(self) -> dict[str, Any]:
        """`objective`, `rollout`, `reward` and what the recipe's `teacher` says of signals."""
        return {
            "objective": self.parts.tables(),
            "rollout": self.rollout.values(),
            "reward": self.reward.values(),
            "teacher": self.signals.values(),
        }

    def show_tables(self, tables: Mapping[str, Any], *, with_all: bool = True) -> None:
        """Show a recipe's tables, whether they can be used now or not; a mix `with_all` objectives to choose from."""
        self._settling = True
        self._stored_before = False
        self.parts.set_tables(tables["objective"])
        self.rollout.form.set_values(tables["rollout"])
        self.reward.form.set_values(tables["reward"])
        self.signals.set_values(tables["teacher"])
        self._settling = False
        self.settle()
        if with_all and not self.presets.chosen():
            self.more.setChecked(True)

    def reads_signals(self) -> bool:
        """Whether the teacher's signals are read, stored or running."""
        return bool(choice.needs_of(self.parts.names()) & TEACHER_SIGNALS)

    def obstacle(self) -> str:
        """Why a run could not start with what is chosen; "" if it could."""
        return next((said for said in self._obstacles(self.parts.names()).values() if said), self._blind_obstacle())

    # ------------------------------------------------------------------------------------------------------ choosing
    def _pick_preset(self, key: str) -> None:
        preset = next(preset for preset in PRESETS if preset.key == key)
        self._settling = True
        self.parts.set_tables(preset.tables())
        self.rollout.change(**preset.rollout)
        self._settling = False
        self.settle()

    def pick(self, key: str, ticked: bool) -> None:
        """A person ticks or unticks an objective; one that reads preferences takes the place of a preset."""
        self._settling = True
        if not ticked:
            self.parts.drop(key)
        else:
            needs = OBJECTIVES[key].needs
            if Needed.PREFERENCES in needs and self.presets.chosen():
                self.parts.set_tables([])
                if self.situation.preferences:
                    self.rollout.change(share=0.0)
            self.parts.choose(key)
            compared = choice.needs_reward(self.parts.names(), self.rollout.values())
            if compared and self.rollout.values()["samples"] < 2:
                self.rollout.change(samples=choice.GROUP_OF_ANSWERS)
            if all(Needed.ROLLOUTS in OBJECTIVES[chosen].needs for chosen in self.parts.names()):
                self.rollout.change(share=0.0)  # every step: none of them reads rows
        self._settling = False
        self.settle()

    def _pick_own(self, on: bool) -> None:
        self.rollout.change(**({"share": _HALF} if on else {"share": 0.0, "replay": "off"}))

    def teacher_changed(self) -> None:
        """Take out what another teacher cannot give; something stays chosen."""
        left = [table for table in self.parts.tables() if not self._teacher_obstacle(str(table["name"]))]
        if len(left) < len(self.parts.names()):
            self.parts.set_tables(left)
        if not self.parts.names():
            self._pick_preset(PRESETS[0].key)
        self.settle()

    def _open_more(self, opened: bool) -> None:
        if self.objectives is None and opened:
            self.objectives = ObjectiveList(self)
            self.objectives.picked.connect(self.pick)
            self.body.insertWidget(self._place, self.objectives)
        if self.objectives is not None:
            self.objectives.setVisible(opened)
        self.settle()
        if opened and self.objectives is not None:
            self.objectives.search.setFocus()

    # ------------------------------------------------------------------------------------------------------ agreement
    def set_situation(self, situation: choice.Situation) -> None:
        """Another teacher, or another number of preferences."""
        self.situation = situation
        self.settle()

    def set_stored(self, stored: Mapping[int, StoredSignals]) -> None:
        """What is stored of the teacher's signals, by top k."""
        if stored != self.stored:
            self.stored = stored
            self.settle()

    def settle(self) -> None:
        """Bring everything into agreement with what is chosen, then say that it changed."""
        if self._settling:
            return
        self._settling = True
        keys, rollout = self.parts.names(), self.rollout.values()
        needs, own = choice.needs_of(keys), choice.uses_own_answers(keys, rollout)
        self._settle_signals(choice.why_running(keys, rollout, self.reward.values()), bool(needs & TEACHER_SIGNALS))
        self.presets.choose(preset_of(self.parts.tables(), rollout))
        mixed = not self.presets.chosen()
        self.mix.setVisible(mixed)
        self.parts.setVisible(bool(keys) and (mixed or self.more.isChecked()))
        self.own.setVisible((mixed or self.more.isChecked()) and Needed.ROLLOUTS not in needs)
        self.own.setChecked(own)
        self.rollout.setVisible(own)
        self.rollout.settle(always=Needed.ROLLOUTS in needs)
        self.reward.setVisible(choice.needs_reward(keys, rollout))
        self.reward.settle(self._blind_obstacle())
        self._settle_obstacles(keys)
        self._settling = False
        self.changed.emit()

    def _settle_signals(self, why: str, read: bool) -> None:
        """A teacher that must run is set to run, and said to; the person's own choice comes back afterwards."""
        stored = self.signals.values()["signals"] == "stored"
        if why and stored:
            self._stored_before = True
            self.signals.set_values({**self.signals.values(), "signals": "dense"})
        elif not why and self._stored_before:
            self._stored_before = False
            self.signals.set_values({**self.signals.values(), "signals": "stored"})
        self.signals.fields["signals"].setEnabled(not why)
        for name in ("top_k", "tail"):
            self.signals.set_field_visible(name, self.signals.values()["signals"] == "stored")
        shown = bool(why) or read
        for part in (self.signals, self.captured, self._rule):
            part.setVisible(shown)
        words, enough = captured_words(self.signals.values(), self.stored)
        self.captured.setText(words)
        set_role(self.captured, role="small" if enough else "warn")
        self.notice.setText(f"{why}: its signals are dense." if why else "")
        self.notice.setVisible(bool(why))

    def _settle_obstacles(self, keys: list[str]) -> None:
        chosen = self._obstacles(keys)
        for part in self.parts.parts:
            part.forbid(chosen[part.key])
        nothing = "" if keys else "Nothing is chosen: tick at least one objective."
        hidden = "" if self.parts.isVisibleTo(self) else self.obstacle()
        self.fault.setText(nothing or hidden)
        self.fault.setVisible(bool(self.fault.text()))
        self.presets.forbid({preset.key: self._teacher_obstacle(preset.objective) for preset in PRESETS})
        if self.objectives is not None and self.more.isChecked():
            self.objectives.show_state(keys, self._obstacles(OBJECTIVES.keys()))

    def _obstacles(self, keys: Iterable[str]) -> dict[str, str]:
        """Key -> why it cannot be used beside what is chosen. A preset alone is no hindrance: it gives way."""
        beside = [] if self.presets.chosen() else self.parts.names()
        own = self.rollout.values()["share"] > 0 or self.rollout.values()["replay"] != "off"
        now = replace(self.situation, own_answers=own)
        return {key: choice.obstacle(OBJECTIVES[key], beside, now) for key in keys}

    def _teacher_obstacle(self, key: str) -> str:
        situation = choice.Situation(self.situation.teacher, self.situation.blind)
        return choice.obstacle(OBJECTIVES[key], (), situation)

    def _blind_obstacle(self) -> str:
        keys, rollout = self.parts.names(), self.rollout.values()
        if not self.situation.blind:
            return ""
        if choice.needs_reward(keys, rollout) and self.reward.values()["kind"] in choice.TEACHER_REWARDS:
            return _BLIND_REWARD.format(name=self.situation.teacher)
        if choice.uses_own_answers(keys, rollout) and rollout["source"] != "student":
            return _BLIND_WRITER.format(name=self.situation.teacher)
        return ""
