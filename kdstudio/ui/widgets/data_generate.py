"""Asking a teacher: which recipe, whom, which prompts, how; then a job whose rows come in while it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QFileDialog, QFormLayout, QFrame, QHBoxLayout, QLabel, QScrollArea, QSpinBox, QWidget

from kdstudio.errors import KnownError
from kdstudio.jobs.requests import elicitation_parameters, key_names
from kdstudio.recipe import ElicitationRecipe, load_recipe, recipe_hash, shipped_recipes
from kdstudio.registry import Parameter
from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.data_dialog import Sheet
from kdstudio.ui.widgets.data_generate_settings import CAPTION_WIDTH, GenerateSettings
from kdstudio.ui.widgets.fields import Choice, WholeNumber
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.wording import number, plural

if TYPE_CHECKING:
    from kdstudio.models.spec import TeacherSpec
    from kdstudio.project import Project

_FILE = "file"
_COUNTED = 20_000
_COUNT_MILLISECONDS = 200
_WIDTH = 600


@dataclass(frozen=True)
class Known:
    """What the dialog offers: recipes by id, teachers, the prompts' tags."""

    recipes: dict[str, ElicitationRecipe]
    teachers: list[TeacherSpec]
    tags: list[str]


def read_known(project: Project) -> Known:
    """Read it; for a background task."""
    from contextlib import closing

    from kdstudio.project.table import RowTable

    with closing(RowTable(project.folder)) as table:
        tags = table.tags()
    return Known(shipped_recipes(), [teacher.spec for teacher in project.teachers.list()], tags)


def count_open(project: Project, teacher: str, hash_: str, status: str, tag: str, limit: int) -> int:
    """How many prompts would be asked, at most `_COUNTED` + 1; for a background task."""
    most = min(limit or _COUNTED + 1, _COUNTED + 1)
    found = project.rows.prompts(status=status, tag=tag, limit=most, unanswered_by=(teacher, hash_, ""))
    return sum(prompt.status != "rejected" for prompt in found)


def _caption(words: str) -> QLabel:
    made = label(words)
    made.setMinimumWidth(CAPTION_WIDTH)
    return made


