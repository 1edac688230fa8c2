"""Rounds about to be begun: which student, on what, how often, how it is asked and trained, and when they end."""

from __future__ import annotations

from typing import Any, cast

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFormLayout, QFrame, QScrollArea, QSizePolicy, QSpinBox, QVBoxLayout, QWidget

from kdstudio.catalogue.rounds import MeasureTable, RoundElicitTable, RoundsTable, StopTable
from kdstudio.catalogue.training import OptimizerTable, RunTable, StudentTable
from kdstudio.errors import BadInput
from kdstudio.recipe import RoundsRecipe, TrainingRecipe, validate_recipe
from kdstudio.registry import Params
from kdstudio.rounds.plan import Changed
from kdstudio.ui.forms import Form
from kdstudio.ui.recipe_offer import Offer, recipes_of_rounds
from kdstudio.ui.rounds_forecast import RoundsWork
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.data_generate_settings import GenerateSettings, align_captions
from kdstudio.ui.widgets.fields import Choice
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.rounds_lines import FIGURES
from kdstudio.ui.widgets.rounds_speakers import RoundsSpeakers
from kdstudio.ui.widgets.train_disclosure import Disclosure

_FIGURES = {
    "student_nll": "Surprise at held-out answers (NLL)",
    "accuracy": "Held-out tasks solved (accuracy)",
    "exact_match": "Answers equal to the teacher’s",
    "rouge_l": "Answers like the teacher’s (ROUGE-L)",
    "forward_kl": "Divergence from the teacher (forward KL)",
    "reverse_kl": "Divergence from the teacher (reverse KL)",
    "top1_agreement": "Same first choice as the teacher",
}
"""What is watched -> its words, the usual ones first."""
_EXPLAINED = {
    "student_nll": "how surprised the student is by held-out accepted answers, in nats a token. Lower is better.",
    "accuracy": "held-out tasks whose known answer the student finds. Higher is better.",
    "exact_match": "held-out prompts that student and teacher answer with the same words. Higher is better.",
    "rouge_l": "how alike the answers of student and teacher are, from 0 to 1. Higher is better.",
    "forward_kl": "how far the student is from the teacher’s distribution, in nats a token. Lower is better.",
    "reverse_kl": "how much the student says that the teacher would not, in nats a token. Lower is better.",
    "top1_agreement": "tokens at which both think the same one likeliest. Higher is better.",
}
_STARTS = {"base": "The student it began with", "last": "The student of the round before"}
_LABELS = {
    "count": "At most rounds",
    "start": "Each round trains",
    "figure": "Watched",
    "tolerance": "May be worse by",
    "patience": "Worse rounds to end",
    "held_out": "Share held out",
    "maximum_rows": "At most held out",
    "limit": "At most rows a round",
    "max_tokens": "Longest measured",
    "epochs": "Epochs a round",
    "steps": "Steps a round",
    "rows_per_batch": "Rows a batch",
    "adapter": "Weights",
}
_TRAINING: dict[str, tuple[type[Params], tuple[str, ...]]] = {
    "student": (StudentTable, ("adapter", "lora_rank")),
    "optimizer": (OptimizerTable, ("learning_rate",)),
    "run": (RunTable, ("epochs", "steps", "rows_per_batch")),
}


