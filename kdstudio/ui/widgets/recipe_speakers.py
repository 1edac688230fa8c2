"""Who speaks in a run: the teacher or several, the judge and the student, as far as the recipe asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFormLayout, QMenu, QWidget

from kdstudio.errors import BadInput
from kdstudio.models.spec import TeacherSpec
from kdstudio.recipe import ElicitationRecipe
from kdstudio.ui.recipe_offer import speakers_wanted
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.fields import Choice
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.recipe_routes import Routes, fill

_SHARES = {
    "spread": "Questions are spread evenly",
    "all": "Each of them answers everything",
    "route": "By the tags of the prompts",
}
HOSTED = ("openai", "anthropic")


class Speakers(QWidget):
    """`changed()` follows every choice; `parameters()` are those of the job."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._specs: dict[str, TeacherSpec] = {}
        self._tags: tuple[str, ...] = ()
        self.teacher = self._choice("generate_teacher", "Teacher")
        self.judge = self._choice("generate_judge", "Judge")
        self.student = self._choice("generate_student", "Student")
        self.share = Choice(tuple(_SHARES), _SHARES)
        self.routes = Routes()
        self.share.setObjectName("generate_share")
        self.share.setAccessibleName("How several teachers share the questions")
        self.others = button("No other teachers", name="generate_others", tip="Let more teachers take part")
        self._menu = QMenu(self.others)
        self.others.setMenu(self._menu)
        self.form = QFormLayout(self)
        self.form.setContentsMargins(0, 0, 0, 0)
        self.form.setHorizontalSpacing(14)
        self.form.setVerticalSpacing(8)
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for words, field in (
            ("Teacher", self.teacher),
            ("And also", self.others),
            ("Shared", self.share),
            ("Tags", self.routes),
            ("Judge", self.judge),
            ("Student", self.student),
        ):
            self.form.addRow(label(words), field)
        for one in (self.teacher, self.share, self.routes, self.judge, self.student):
            one.changed.connect(self._edited)

    def _choice(self, name: str, words: str) -> Choice:
        made = Choice(())
        made.setObjectName(name)
        made.setAccessibleName(words)
        made.setSizeAdjustPolicy(Choice.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        made.setMinimumContentsLength(8)
        return made

    def offer(self, recipe: ElicitationRecipe, specs: Iterable[TeacherSpec], tags: tuple[str, ...] = ()) -> None:
        """Offer the project's teachers for the roles of a recipe, and its tags, keeping what was chosen."""
        self._tags = tags
        fill(self.share, [way for way in _SHARES if tags or way != "route"], _SHARES)
        self._specs = {spec.name: spec for spec in specs}
        names, wanted = list(self._specs), speakers_wanted(recipe)
        fill(self.teacher, names)
        fill(self.judge, ["", *names], {"": "The teacher itself"})
        fill(self.student, names)
        if self.student.value() == self.teacher.value() and len(names) > 1 and "student" in wanted:
            self.student.set_value(next(name for name in names if name != self.teacher.value()))
        taking_part = self.other_names()
        self._menu.clear()
        for name in names:
            action = self._menu.addAction(name)
            action.setCheckable(True)
            action.setChecked(name in taking_part)
            action.toggled.connect(self._edited)
        self.form.setRowVisible(self.others, len(names) > 1)
        self.form.setRowVisible(self.judge, "judge" in wanted)
        self.form.setRowVisible(self.student, "student" in wanted)
        self._edited()

    def other_names(self) -> list[str]:
        """The further teachers that are ticked."""
        ticked = [action.text() for action in self._menu.actions() if action.isChecked()]
        return [name for name in ticked if name != self.teacher.value()]

    def tick(self, name: str) -> None:
        """Let another teacher take part."""
        for action in self._menu.actions():
            if action.text() == name:
                action.setChecked(True)

    def _edited(self) -> None:
        others = self.other_names()
        self.others.setText(", ".join(others) or "No other teachers")
        self.form.setRowVisible(self.share, bool(others))
        self.form.setRowVisible(self.routes, self._routed())
        self.routes.offer(self._tags, [self.teacher.value(), *others])
        for action in self._menu.actions():
            action.setVisible(action.text() != self.teacher.value())
        self.changed.emit()

    def _routed(self) -> bool:
        return bool(self.other_names()) and self.share.value() == "route"

    # ------------------------------------------------------------------------------------------------- what it says
    def specs(self) -> list[TeacherSpec]:
        """Everybody who takes part: teachers first."""
        names = [self.teacher.value(), *self.other_names()]
        names += [one.value() for one in (self.judge, self.student) if self._asked(one)]
        return [self._specs[name] for name in dict.fromkeys(names) if name in self._specs]

    def _asked(self, role: Choice) -> bool:
        return self.form.isRowVisible(role) and bool(role.value())

    def hosted(self) -> bool:
        """Whether anybody who takes part may cost money."""
        return any(spec.kind in HOSTED for spec in self.specs())

    def key_names(self) -> tuple[str, ...]:
        """The secrets that the job needs."""
        return tuple(dict.fromkeys(spec.key_name for spec in self.specs() if spec.key_name))

    def title(self) -> str:
        """The teachers' names, for a title."""
        return ", ".join([self.teacher.value(), *self.other_names()])

    def teachers(self) -> int:
        """How many teachers answer."""
        return 1 + len(self.other_names())

    def parameters(self) -> dict[str, Any]:
        """`teacher`, and as far as they take part `teachers`, `share`, `default`, `judge` and `student`.

        Raises `BadInput` when there is no teacher, or none for any tag where tags decide.
        """
        name = self.teacher.value()
        if name not in self._specs:
            raise BadInput("There is no teacher yet", "A recipe asks a teacher.", "Add one on the Teachers page.")
        found: dict[str, Any] = {"teacher": asdict(self._specs[name])}
        if others := self.other_names():
            found["teachers"] = [asdict(self._specs[one]) for one in (name, *others)]
            routes = self.routes.values() if self._routed() else {}
            if self._routed() and not routes:
                raise BadInput("No tag has a teacher", "The prompts’ tags are to decide.", "Add a tag and its teacher.")
            found |= {"share": self.share.value(), "routes": routes, "default": name}
        for role, choice in (("judge", self.judge), ("student", self.student)):
            if self._asked(choice):
                found[role] = asdict(self._specs[choice.value()])
        return found
