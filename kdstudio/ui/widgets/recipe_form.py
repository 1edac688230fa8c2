"""A recipe about to be run: who speaks, which rows, its texts and figures, or the whole file as text."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import (
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QScrollArea,
    QSpinBox,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from kdstudio.errors import BadInput, KnownError
from kdstudio.recipe import ElicitationRecipe
from kdstudio.registry import Parameter
from kdstudio.ui.recipe_offer import Offer, needs_of, questions_words
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.data_generate_settings import GenerateSettings, align_captions
from kdstudio.ui.widgets.fields import Choice, WholeNumber
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.recipe_speakers import Speakers
from kdstudio.ui.widgets.recipe_text import RecipeText
from kdstudio.ui.widgets.train_disclosure import Disclosure
from kdstudio.ui.widgets.wording import told

_SIDE_WIDTH = 262
_STATUSES = {"any": "All but rejected", "accepted": "Accepted", "pending": "Pending"}
_SOURCE_WORDS = {"prompts": "Prompts", "responses": "Responses", "documents": "Documents", "nothing": "Rows"}


class RecipeForm(QWidget):
    """`changed()` follows every edit. `recipe()`, `rows()` and `speakers` are what a run is made of."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.chosen: ElicitationRecipe | None = None
        self.settings: GenerateSettings | None = None
        self.speakers = Speakers()
        self.status = Choice(tuple(_STATUSES), _STATUSES)
        self.tag = Choice(("",), {"": "Any tag"})
        whole = Parameter("limit", "int", 0, "At most this many rows; 0 means all.", 0, None)
        self.limit: QSpinBox = WholeNumber(whole)
        self.text = RecipeText()
        self.purpose = label("", "small", wrap=True, name="generate_purpose")
        self.methods = label("", "small", wrap=True, name="generate_methods", selectable=True)
        self.needs = label("", "warn", wrap=True, name="generate_needs")
        self.not_for = label("", "warn", wrap=True, name="generate_not_for")
        self.count = label("", "dim", wrap=True, name="generate_count")
        self.as_text = Disclosure("Edit the recipe as text", name="generate_as_text")
        self._build()
        self.as_text.toggled.connect(self._turn)
        self.text.changed.connect(self.changed)
        self.speakers.changed.connect(self.changed)
        for one in (self.status, self.tag):
            one.changed.connect(self.changed)
        self.limit.valueChanged.connect(lambda _value: self.changed.emit())

    # ------------------------------------------------------------------------------------------------ building
    def _build(self) -> None:
        for widget, name, words in (
            (self.status, "generate_status", "Status of the rows to begin with"),
            (self.tag, "generate_tag", "Tag of the rows to begin with"),
            (self.limit, "generate_limit", "Most rows to begin with"),
        ):
            widget.setObjectName(name)
            widget.setAccessibleName(words)
            if isinstance(widget, Choice):
                widget.setSizeAdjustPolicy(Choice.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
                widget.setMinimumContentsLength(8)
        self.limit.setToolTip("At most this many rows; 0 means all.")
        self.limit.setSpecialValueText("All")
        inner = QWidget()
        inner.setProperty("role", "scrolled")
        self._column = QVBoxLayout(inner)
        self._column.setContentsMargins(0, 0, 8, 0)
        self._column.setSpacing(10)
        self._column.addWidget(self._who_card())
        self._how = Card(margin=12)
        self._column.addWidget(self._how)
        self._column.addStretch(1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(inner)
        self._area = area
        self.stack = QStackedWidget()
        self.stack.addWidget(area)
        self.stack.addWidget(self.text)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(14)
        row.addWidget(self.stack, 1)
        row.addLayout(self._side())

    def _who_card(self) -> Card:
        card = Card(margin=12)
        card.add(self.speakers)
        self._rows = QFormLayout()
        self._rows.setHorizontalSpacing(14)
        self._rows.setVerticalSpacing(8)
        self._rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._which = QWidget()
        which = QHBoxLayout(self._which)
        which.setContentsMargins(0, 0, 0, 0)
        which.setSpacing(8)
        which.addWidget(self.status, 1)
        which.addWidget(self.tag, 1)
        self._source = label("Prompts")
        self._rows.addRow(self._source, self._which)
        self._rows.addRow(label("At most"), self.limit)
        card.body.addLayout(self._rows)
        return card

    def _side(self) -> QVBoxLayout:
        card = Card("Before you start", name="generate_side")
        card.setFixedWidth(_SIDE_WIDTH)
        for part in (self.not_for, self.purpose, self.needs, self.count, self.methods):
            card.add(part)
        side = QVBoxLayout()
        side.addWidget(card)
        side.addWidget(self.as_text, 0, Qt.AlignmentFlag.AlignLeft)
        side.addStretch(1)
        return side

    # ------------------------------------------------------------------------------------------------- showing
    def show_recipe(self, recipe: ElicitationRecipe, offer: Offer) -> None:
        """Fill everything from a recipe and the project."""
        self.chosen = recipe
        head = recipe.recipe
        self.purpose.setText(head.purpose)
        self.not_for.setText(f"Not for: {head.not_for}" if head.not_for else "")
        self.methods.setText("\n".join((", ".join(head.methods), *head.references)).strip())
        self.needs.setText("\n".join(need.words.capitalize() for need in needs_of(recipe, offer) if not need.met))
        for part in (self.not_for, self.methods, self.needs):
            part.setVisible(bool(part.text()))
        source = recipe.input.source
        self._source.setText(_SOURCE_WORDS[source])
        self._rows.setRowVisible(self._which, source in ("prompts", "responses"))
        self._offer_tags(offer.tags)
        self.speakers.offer(recipe, offer.teachers, offer.tags)
        self.text.show_text(recipe)
        self._show_settings(recipe)
        self.as_text.setChecked(False)
        self._area.verticalScrollBar().setValue(0)
        self.changed.emit()

    def _offer_tags(self, tags: tuple[str, ...]) -> None:
        before = self.tag.value()
        self.tag.blockSignals(True)
        while self.tag.count() > 1:
            self.tag.removeItem(1)
        for tag in tags:
            self.tag.addItem(tag, tag)
        self.tag.set_value(before)
        self.tag.blockSignals(False)

    def _show_settings(self, recipe: ElicitationRecipe) -> None:
        if self.settings is not None:
            self._how.body.removeWidget(self.settings)
            self.settings.hide()
            self.settings.deleteLater()
        self.settings = GenerateSettings(recipe)
        self.settings.changed.connect(self.changed)
        self._how.add(self.settings)
        align_captions(self)

    def _turn(self, opened: bool) -> None:
        """Carry over what was edited; a text that is no recipe stays open with its fault."""
        try:
            recipe = self._from(self.stack.currentWidget() is self.text)
        except KnownError as error:
            self.as_text.blockSignals(True)
            self.as_text.setChecked(self.stack.currentWidget() is self.text)
            self.as_text.blockSignals(False)
            self.say(told(error), fault=True)
            return
        if opened:
            self.text.show_text(recipe)
        elif recipe != self.chosen:
            self.chosen = recipe
            self._show_settings(recipe)
        self.stack.setCurrentIndex(1 if opened else 0)
        QTimer.singleShot(0, self, self.changed.emit)

    # ------------------------------------------------------------------------------------------------ what it says
    def recipe(self) -> ElicitationRecipe:
        """The recipe as it stands now. Raises `BadInput` with the line at fault."""
        return self._from(self.stack.currentWidget() is self.text)

    def _from(self, text: bool) -> ElicitationRecipe:
        if text:
            return self.text.recipe()
        if self.settings is None:
            raise BadInput("No recipe is chosen", "", "Choose one in the gallery.")
        if faults := self.settings.errors():
            name, said = next(iter(faults.items()))
            raise BadInput("A setting cannot be used", f"{name.replace('_', ' ').capitalize()}: {said}.", "Change it.")
        return self.settings.recipe()

    def rows(self) -> dict[str, Any]:
        """`status`, `tag` and `limit` of the job."""
        source = self.chosen.input.source if self.chosen is not None else "prompts"
        narrowed = source in ("prompts", "responses")
        return {
            "status": self.status.value() if narrowed else "any",
            "tag": self.tag.value() if narrowed else "",
            "limit": self.limit.value(),
        }

    def longest(self) -> int:
        """The most tokens of the answers to one row; 0 where it is not known."""
        return self.settings.longest() if self.settings is not None and self.stack.currentIndex() == 0 else 0

    def cost(self) -> str:
        """`2 questions a row`."""
        return questions_words(self.chosen) if self.chosen is not None else ""

    def say(self, words: str, *, fault: bool = False) -> None:
        """What would be asked, or what is in the way."""
        from kdstudio.ui.widgets.labels import set_role

        self.count.setText(words)
        set_role(self.count, role="error" if fault else "dim")
