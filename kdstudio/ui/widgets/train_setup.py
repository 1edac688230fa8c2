"""Setting up a training run: what it learns, from whom, from which rows and how, as forms of the recipe's own tables.

What the forms say is a `TrainingRecipe`, nothing else: it can be saved, shown as a command, and run anywhere. Whatever
a recipe file says comes back unchanged unless a person changed it.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QResizeEvent, QShowEvent
from PySide6.QtWidgets import QBoxLayout, QScrollArea, QVBoxLayout, QWidget

from kdstudio.catalogue.training import DataTable, OptimizerTable, RunTable
from kdstudio.errors import BadInput
from kdstudio.models.spec import TeacherSpec
from kdstudio.recipe import RecipeHeader, TrainingRecipe, validate_recipe
from kdstudio.ui.forms import Form, align
from kdstudio.ui.job_bridge import background
from kdstudio.ui.session import Session
from kdstudio.ui.training_choice import Situation
from kdstudio.ui.training_signals import stored_signals
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.train_learning import LearningCard
from kdstudio.ui.widgets.train_student import StudentCard

if TYPE_CHECKING:
    from kdstudio.project import Project

HELD_OUT_TAG = "held_out"
_DATA_LABELS = {"held_out_tag": "Held-out tag", "held_out": "Held-out share", "status": "Status", "limit": "Most rows"}
_TWO_COLUMNS_FROM = 640
_LOOK_MILLISECONDS = 400


class TrainSetup(QWidget):
    """The forms. `changed` follows every edit; `recipe()` is what they say."""

    changed = Signal()

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self._opened = TrainingRecipe(recipe=RecipeHeader(id="student", title="My student"))
        self._suggesting, self._stale = True, False
        self._timer = QTimer(self, singleShot=True, interval=_LOOK_MILLISECONDS)
        self._timer.timeout.connect(self._look)
        self.who = StudentCard()
        self.teacher, self.student = self.who.teacher, self.who.form
        self.learning = LearningCard()
        self.data = Form(
            DataTable,
            name="train_data",
            labels=_DATA_LABELS,
            advanced=["limit", "maximum_tokens", "status", "reasoning"],
        )
        self.run = Form(
            RunTable,
            name="train_run",
            advanced=[
                "accumulation",
                "seed",
                "evaluate_every",
                "checkpoint_every",
                "audit",
                "device",
                "processes",
                "sharding",
                "precision",
            ],
        )
        self.optimizer = Form(
            OptimizerTable,
            name="train_optimizer",
            labels={"ema": "Running mean"},
            advanced=["final_fraction", "beta1", "beta2", "weight_decay", "ema", "clip_norm"],
        )
        self._build()
        self._connect()
        self._project_changed()

    # -------------------------------------------------------------------------------------------------------- building
    def _build(self) -> None:
        """Outside in: whatever is moved into another widget later is styled again, with all that it holds."""
        self._area = area = QScrollArea(self)
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFrameShape(QScrollArea.Shape.NoFrame)
        inner = QWidget()
        inner.setProperty("role", "scrolled")
        area.setWidget(inner)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)
        stack = QVBoxLayout(inner)
        stack.setContentsMargins(0, 0, 6, 0)
        stack.setSpacing(12)
        self._columns = columns = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        columns.setSpacing(12)
        rows, schedule, optimizer = (
            Card(heading, name=f"train_card_{name}")
            for heading, name in (("Rows", "rows"), ("Schedule", "schedule"), ("Optimiser", "optimizer"))
        )
        stack.addWidget(self.learning)
        stack.addLayout(columns)
        for cards in ((self.learning.rollout, self.who, optimizer), (self.learning.reward, rows, schedule)):
            column = QVBoxLayout()
            column.setSpacing(12)
            columns.addLayout(column, 1)
            for card in cards:
                column.addWidget(card)
            column.addStretch(1)
        rows.add(label("Accepted answers are learnt from; held-out ones only measure the gap.", "small", wrap=True))
        for card, form in ((rows, self.data), (schedule, self.run), (optimizer, self.optimizer)):
            card.add(form)
            align(form)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Stand in one column where two would be cut off."""
        super().resizeEvent(event)
        one = event.size().width() < _TWO_COLUMNS_FROM
        direction = QBoxLayout.Direction.TopToBottom if one else QBoxLayout.Direction.LeftToRight
        if self._columns.direction() != direction:
            self._columns.setDirection(direction)

    def _connect(self) -> None:
        for part in (self.who, self.learning, self.data, self.run, self.optimizer):
            part.changed.connect(self._edited)
        self.learning.more.toggled.connect(lambda _opened: QTimer.singleShot(0, self, self._follow_more))
        self.who.teacher_changed.connect(self._teacher_changed)
        self.session.teachers_changed.connect(self.refresh_teachers)
        self.session.project_changed.connect(self._project_changed)
        self.session.rows_changed.connect(self._rows_changed)
        self.session.run_changed.connect(self._run_changed)

    def _follow_more(self) -> None:
        """Scroll to the list of objectives when it opens."""
        found = self.learning.objectives
        if found is not None and found.isVisible():
            self._area.ensureWidgetVisible(found, 0, 12)

    # ------------------------------------------------------------------------------------------------------- following
    def _project_changed(self) -> None:
        self.refresh_teachers()
        self._list_reward_models()
        self._list_signals()
        self._look()

    def refresh_teachers(self) -> None:
        """Offer the project's teachers, keeping the chosen one."""
        project = self.session.project
        self.who.offer({item.spec.name: item.spec for item in project.teachers.list()} if project is not None else {})
        self._edited()

    def _rows_changed(self) -> None:
        if self.isVisible():
            self._timer.start()
        else:
            self._stale = True

    def showEvent(self, event: QShowEvent) -> None:
        """Look at the rows again if they changed behind another page."""
        super().showEvent(event)
        if self._stale:
            self._timer.start()

    def _run_changed(self, run_id: str) -> None:
        project = self.session.project
        if project is not None and project.runs.get(run_id).state in ("finished", "stopped"):
            self._list_reward_models()
            self._list_signals()

    def _list_signals(self) -> None:
        stored = stored_signals(self.session.runs("signals"), self.who.teacher_name())
        self.learning.set_stored(stored)

    def _list_reward_models(self) -> None:
        self.learning.reward.runs.offer(self.session.runs("train"))

    def _teacher_changed(self) -> None:
        self._situate()
        self._list_signals()
        self.learning.teacher_changed()
        self._look()

    def _situate(self, **counted: int | None) -> None:
        """Tell the objectives what teacher and rows allow."""
        before = self.learning.situation
        known: dict[str, Any] = {"preferences": before.preferences, "waiting": before.waiting, **counted}
        now = Situation(self.who.teacher_name(), self.who.blind(), **known)
        if now != before:
            self.learning.set_situation(now)

    def _look(self) -> None:
        """Look at the teacher's file and at the project's rows, for what can be suggested and what is missing."""
        self._stale = False
        task = background(_seen, self.session.project, self.teacher_spec(), owner=self)
        task.done.connect(self._looked)

    def _looked(self, seen: _Seen) -> None:
        status = self.data.values()["status"]
        usable = seen.preferences + (seen.waiting if status == "any" else 0)
        self._situate(preferences=usable if seen.project else None, waiting=seen.waiting)
        if not self._suggesting:
            return
        self.who.suggest_layers(seen.layers // 2)
        data = self.data.values()
        if seen.tagged and not data["held_out_tag"]:
            self.data.set_values({**data, "held_out_tag": HELD_OUT_TAG})

    def teacher_spec(self) -> TeacherSpec | None:
        """The chosen teacher."""
        return self.who.teacher_spec()

    def _edited(self) -> None:
        self.data.set_field_visible("held_out", not self.data.values()["held_out_tag"])
        self.run.set_field_visible("epochs", not self.run.values()["steps"])
        self.changed.emit()

    # ------------------------------------------------------------------------------------------------------ the recipe
    def show_recipe(self, recipe: TrainingRecipe) -> None:
        """Fill the forms from a recipe. From then on nothing is suggested: the recipe says what it wants."""
        tables = recipe.model_dump()
        self._opened, self._suggesting = recipe, False
        self.who.show_tables(recipe.recipe.title, recipe.teacher.name, tables["student"])
        self._situate()
        self._list_signals()
        self.learning.show_tables(tables)
        for form, key in ((self.data, "data"), (self.run, "run"), (self.optimizer, "optimizer")):
            form.set_values(tables[key])
        self._edited()

    def take_recipe(self, recipe: TrainingRecipe) -> None:
        """Take over a way to train, objectives and how they are learnt; teacher, student, rows and schedule stay."""
        title = str(self.who.title.values()["title"])
        mine = title if title not in (self._opened.recipe.title, "") else recipe.recipe.title
        self._opened = recipe
        self.who.title.set_values({"title": mine})
        tables, signals = recipe.model_dump(), recipe.teacher.model_dump(include=recipe.teacher.model_fields_set)
        teacher = {**self.learning.signals.values(), **signals}
        self.learning.show_tables({**tables, "teacher": teacher}, with_all=False)
        self.data.set_values({**self.data.values(), "reasoning": recipe.data.reasoning})
        self.optimizer.set_values(tables["optimizer"])
        self._edited()

    def recipe(self) -> TrainingRecipe:
        """What the forms say. Raises `BadInput` naming the key that cannot be used."""
        learning = self.learning.tables()
        if not learning["objective"]:
            raise BadInput("Nothing to learn", "No objective is chosen.", "Choose at least one.")
        title = str(self.who.title.values()["title"])
        tables: dict[str, Any] = {
            "version": 1,
            "recipe": {**self._opened.recipe.model_dump(), "title": title if title.strip() else "My student"},
            "student": self.who.table(),
            "data": self.data.values(),
            **learning,
            "teacher": {"name": self.who.teacher_name(), **learning["teacher"]},
            "optimizer": self.optimizer.values(),
            "run": self.run.values(),
            "export": self._export(title),
        }
        return validate_recipe(tables, TrainingRecipe, name="the form")

    def _export(self, title: str) -> dict[str, Any]:
        """What the opened recipe says of the export; a name that was the recipe's title follows it."""
        opened = self._opened
        follows = bool(opened.export.name) and opened.export.name == opened.recipe.title
        return {**opened.export.model_dump(), **({"name": title} if follows else {})}

    def obstacle(self) -> BadInput | None:
        """Why a run could not start with what is chosen, before anything is read; None if it could."""
        name = self.who.teacher_name()
        if name and self.teacher_spec() is None:
            return BadInput(
                "The teacher is not in this project",
                f"The recipe names {name!r}.",
                "Add it on Teachers, or choose another.",
            )
        said = self.learning.obstacle()
        return (
            BadInput("An objective cannot be used", said, "Choose another, or see to what it needs.") if said else None
        )

    def job(self) -> tuple[str, dict[str, Any], tuple[str, ...]]:
        """Title, parameters and key names of the training job. Raises `BadInput` for a form that cannot be used."""
        from kdstudio.recipe import recipe_hash

        recipe, spec, obstacle = self.recipe(), self.teacher_spec(), self.obstacle()
        if obstacle is not None:
            raise obstacle
        parameters = {
            "recipe": recipe.model_dump(mode="json"),
            "recipe_hash": recipe_hash(recipe),
            "teacher": asdict(spec) if spec is not None else {},
        }
        return recipe.recipe.title, parameters, (spec.key_name,) if spec is not None and spec.key_name else ()


@dataclass(frozen=True)
class _Seen:
    """The teacher's layers (0: unknown), whether prompts carry the held-out tag, preferences accepted and pending."""

    project: bool
    layers: int = 0
    tagged: bool = False
    preferences: int = 0
    waiting: int = 0


def _seen(project: Project | None, spec: TeacherSpec | None) -> _Seen:
    """Look at a teacher's header and a project's rows. For the background."""
    from kdstudio.models.gguf_header import read_header
    from kdstudio.project.table import RowQuery, RowTable

    layers = 0
    if spec is not None and spec.kind == "gguf":
        with contextlib.suppress(BadInput):
            layers = read_header(Path(spec.path)).layers
    if project is None:
        return _Seen(False, layers)
    table = RowTable(project.folder)
    try:
        accepted, pending = (table.count(RowQuery("preference", status=word)) for word in ("accepted", "pending"))
        return _Seen(True, layers, HELD_OUT_TAG in table.tags(), accepted, pending)
    finally:
        table.close()
