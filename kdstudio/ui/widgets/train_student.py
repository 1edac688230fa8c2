"""Who teaches and who learns: the recipe's title, its teacher and `[student]` as one card."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFormLayout, QLineEdit, QWidget

from kdstudio.catalogue.training import StudentTable
from kdstudio.models.spec import TeacherSpec
from kdstudio.recipe import RecipeHeader
from kdstudio.ui.forms import CAPTION_WIDTH, Form, align
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.fields import ElidedCombo
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.path_picker import PathPicker

_FIELDS = (
    *("layer_count", "hidden_size", "adapter", "lora_rank", "lora_alpha", "lora_dropout"),
    *("layers", "kept_width", "kept_feed_forward", "kept_heads"),
    *("path", "refit", "freeze_embeddings", "gradient_checkpointing"),
)
_WIDTHS = ("kept_width", "kept_feed_forward", "kept_heads")
_ADVANCED = ("layers", *_WIDTHS, "path", "refit", "freeze_embeddings", "gradient_checkpointing")
_SHOWN = {
    "teacher": ("layer_count", "layers", *_WIDTHS, "refit", "path"),
    "folder": ("layer_count", "layers", *_WIDTHS),
    "fresh": ("layer_count", "hidden_size", "path"),
}
_TIED_TO_SOURCE = ("layer_count", "layers", *_WIDTHS, "hidden_size", "refit", "path")
_OF_ADAPTERS = ("lora_rank", "lora_alpha", "lora_dropout")
_LABELS = {
    "layer_count": "Layers to keep",
    "layers": "Which layers",
    "hidden_size": "Width",
    "kept_width": "Channels to keep",
    "kept_feed_forward": "Neurons to keep",
    "kept_heads": "Heads to keep",
    "adapter": "Weights",
    "path": "From another file",
    "refit": "Refit the kept layers first",
    "freeze_embeddings": "Freeze embedding and head",
    "gradient_checkpointing": "Keep fewer activations",
}
_ABSENT = "{name} (not in this project)"


class PathField(PathPicker):
    """A path as an editor of a form: the text as it was written."""

    def value(self) -> str:
        """The path, or ""."""
        return self.edit.text().strip()

    def set_value(self, value: Any) -> None:
        """Show a path."""
        self.edit.setText(str(value))


class StudentCard(Card):
    """`changed` follows every edit, `teacher_changed` another teacher."""

    changed = Signal()
    teacher_changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Teacher and student", name="train_card_student", parent=parent)
        self._specs: dict[str, TeacherSpec] = {}
        self.title = Form(
            RecipeHeader, {"title": "My student"}, name="train_recipe", include=["title"], labels={"title": "Name"}
        )
        self.teacher = ElidedCombo()
        self.teacher.setObjectName("train_teacher")
        self.teacher.setAccessibleName("Teacher")
        self.teacher.setPlaceholderText("None yet")
        self.source = Form(StudentTable, name="train_source", include=["source"], labels={"source": "Student"})
        self.folder = PathField("train_folder", "Choose the student's folder", kind="folder")
        self.form = Form(
            StudentTable,
            name="train_student",
            include=_FIELDS,
            labels=_LABELS,
            advanced=_ADVANCED,
            editors={"path": _file_field},
        )
        layers = self.form.fields["layers"]
        if isinstance(layers, QLineEdit):
            layers.setPlaceholderText("spread evenly")
        self._build()
        self.source.changed.connect(self._source_changed)
        for form in (self.title, self.form):
            form.changed.connect(self._edited)
        self.folder.changed.connect(self._edited)
        self.teacher.currentIndexChanged.connect(self._teacher_chosen)
        self._edited()

    def _build(self) -> None:
        pairs = QFormLayout()
        pairs.setHorizontalSpacing(14)
        caption = label("Teacher")
        caption.setMinimumWidth(CAPTION_WIDTH)
        caption.setBuddy(self.teacher)
        pairs.addRow(caption, self.teacher)
        self.add(self.title)
        self.body.addLayout(pairs)
        for part in (self.source, self.folder, self.form):
            self.add(part)
        for form in (self.title, self.source, self.form):
            align(form)

    # --------------------------------------------------------------------------------------------------------- teacher
    def offer(self, specs: dict[str, TeacherSpec]) -> None:
        """Offer these teachers, by name; keeps the chosen one."""
        chosen, before = self.teacher_name(), self.teacher_spec()
        self._specs = specs
        self.teacher.blockSignals(True)
        self.teacher.clear()
        for name in specs:
            self.teacher.addItem(name, name)
        if specs:
            self.teacher.setCurrentIndex(max(0, self.teacher.findData(chosen)))
        self.teacher.blockSignals(False)
        if self.teacher_spec() != before:
            self._teacher_chosen()

    def teacher_name(self) -> str:
        """The chosen teacher's name, or ""."""
        return str(self.teacher.currentData() or "")

    def teacher_spec(self) -> TeacherSpec | None:
        """The chosen teacher; None where there is none, or the project does not know it."""
        return self._specs.get(self.teacher_name())

    def blind(self) -> bool:
        """Whether the chosen teacher gives text alone, not its distribution."""
        spec = self.teacher_spec()
        return spec is not None and spec.kind not in ("gguf", "huggingface")

    def _teacher_chosen(self) -> None:
        self.teacher_changed.emit()
        self.changed.emit()

    def _show_teacher(self, name: str) -> None:
        """Choose a teacher without taking anything out; one that the project does not know is listed as such."""
        self.teacher.blockSignals(True)
        if name and self.teacher.findData(name) < 0:
            self.teacher.addItem(_ABSENT.format(name=name), name)
        if name:
            self.teacher.setCurrentIndex(self.teacher.findData(name))
        self.teacher.blockSignals(False)

    # --------------------------------------------------------------------------------------------------------- student
    def _source_changed(self) -> None:
        """What the new source has no use for falls back to its default, so that nothing unseen is in the recipe."""
        shown = _SHOWN[self.source.values()["source"]]
        self.form.set_values({name: value for name, value in self.form.values().items() if _kept(name, shown)})
        self._edited()

    def _edited(self) -> None:
        source = str(self.source.values()["source"])
        self.folder.setVisible(source == "folder")
        for name in _TIED_TO_SOURCE:
            self.form.set_field_visible(name, name in _SHOWN[source])
        for name in _OF_ADAPTERS:
            self.form.set_field_visible(name, self.form.values()["adapter"] != "full")
        self.changed.emit()

    def suggest_layers(self, count: int) -> None:
        """Fill in how many layers to keep, unless something is set."""
        values = self.form.values()
        if count and not values["layer_count"] and not values["layers"]:
            self.form.set_values({**values, "layer_count": count})

    def show_tables(self, title: str, teacher: str, table: dict[str, Any]) -> None:
        """Show a recipe's title, teacher and `[student]`."""
        self.title.set_values({"title": title})
        self._show_teacher(teacher)
        self.source.blockSignals(True)
        self.source.set_values(table)
        self.source.blockSignals(False)
        of_folder = table["source"] == "folder"
        self.form.set_values({**table, "path": "" if of_folder else table["path"]})
        self.folder.set_value(table["path"] if of_folder else "")
        self._edited()

    def table(self) -> dict[str, Any]:
        """The recipe's `[student]`."""
        made = {**self.source.values(), **self.form.values()}
        return {**made, "path": self.folder.value()} if made["source"] == "folder" else made


def _kept(name: str, shown: tuple[str, ...]) -> bool:
    return name in shown or name not in _TIED_TO_SOURCE


def _file_field() -> PathField:
    return PathField(
        "train_file", "Choose the file to start from", pattern="GGUF (*.gguf)", placeholder="the teacher’s own"
    )
