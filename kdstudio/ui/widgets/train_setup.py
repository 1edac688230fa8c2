"""Setting up a training run: student, objectives, rows and schedule as forms made from the recipe's own tables.

What the forms say is a `TrainingRecipe`, nothing else: it can be saved, shown as a command, and run anywhere.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QComboBox, QFormLayout, QLabel, QLineEdit, QScrollArea, QVBoxLayout, QWidget

from kdstudio.catalogue.training import DataTable, OptimizerTable, RunTable, StudentTable, TeacherTable
from kdstudio.models.spec import TeacherSpec
from kdstudio.recipe import RecipeHeader, TrainingRecipe, validate_recipe
from kdstudio.ui.forms import Form
from kdstudio.ui.job_bridge import background
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.objective_list import ObjectiveList
from kdstudio.ui.widgets.path_picker import PathPicker

if TYPE_CHECKING:
    from kdstudio.project import Project

HELD_OUT_TAG = "held_out"
_NO_SIGNALS = "Needs the teacher's log-probs of given text, which {name} does not offer. A local GGUF teacher does."
_FRESH_FIELDS = ("layer_count", "hidden_size")
_TIED_TO_SOURCE = ("layer_count", "layers", "hidden_size", "refit")
_STUDENT_FIELDS = (
    *("layer_count", "hidden_size", "adapter", "lora_rank", "lora_alpha", "lora_dropout"),
    *("layers", "refit", "freeze_embeddings"),
)
_SHOWN = {"teacher": ("layer_count", "layers", "refit"), "folder": ("layer_count",), "fresh": _FRESH_FIELDS}
_LABELS = {
    "layer_count": "Layers to keep",
    "layers": "Which layers",
    "hidden_size": "Width",
    "adapter": "Weights",
    "refit": "Refit the kept layers first",
    "freeze_embeddings": "Freeze embedding and head",
}
_DATA_LABELS = {"held_out_tag": "Held-out tag", "held_out": "Held-out share", "status": "Status", "limit": "Most rows"}
_CAPTION_WIDTH = 112
_TWO_COLUMNS_FROM = 640


class TrainSetup(QWidget):
    """The forms. `changed` follows every edit; `recipe()` is what they say."""

    changed = Signal()

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self._specs: dict[str, TeacherSpec] = {}
        self._header = RecipeHeader(id="student", title="My student")
        self.teacher = QComboBox()
        self.teacher.setObjectName("train_teacher")
        self.teacher.setAccessibleName("Teacher")
        self.title = _title_form()
        self.source = Form(StudentTable, name="train_source", include=["source"], labels={"source": "Student"})
        self.folder = PathPicker("train_folder", "Choose the student's folder", kind="folder")
        self.student = Form(
            StudentTable,
            {"layer_count": 0},
            name="train_student",
            include=_STUDENT_FIELDS,
            labels=_LABELS,
            advanced=("layers", "refit", "freeze_embeddings"),
        )
        layers = self.student.fields["layers"]
        if isinstance(layers, QLineEdit):
            layers.setPlaceholderText("spread evenly")
        self.objectives = ObjectiveList()
        self.signals = Form(TeacherTable, {"signals": "dense"}, name="train_signals", include=["signals", "top_k"])
        self.data = Form(
            DataTable, name="train_data", labels=_DATA_LABELS, advanced=["limit", "maximum_tokens", "status"]
        )
        self.run = Form(
            RunTable,
            name="train_run",
            advanced=["accumulation", "seed", "evaluate_every", "checkpoint_every", "device", "precision"],
        )
        self.optimizer = Form(
            OptimizerTable,
            name="train_optimizer",
            advanced=["final_fraction", "beta1", "beta2", "weight_decay", "clip_norm"],
        )
        self._build()
        self._connect()
        self.refresh_teachers()

    def _build(self) -> None:
        inner = QWidget()
        inner.setProperty("role", "scrolled")
        self._columns = columns = QBoxLayout(QBoxLayout.Direction.LeftToRight, inner)
        columns.setContentsMargins(0, 0, 6, 0)
        columns.setSpacing(12)
        left, right = QVBoxLayout(), QVBoxLayout()
        for column in (left, right):
            column.setSpacing(12)
            columns.addLayout(column, 1)
        student = Card("Teacher and student", name="train_card_student")
        pairs = QFormLayout()
        pairs.setHorizontalSpacing(14)
        pairs.addRow(_caption("Teacher"), self.teacher)
        student.add(self.title)
        student.body.addLayout(pairs)
        for part in (self.source, self.folder, self.student):
            student.add(part)
        objective = Card("What it learns", name="train_card_objective")
        objective.add(self.objectives)
        objective.add(self.signals)
        rows = Card("Rows", name="train_card_rows")
        rows.add(label("Accepted answers are learnt from; held-out ones only measure the gap.", "small", wrap=True))
        rows.add(self.data)
        schedule = Card("Schedule", name="train_card_schedule")
        schedule.add(self.run)
        optimizer = Card("Optimiser", name="train_card_optimizer")
        optimizer.add(self.optimizer)
        for card in (student, rows, optimizer):
            left.addWidget(card)
        for card in (objective, schedule):
            right.addWidget(card)
        left.addStretch(1)
        right.addStretch(1)
        for form in self.findChildren(Form) + inner.findChildren(Form):
            _align(form)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFrameShape(QScrollArea.Shape.NoFrame)
        area.setWidget(inner)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Stand in one column where two would be cut off."""
        super().resizeEvent(event)
        one = event.size().width() < _TWO_COLUMNS_FROM
        direction = QBoxLayout.Direction.TopToBottom if one else QBoxLayout.Direction.LeftToRight
        if self._columns.direction() != direction:
            self._columns.setDirection(direction)

    def _connect(self) -> None:
        for form in (self.title, self.source, self.student, self.signals, self.data, self.run, self.optimizer):
            form.changed.connect(self._edited)
        self.objectives.changed.connect(self._edited)
        self.folder.changed.connect(self._edited)
        self.teacher.currentIndexChanged.connect(self._edited)
        self.teacher.currentIndexChanged.connect(self._suggest)
        self.session.teachers_changed.connect(self.refresh_teachers)
        self.session.project_changed.connect(self.refresh_teachers)

    def refresh_teachers(self) -> None:
        """Offer the project's teachers, keeping the chosen one."""
        chosen = self.teacher.currentText()
        project = self.session.project
        self._specs = {item.spec.name: item.spec for item in project.teachers.list()} if project is not None else {}
        self.teacher.blockSignals(True)
        self.teacher.clear()
        self.teacher.addItems(list(self._specs))
        if chosen in self._specs:
            self.teacher.setCurrentText(chosen)
        self.teacher.blockSignals(False)
        self._edited()
        self._suggest()

    def _suggest(self) -> None:
        """Fill in what a newcomer would want: half of the teacher's layers, and the tag that marks held-out rows."""
        task = background(_suggestions, self.session.project, self.teacher_spec(), owner=self)
        task.done.connect(self._suggested)

    def _suggested(self, found: tuple[int, bool]) -> None:
        layers, tagged = found
        student, data = self.student.values(), self.data.values()
        if layers and not student["layer_count"] and not student["layers"]:
            self.student.set_values({**student, "layer_count": layers})
        if tagged and not data["held_out_tag"]:
            self.data.set_values({**data, "held_out_tag": HELD_OUT_TAG})

    def teacher_spec(self) -> TeacherSpec | None:
        """The chosen teacher."""
        return self._specs.get(self.teacher.currentText())

    def _edited(self) -> None:
        source = str(self.source.values()["source"])
        self.folder.setVisible(source == "folder")
        for name in ("layer_count", "layers", "hidden_size", "refit"):
            self.student.set_field_visible(name, name in _SHOWN[source])
        lora = self.student.values()["adapter"] == "lora"
        for name in ("lora_rank", "lora_alpha", "lora_dropout"):
            self.student.set_field_visible(name, lora)
        self.data.set_field_visible("held_out", not self.data.values()["held_out_tag"])
        self.run.set_field_visible("epochs", not self.run.values()["steps"])
        spec = self.teacher_spec()
        blind = spec is not None and spec.kind not in ("gguf", "huggingface")
        self.objectives.blockSignals(True)
        self.objectives.forbid_signals(_NO_SIGNALS.format(name=spec.name) if blind and spec else "")
        self.objectives.blockSignals(False)
        self.signals.setVisible(self.objectives.need_signals())
        self.signals.set_field_visible("top_k", self.signals.values()["signals"] == "stored")
        self.changed.emit()

    def show_recipe(self, recipe: TrainingRecipe) -> None:
        """Fill the forms from a recipe."""
        tables = recipe.model_dump()
        self._header = recipe.recipe
        self.title.set_values({"title": recipe.recipe.title})
        self.source.set_values(tables["student"])
        self.student.set_values(tables["student"])
        if recipe.student.path:
            self.folder.set_path(Path(recipe.student.path))
        self.objectives.set_tables([dict(table) for table in tables["objective"]])
        for form, key in (
            (self.signals, "teacher"),
            (self.data, "data"),
            (self.run, "run"),
            (self.optimizer, "optimizer"),
        ):
            form.set_values(tables[key])
        if recipe.teacher.name in self._specs:
            self.teacher.setCurrentText(recipe.teacher.name)
        self._edited()

    def recipe(self) -> TrainingRecipe:
        """What the forms say. Raises `BadInput` naming the key that cannot be used."""
        student = {**self.source.values(), **self.student.values()}
        for name in set(_TIED_TO_SOURCE) - set(_SHOWN[student["source"]]):
            student[name] = StudentTable.model_fields[name].default
        path = self.folder.path() if student["source"] == "folder" else None
        title = str(self.title.values()["title"]).strip() or "My student"
        tables: dict[str, Any] = {
            "version": 1,
            "recipe": {**self._header.model_dump(), "title": title},
            "student": {**student, "path": str(path) if path else ""},
            "data": self.data.values(),
            "teacher": {"name": self.teacher.currentText(), **self.signals.values()},
            "objective": self.objectives.tables(),
            "optimizer": self.optimizer.values(),
            "run": self.run.values(),
            "export": {"name": title},
        }
        return validate_recipe(tables, TrainingRecipe, name="the form")

    def job(self) -> tuple[str, dict[str, Any], tuple[str, ...]]:
        """Title, parameters and key names of the training job. Raises `BadInput` for a form that cannot be used."""
        from kdstudio.recipe import recipe_hash

        recipe, spec = self.recipe(), self.teacher_spec()
        parameters = {
            "recipe": recipe.model_dump(mode="json"),
            "recipe_hash": recipe_hash(recipe),
            "teacher": asdict(spec) if spec is not None else {},
        }
        return recipe.recipe.title, parameters, (spec.key_name,) if spec is not None and spec.key_name else ()