class GenerateDialog(Sheet):
    """`started(run_id)`: the job began."""

    started = Signal(str)

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        words = "The answers come in as pending rows while the teacher works."
        super().__init__(session, "generate_sheet", "Ask a teacher", words, parent)
        self._known = Known({}, [], [])
        self._recipe: ElicitationRecipe | None = None
        self._counting: Task | None = None
        self.settings: GenerateSettings | None = None
        self.recipe = Choice(())
        self.purpose = label("", "small", wrap=True, name="generate_purpose")
        self.teacher = Choice(())
        self.status = Choice(
            ("any", "accepted", "pending"), {"any": "All but rejected", "accepted": "Accepted", "pending": "Pending"}
        )
        self.tag = Choice(("",), {"": "Any tag"})
        whole = Parameter("limit", "int", 0, "At most this many prompts; 0 means all.", 0, None)
        self.limit: QSpinBox = WholeNumber(whole)
        self.count = label("", "dim", wrap=True, name="generate_count")
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_COUNT_MILLISECONDS)
        self._timer.timeout.connect(self._count)
        self._build()
        self._connect()
        self.resize(_WIDTH, 600)
        self._reload()

    # ------------------------------------------------------------------------------------------------ building
    def _build(self) -> None:
        inner = QWidget()
        inner.setProperty("role", "scrolled")
        self.form = QFormLayout(inner)
        self.form.setContentsMargins(0, 0, 8, 0)
        self.form.setHorizontalSpacing(14)
        self.form.setVerticalSpacing(8)
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for widget, name, words in (
            (self.recipe, "generate_recipe", "Recipe"),
            (self.teacher, "generate_teacher", "Teacher"),
            (self.status, "generate_status", "Status of the prompts"),
            (self.tag, "generate_tag", "Tag of the prompts"),
            (self.limit, "generate_limit", "Most prompts to ask"),
        ):
            widget.setObjectName(name)
            widget.setAccessibleName(words)
            if isinstance(widget, Choice):
                widget.setSizeAdjustPolicy(Choice.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
                widget.setMinimumContentsLength(8)
        self.limit.setToolTip("At most this many prompts; 0 means all.")
        self.limit.setSpecialValueText("All")
        prompts = QHBoxLayout()
        prompts.setSpacing(8)
        prompts.addWidget(self.status, 1)
        prompts.addWidget(self.tag, 1)
        self.form.addRow(_caption("Recipe"), self.recipe)
        self.form.addRow(_caption(""), self.purpose)
        self.form.addRow(_caption("Teacher"), self.teacher)
        self.form.addRow(_caption("Prompts"), prompts)
        self.form.addRow(_caption("At most"), self.limit)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(inner)
        self.body.addWidget(area, 1)
        self.body.addWidget(self.count)
        self.add_cancel()
        self.start = self.add_button(
            button("Start asking", icon="sparkles", kind="primary", name="generate_start", clicked=self._start),
            default=True,
        )

    def _connect(self) -> None:
        self.recipe.activated.connect(self._recipe_chosen)
        for one in (self.teacher, self.status, self.tag):
            one.changed.connect(self._soon)
        self.limit.valueChanged.connect(lambda _value: self._soon())
        self.session.teachers_changed.connect(self._reload)

    def _reload(self) -> None:
        self.start.setEnabled(False)
        project = self.session.project
        if project is not None:
            task = background(read_known, project, owner=self)
            task.done.connect(self._offer)
            task.failed.connect(self.show_error)

    def _offer(self, known: Known) -> None:
        self._known = known
        self.recipe.clear()
        for key, recipe in known.recipes.items():
            self.recipe.addItem(recipe.recipe.title, key)
        self.recipe.addItem("From a file…", _FILE)
        for choice, entries in ((self.teacher, [spec.name for spec in known.teachers]), (self.tag, known.tags)):
            before = choice.value()
            choice.blockSignals(True)
            while choice.count() > (1 if choice is self.tag else 0):
                choice.removeItem(choice.count() - 1)
            for entry in entries:
                choice.addItem(entry, entry)
            choice.set_value(before)
            choice.blockSignals(False)
        if not known.teachers:
            self.banner.show_message(
                "There is no teacher yet",
                "A teacher is a local GGUF file or an endpoint.",
                tone="warn",
                action="Add a teacher",
                on_action=self._to_teachers,
            )
        if known.recipes:
            self._show_recipe(next(iter(known.recipes.values())))

    def _to_teachers(self) -> None:
        self.reject()
        self.session.go("teachers")

    # ------------------------------------------------------------------------------------------------- choosing
    def _recipe_chosen(self, index: int) -> None:
        key = self.recipe.itemData(index)
        if key == _FILE:
            chosen, _ = QFileDialog.getOpenFileName(self, "A recipe", str(Path.home()), "Recipes (*.toml)")
            self.take_recipe(Path(chosen) if chosen else None)
            return
        self._show_recipe(self._known.recipes[key])

    def take_recipe(self, path: Path | None) -> None:
        """Use a recipe of the person's own; a mistake in it is shown with its line."""
        try:
            recipe = load_recipe(path, ElicitationRecipe) if path is not None else None
        except KnownError as error:
            self.show_error(error)
            recipe = None
        if recipe is None:
            before = self._recipe.recipe.id if self._recipe is not None else ""
            self.recipe.set_value(before)
            return
        if recipe.recipe.id not in self._known.recipes:
            self.recipe.insertItem(self.recipe.count() - 1, recipe.recipe.title, recipe.recipe.id)
        self._known.recipes[recipe.recipe.id] = recipe
        self.recipe.set_value(recipe.recipe.id)
        self._show_recipe(recipe)

    def _show_recipe(self, recipe: ElicitationRecipe) -> None:
        self._recipe = recipe
        self.recipe.set_value(recipe.recipe.id)
        self.purpose.setText(recipe.recipe.purpose)
        if self.settings is not None:
            self.form.removeRow(self.settings)
        self.settings = GenerateSettings(recipe)
        self.settings.changed.connect(self._soon)
        self.form.addRow(self.settings)
        self._soon()

    # ------------------------------------------------------------------------------------------------- counting
    def _soon(self) -> None:
        self._timer.start()

    def _count(self) -> None:
        project, settings = self.session.project, self.settings
        self.start.setEnabled(False)
        if project is None or settings is None or not self.teacher.value() or settings.errors():
            self.count.setText("")
            return
        try:
            hash_ = recipe_hash(settings.recipe())
        except KnownError as error:
            self.show_error(error)
            return
        if self._counting is not None:
            self._counting.cancel()
        wanted = (self.teacher.value(), hash_, self.status.value(), self.tag.value(), self.limit.value())
        self._counting = background(count_open, project, *wanted, owner=self)
        self._counting.done.connect(self._counted)
        self._counting.failed.connect(self.show_error)

    def _counted(self, count: int) -> None:
        settings = self.settings
        if settings is None:
            return
        self.start.setEnabled(count > 0)
        if not count:
            self.count.setText("Nothing to ask: no prompt matches, or this teacher has answered all with this recipe.")
            return
        requests = count * settings.requests_per_prompt()
        shown = f"more than {number(_COUNTED)} prompts" if count > _COUNTED else plural(count, "prompt")
        if count > _COUNTED:
            self.count.setText(f"Asks {shown} that have no such answer yet.")
            return
        most = number(count * settings.longest())
        self.count.setText(
            f"Asks {shown} that have no such answer yet: {plural(requests, 'answer')}, at most {most} tokens."
        )

    # ------------------------------------------------------------------------------------------------- starting
    def _start(self) -> None:
        settings = self.settings
        spec = next((one for one in self._known.teachers if one.name == self.teacher.value()), None)
        if settings is None or spec is None or settings.errors():
            return
        try:
            recipe = settings.recipe()
        except KnownError as error:
            self.show_error(error)
            return
        parameters = elicitation_parameters(
            recipe,
            asdict(spec),
            status=self.status.value(),
            tag=self.tag.value(),
            limit=self.limit.value(),
            values=settings.values(),
        )
        self.start.setEnabled(False)
        title = f"{recipe.recipe.title} by {spec.name}"
        task = self.session.start("elicit", parameters, title=title, key_names=key_names(parameters["teacher"]))
        task.done.connect(self._begun)
        task.failed.connect(self._failed)

    def _begun(self, run_id: str) -> None:
        self.started.emit(run_id)
        self.accept()

    def _failed(self, error: KnownError) -> None:
        self.start.setEnabled(True)
        self.show_error(error)
