"""The student's own answers, and what they are worth: the recipe's `[rollout]` and `[reward]` as forms."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QWidget

from kdstudio.catalogue.training import RewardTable, RolloutTable
from kdstudio.project import Run
from kdstudio.ui.forms import Form, align
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.fields import ElidedCombo, Paragraph
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.wording import ago

_ROLLOUT_LABELS = {
    "share": "Share of steps",
    "source": "Written by",
    "samples": "Answers a prompt",
    "max_tokens": "Longest, tokens",
    "top_p": "Top-p",
    "teacher_share": "Teacher’s share",
    "keep_top": "Keep among top",
    "replay": "Use again",
    "capacity": "Answers kept",
    "steps_each": "Steps a round",
}
_REWARD_LABELS = {
    "kind": "Worth by",
    "run": "Reward model",
    "target_tokens": "Best length",
}
_READ_BY = {"run": "reward_model", "rubric": "judge", "target_tokens": "length", "pattern": "pattern"}


class OwnAnswersCard(Card):
    """`[rollout]`: how often the student writes answers itself, and how."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Own answers", name="train_card_rollout", parent=parent)
        self.note = label("", "small", wrap=True, name="train_rollout_note")
        self.form = Form(
            RolloutTable,
            name="train_rollout",
            labels=_ROLLOUT_LABELS,
            advanced=("top_p", "replay", "capacity", "steps_each"),
        )
        align(self.form)
        self.add(self.note)
        self.add(self.form)
        self.form.changed.connect(self.changed)

    def values(self) -> dict[str, Any]:
        """The table."""
        return self.form.values()

    def change(self, **values: Any) -> None:
        """Set some fields and leave the others as they are."""
        self.form.set_values({**self.form.values(), **values})

    def settle(self, *, always: bool) -> None:
        """Show the fields that count. `always`: an objective learns from own answers alone, so that 0 means all."""
        values = self.values()
        self.form.set_field_visible("teacher_share", values["source"] == "teacher_mixed")
        self.form.set_field_visible("keep_top", values["source"] == "interleaved")
        self.form.set_field_visible("capacity", values["replay"] != "off")
        words = "The student answers training prompts while it trains; that takes most of the time."
        whole = " A share of 0 means every step, as an objective here learns from nothing else."
        self.note.setText(words + (whole if always and not values["share"] else ""))


class RewardCard(Card):
    """`[reward]`: what an own answer is worth."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Reward", name="train_card_reward", parent=parent)
        self.runs = RewardRuns()
        self.form = Form(
            RewardTable,
            name="train_reward",
            labels=_REWARD_LABELS,
            editors={"run": lambda: self.runs, "rubric": Paragraph},
        )
        align(self.form)
        self.obstacle = label("", "warn", wrap=True, name="train_reward_obstacle")
        self.add(self.form)
        self.add(self.obstacle)
        self.form.changed.connect(self.changed)

    def values(self) -> dict[str, Any]:
        """The table."""
        return self.form.values()

    def settle(self, obstacle: str) -> None:
        """Show the fields that count, and why this reward could not be given."""
        kind = self.values()["kind"]
        for name, reader in _READ_BY.items():
            self.form.set_field_visible(name, kind == reader)
        self.obstacle.setText(obstacle)
        self.obstacle.setVisible(bool(obstacle))


class RewardRuns(ElidedCombo):
    """A run that trained a reward model, by id."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.offer([])
        self.currentIndexChanged.connect(self.changed)

    def offer(self, runs: list[Run]) -> None:
        """List those of the project's training runs that made a reward model; keeps what is chosen."""
        chosen = self.value()
        made = [run for run in runs if _makes_reward_model(run)]
        self.blockSignals(True)
        self.clear()
        self.addItem("None chosen" if made else "None trained yet", "")
        for run in made:
            self.addItem(f"{run.title} · {ago(run.finished or run.created)}", run.id)
        self.set_value(chosen)
        self.blockSignals(False)

    def value(self) -> str:
        """The chosen run's id, or ""."""
        return str(self.currentData() or "")

    def set_value(self, value: Any) -> None:
        """Choose by id; a run that is not there is listed by its id."""
        if self.findData(str(value)) < 0:
            self.addItem(f"{value} (not in this project)", str(value))
        self.setCurrentIndex(self.findData(str(value)))


def _makes_reward_model(run: Run) -> bool:
    tables = run.parameters.get("recipe", {}).get("objective", ())
    return run.state in ("finished", "stopped") and any(table.get("name") == "reward_model" for table in tables)