def _suggestions(project: Project | None, spec: TeacherSpec | None) -> tuple[int, bool]:
    """Half of the teacher's layers (0 if unknown), and whether prompts carry the held-out tag. For the background."""
    from kdstudio.errors import BadInput
    from kdstudio.models.gguf_header import read_header
    from kdstudio.project.table import RowTable

    layers = 0
    if spec is not None and spec.kind == "gguf":
        with contextlib.suppress(BadInput):
            layers = read_header(Path(spec.path)).layers // 2
    if project is None:
        return layers, False
    table = RowTable(project.folder)
    try:
        return layers, HELD_OUT_TAG in table.tags()
    finally:
        table.close()


def _caption(words: str) -> QLabel:
    made = label(words)
    made.setMinimumWidth(_CAPTION_WIDTH)
    return made


def _align(form: Form) -> None:
    """Give all captions of a form one width, so that the editors of several forms stand under each other."""
    for layout in form.findChildren(QFormLayout):
        for row in range(layout.rowCount()):
            item = layout.itemAt(row, QFormLayout.ItemRole.LabelRole)
            caption = item.widget() if item is not None else None
            if caption is not None:
                caption.setMinimumWidth(_CAPTION_WIDTH)


def _title_form() -> Form:
    return Form(RecipeHeader, {"title": "My student"}, name="train_recipe", include=["title"], labels={"title": "Name"})