class RoundsForm(QWidget):
    """`changed()` follows every edit; `work()` is what would be begun."""

    changed = Signal()

    def __init__(self, recipe: RoundsRecipe, offer: Offer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.recipe = recipe
        self._elicitation, self._training = recipes_of_rounds(recipe)
        own_judge = recipe.elicit.judge == "student"
        self.speakers = RoundsSpeakers(offer, self._elicitation, own_judge=own_judge)
        self.tag = Choice(("", *offer.tags), {"": "Any tag"})
        self.tag.setObjectName("rounds_tag")
        self.tag.setAccessibleName("Tag of the prompts that are asked")
        self.settings = GenerateSettings(self._elicitation)
        self.explained = label("", "small", wrap=True, name="rounds_explained")
        self._forms: dict[str, Form] = {}
        self._column = QVBoxLayout()
        self._build()
        for part in (self.speakers, self.tag, self.settings, *self._forms.values()):
            cast(Any, part).changed.connect(self.changed)

    # ------------------------------------------------------------------------------------------------ building
    def _build(self) -> None:
        inner = QWidget()
        inner.setProperty("role", "scrolled")
        inner.setLayout(self._column)
        self._column.setContentsMargins(0, 0, 8, 0)
        self._column.setSpacing(10)
        self._column.addWidget(self._who())
        self._column.addWidget(self._when())
        documents = self._elicitation.input.source == "documents"
        self._add_hidden("How it is asked", "rounds_asking", self.settings, opened=documents)
        self._add_hidden("How it is trained", "rounds_training", self._how_trained())
        self._column.addStretch(1)
        align_captions(inner)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setWidget(inner)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(area)

    def _who(self) -> Card:
        card = Card("Who learns, and from what", margin=12)
        card.add(self.speakers)
        source = self._elicitation.input.source
        if source in ("prompts", "responses"):
            row = QFormLayout()
            row.setHorizontalSpacing(14)
            row.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
            row.addRow("Prompts" if source == "prompts" else "Responses", self.tag)
            self.tag.set_value(self.recipe.elicit.tag)
            card.body.addLayout(row)
        limit = self._form("elicit", RoundElicitTable, self.recipe.elicit, ("limit",))
        cast(QSpinBox, limit.fields["limit"]).setSpecialValueText("all")
        card.add(limit)
        return card

    def _when(self) -> Card:
        card = Card("How often, and when it ends", margin=12)
        choices = {"start": lambda: _wide(_STARTS)}
        card.add(self._form("rounds", RoundsTable, self.recipe.rounds, ("count", "start"), choices))
        figures = {"figure": lambda: _wide(_FIGURES)}
        stop = self._form("stop", StopTable, self.recipe.stop, ("figure", "tolerance", "patience"), figures)
        stop.changed.connect(self._explain)
        card.add(stop)
        card.add(self.explained)
        self._explain()
        card.add(self._form("measure", MeasureTable, self.recipe.measure, ("held_out", "maximum_rows", "max_tokens")))
        return card

    def _explain(self) -> None:
        figure = str(self._forms["stop"].values()["figure"])
        self.explained.setText(f"{FIGURES[figure]}: {_EXPLAINED[figure]}")

    def _how_trained(self) -> QWidget:
        holder = QWidget()
        column = QVBoxLayout(holder)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        for table, (model, fields) in _TRAINING.items():
            column.addWidget(self._form(table, model, getattr(self._training, table), fields))
        self._forms["student"].changed.connect(self._show_rank)
        self._show_rank()
        return holder

    def _show_rank(self) -> None:
        form = self._forms["student"]
        form.set_field_visible("lora_rank", form.values()["adapter"] != "full")

    def _form(
        self, name: str, model: type[Params], values: Params, fields: tuple[str, ...], editors: Any = None
    ) -> Form:
        made = Form(
            model, values.model_dump(), name=f"rounds_{name}", include=fields, labels=_LABELS, editors=editors or {}
        )
        self._forms[name] = made
        return made

    def _add_hidden(self, words: str, name: str, content: QWidget, *, opened: bool = False) -> None:
        """What a newcomer may leave as it is stands behind a line that opens it."""
        opener = Disclosure(words, name=name)
        card = Card(margin=12)
        card.add(content)
        card.hide()
        opener.toggled.connect(card.setVisible)
        opener.setChecked(opened)
        self._column.addWidget(opener, 0, Qt.AlignmentFlag.AlignLeft)
        self._column.addWidget(card)

    # ------------------------------------------------------------------------------------------------ what it says
    def work(self) -> RoundsWork:
        """What a person asks for. Raises `BadInput` for what cannot be meant."""
        faults = {**self.settings.errors(), **{k: v for form in self._forms.values() for k, v in form.errors().items()}}
        for name, said in faults.items():
            words = _LABELS.get(name, name.replace("_", " ").capitalize())
            raise BadInput("A setting cannot be used", f"{words}: {said}.", "Change it.")
        changed = Changed(self.settings.recipe(), self._training_recipe())
        teacher, judge = self.speakers.teacher_spec(), self.speakers.judge_spec()
        return RoundsWork(self._rounds_recipe(), teacher, judge, self.speakers.student_key(), changed)

    def _rounds_recipe(self) -> RoundsRecipe:
        tables = self.recipe.model_dump(mode="json")
        for name in ("rounds", "stop", "measure", "elicit"):
            tables[name] |= self._forms[name].values()
        tables["elicit"] |= {"tag": self.tag.value(), "values": self.settings.values()}
        return validate_recipe(tables, RoundsRecipe, name=self.recipe.recipe.id)

    def _training_recipe(self) -> TrainingRecipe:
        tables = self._training.model_dump(mode="json")
        for name in _TRAINING:
            tables[name] |= self._forms[name].values()
        return validate_recipe(tables, TrainingRecipe, name=self.recipe.train.recipe)


def _wide(words: dict[str, str]) -> Choice:
    made = Choice(tuple(words), words)
    made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    made.setMinimumContentsLength(12)
    made.setSizeAdjustPolicy(Choice.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    return made
