"""Who takes part in rounds: the student they begin with, the teacher it is measured beside, and a judge."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFileDialog, QFormLayout, QWidget

from kdstudio.errors import BadInput
from kdstudio.recipe import ElicitationRecipe
from kdstudio.ui.recipe_offer import Offer, local_teachers, speakers_wanted
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.recipe_routes import fill, named_choice

_FILE, _FOLDER = "file", "folder"


class RoundsSpeakers(QWidget):
    """`changed()` follows every choice."""

    changed = Signal()

    def __init__(
        self, offer: Offer, recipe: ElicitationRecipe, *, own_judge: bool, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._specs = {spec.name: spec for spec in offer.teachers}
        self._last = 0
        self.student = named_choice("rounds_student", "Student to start from", 8)
        self.student.setToolTip("The model that learns. It stays as it is: each round saves a student of its own.")
        self.teacher = named_choice("rounds_teacher", "Teacher", 8)
        self.teacher.setToolTip(
            "Each round’s student is measured beside it; it is asked only where the recipe says so."
        )
        self.judge = named_choice("rounds_judge", "Judge", 8)
        trained = [(words, run_id) for run_id, words, of_rounds in offer.students if not of_rounds]
        as_they_are = [(f"{spec.name}, as it is", spec.path) for spec in local_teachers(offer)]
        of_rounds = [(words, run_id) for run_id, words, of_rounds in offer.students if of_rounds]
        for words, value in (*trained, *as_they_are, *of_rounds):
            self.student.addItem(words, value)
        self.student.addItem("Choose a GGUF file…", _FILE)
        self.student.addItem("Choose a folder…", _FOLDER)
        fill(self.teacher, list(self._specs))
        fill(self.judge, ["", *self._specs])
        self.judge.setItemText(0, "The teacher itself")
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(8)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for words, field in (("Student", self.student), ("Teacher", self.teacher), ("Judge", self.judge)):
            caption = label(words)
            caption.setBuddy(field)
            form.addRow(caption, field)
        self._judged = "judge" in speakers_wanted(recipe) and not own_judge
        form.setRowVisible(self.judge, self._judged)
        self.student.activated.connect(self._picked)
        for one in (self.student, self.teacher, self.judge):
            one.changed.connect(self.changed)

    def _picked(self, index: int) -> None:
        wanted = self.student.itemData(index)
        if wanted not in (_FILE, _FOLDER):
            self._last = index
            return
        if wanted == _FILE:
            chosen, _ = QFileDialog.getOpenFileName(self, "A student", str(Path.home()), "GGUF models (*.gguf)")
        else:
            chosen = QFileDialog.getExistingDirectory(self, "A student’s folder", str(Path.home()))
        if chosen:
            self.take_student(chosen)
        else:
            self.student.setCurrentIndex(self._last)

    def take_student(self, path: str) -> None:
        """Begin with the model in a GGUF file or a folder."""
        self.student.insertItem(0, Path(path).name, path)
        self.student.setCurrentIndex(0)
        self._last = 0

    # ------------------------------------------------------------------------------------------------- what it says
    def student_key(self) -> str:
        """A training run's id, a GGUF file or a folder. Raises `BadInput` when none is chosen."""
        value = self.student.value()
        if value in ("", _FILE, _FOLDER):
            hint = "Train one first, add a local model on the Teachers page, or choose a file."
            raise BadInput("There is no student yet", "Rounds begin with a model on this machine.", hint)
        return value

    def teacher_spec(self) -> dict[str, Any]:
        """The teacher. Raises `BadInput` when there is none."""
        spec = self._specs.get(self.teacher.value())
        if spec is None:
            raise BadInput(
                "There is no teacher yet", "Rounds are measured beside one.", "Add one on the Teachers page."
            )
        return asdict(spec)

    def judge_spec(self) -> dict[str, Any] | None:
        """The judge, where somebody else than the teacher judges."""
        spec = self._specs.get(self.judge.value()) if self._judged else None
        return asdict(spec) if spec is not None else None
