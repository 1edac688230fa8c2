"""The terms of use that the rows of a training carry, shown before it starts, and the reason that is asked for."""

from __future__ import annotations

from typing import Any

from PySide6.QtWidgets import QWidget

from kdstudio.models.terms_summary import TermsSummary
from kdstudio.project import Project
from kdstudio.recipe import TrainingRecipe, validate_recipe
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.fields import Paragraph
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.wording import number

_WIDTH = 290


def summary_before(project: Project, recipe: TrainingRecipe, teacher: dict[str, Any]) -> TermsSummary:
    """What a training would learn from, by terms; for a background task."""
    from kdstudio.project.row_terms import terms_of_training

    return terms_of_training(project, recipe, teacher)


def kept_terms(project: Project, parameters: dict[str, Any], reason: str) -> dict[str, Any]:
    """What a training job's parameters keep of terms and reason; for a background task.

    Raises `BadInput` when something is restricted and no reason was given.
    """
    from kdstudio.project.row_terms import recorded_terms

    recipe = validate_recipe(parameters["recipe"], TrainingRecipe)
    summary = summary_before(project, recipe, parameters["teacher"])
    return recorded_terms(project, parameters, summary, reason)


class TermsCard(Card):
    """Hidden while nothing that applies is restricted."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Terms of use", name="train_terms", parent=parent)
        self.setFixedWidth(_WIDTH)
        self.words = label("", "warn", wrap=True, name="train_terms_words", selectable=True)
        self.reason = Paragraph(3)
        self.reason.setObjectName("train_terms_reason")
        self.reason.setAccessibleName("Why you may train on these rows")
        self.reason.setPlaceholderText("Why you may train on them")
        self.note = label(
            "Read the terms. If they allow what you do, say why: it is kept with the run and on the model’s card.",
            "small",
            wrap=True,
        )
        for part in (self.words, self.reason, self.note):
            self.add(part)
        self.hide()

    def show_summary(self, summary: TermsSummary) -> None:
        """Show what is restricted, with what it says and where to read it."""
        parts = []
        for use in summary.restricted:
            link = f"\n{use.terms.link}" if use.terms.link else ""
            parts.append(f"{use.words}. {use.terms.says}{link}")
        if parts and summary.not_stated:
            parts.append(f"Of {number(summary.not_stated)} more rows nobody knows the terms.")
        self.words.setText("\n\n".join(parts))
        self.setVisible(bool(parts))

    def text(self) -> str:
        """The reason as typed; "" where none is asked for."""
        return self.reason.value() if not self.isHidden() else ""

    def ask(self) -> None:
        """Lead to the reason that is missing."""
        self.reason.setFocus()
