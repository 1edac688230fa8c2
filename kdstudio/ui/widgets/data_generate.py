"""Generate: choose a recipe, set it up, try it on three rows, see what all will take, and start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QCloseEvent, QKeyEvent
from PySide6.QtWidgets import QPushButton, QStackedWidget, QWidget

from kdstudio.catalogue.columns import flows
from kdstudio.catalogue.cost import questions
from kdstudio.errors import KnownError
from kdstudio.jobs.requests import elicitation_parameters
from kdstudio.recipe import ElicitationRecipe, recipe_hash
from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.recipe_offer import OWN_FOLDER, Counted, Offer, Offered, Wanted, count_rows, offered_file, read_offer
from kdstudio.ui.session import Session
from kdstudio.ui.trial_record import ROWS
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.data_dialog import Sheet
from kdstudio.ui.widgets.data_generate_trial import TrialPage
from kdstudio.ui.widgets.recipe_form import RecipeForm
from kdstudio.ui.widgets.recipe_gallery import RecipeGallery
from kdstudio.ui.widgets.wording import number, plural, told

if TYPE_CHECKING:
    from pathlib import Path

_COUNT_MILLISECONDS = 200
_SIZE, _SHARE = (1160, 800), 0.93
_TITLE = "Generate"
_WORDS = "Choose how knowledge is drawn from a teacher. Arrows and Enter work; your own recipes are under “Mine”."


@dataclass(frozen=True)
class Launch:
    """A run that is ready to start."""

    title: str
    parameters: dict[str, Any]
    key_names: tuple[str, ...]
    kind: str


class GenerateDialog(Sheet):
    """Three pages. `started(run_id, kind)`: the job began, and makes rows of that kind.

    A recipe with rounds has a sheet of its own: `rounds_chosen(Offered, Offer)`.
    """

    started = Signal(str, str)
    rounds_chosen = Signal(object, object)

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(session, "generate_sheet", _TITLE, _WORDS, parent)
        self.offer = Offer()
        self._offered: Offered | None = None
        self._counting: Task | None = None
        self._counted = Counted(0)
        self.gallery = RecipeGallery()
        self.form = RecipeForm()
        self.trial = TrialPage(session)
        self.stack = QStackedWidget()
        for page in (self.gallery, self.form, self.trial):
            self.stack.addWidget(page)
        self.body.addWidget(self.stack, 1)
        self._timer = QTimer(self, singleShot=True, interval=_COUNT_MILLISECONDS)
        self._timer.timeout.connect(self._count)
        self._add_buttons()
        self._connect()
        room = parent.window().size() if parent is not None else self.size()
        self.resize(*(min(most, round(_SHARE * side)) for most, side in zip(_SIZE, room.toTuple(), strict=True)))
        self._go(self.gallery)
        self._reload()

    def _add_buttons(self) -> None:
        self.back = button("Back", icon="arrow-left", kind="ghost", name="generate_back", clicked=self.go_back)
        self.back.setAutoDefault(False)
        self.foot.insertWidget(0, self.back)
        self.open_file = self._button("Open a file…", "generate_open", self._ask_file, icon="folder-open")
        self.save = self._button("Save as my recipe…", "generate_save", self._save, icon="save")
        self.cancel = self.add_cancel()
        self.skip = self._button("Start without a trial", "generate_skip", self._start)
        self.try_ = self._button("Try three rows", "generate_try", self._try, icon="play", kind="primary")
        self.start = self._button("Start", "generate_start", self._start, icon="sparkles", kind="primary")
        self.skip.setToolTip("What runs on this machine costs nothing but time")

    def _button(self, words: str, name: str, act: Any, *, icon: str = "", kind: Any = "normal") -> QPushButton:
        return self.add_button(button(words, icon=icon, kind=kind, name=name, clicked=act))

    def _connect(self) -> None:
        self.gallery.chosen.connect(self.choose)
        self.gallery.left.connect(self.reject)
        self.form.changed.connect(self._timer.start)
        self.trial.ended.connect(self._tried)
        self.trial.failed.connect(self.show_error)
        self.session.teachers_changed.connect(self._reload)

    # ------------------------------------------------------------------------------------------------- pages
    def _go(self, page: QWidget) -> None:
        self.stack.setCurrentWidget(page)
        gallery, form, trial = (page is one for one in (self.gallery, self.form, self.trial))
        self.back.setVisible(not gallery)
        self.open_file.setVisible(gallery)
        self.save.setVisible(form)
        self.try_.setVisible(form)
        self.start.setVisible(trial)
        head = self._offered.recipe.recipe if self._offered is not None and self._offered.recipe is not None else None
        self.title.setText(head.title if head is not None and not gallery else _TITLE)
        self.words.setText(_WORDS if gallery else self._words_of(trial=trial))
        self._show_skip()
        {gallery: self.gallery.search, form: self.form.speakers.teacher}.get(True, self.start).setFocus()

    def _words_of(self, *, trial: bool) -> str:
        if trial:
            return "Nothing is written yet: look at what came out of each step, and at what all rows will take."
        return f"Set it up, then try it on three rows before anything is spent. {self.form.cost().capitalize()}."

    def _show_skip(self) -> None:
        form = self.stack.currentWidget() is self.form
        self.skip.setVisible(form and not self.form.speakers.hosted())

    def go_back(self) -> None:
        """To the page before; a trial that runs is stopped."""
        self.banner.dismiss()
        if self.stack.currentWidget() is self.trial:
            self.trial.stop()
            self._go(self.form)
        else:
            self._go(self.gallery)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Escape goes back a page, and from the gallery away."""
        if event.key() == Qt.Key.Key_Escape and self.stack.currentWidget() is not self.gallery:
            self.go_back()
        else:
            super().keyPressEvent(event)

    def closeEvent(self, event: QCloseEvent) -> None:
        """Nobody looks at the trial any more."""
        self.trial.stop()
        super().closeEvent(event)

    def reject(self) -> None:
        """Close; a trial that runs is stopped."""
        self.trial.stop()
        super().reject()

    # ------------------------------------------------------------------------------------------------- gallery
    def _reload(self) -> None:
        project = self.session.project
        if project is not None:
            task = background(read_offer, project, owner=self)
            task.done.connect(self._offer_all)
            task.failed.connect(self.show_error)

    def _offer_all(self, offer: Offer) -> None:
        self.offer = offer
        self.gallery.show_offer(offer)
        if self._offered is not None and self._offered.recipe is not None:
            self.form.speakers.offer(self._offered.recipe, offer.teachers, offer.tags)
        if offer.teachers:
            return
        self.banner.show_message(
            "There is no teacher yet",
            "A teacher is a local GGUF file or an endpoint.",
            tone="warn",
            action="Add a teacher",
            on_action=self._to_teachers,
        )

    def _to_teachers(self) -> None:
        self.reject()
        self.session.go("teachers")

    def choose(self, offered: Offered) -> None:
        """Set a recipe up; one that cannot be read says why, with its line."""
        if offered.rounds is not None:
            self.reject()
            self.rounds_chosen.emit(offered, self.offer)
            return
        if offered.recipe is None:
            self.show_error(offered.fault or KnownError("The recipe cannot be read", offered.key))
            return
        if self.offer.teachers:
            self.banner.dismiss()
        self._offered = offered
        self.try_.setEnabled(False)
        self.form.show_recipe(offered.recipe, self.offer)
        self._go(self.form)

    def _ask_file(self) -> None:
        from pathlib import Path

        from PySide6.QtWidgets import QFileDialog

        chosen, _ = QFileDialog.getOpenFileName(self, "A recipe", str(Path.home()), "Recipes (*.toml)")
        if chosen:
            self.take_recipe(Path(chosen))

    def take_recipe(self, path: Path) -> None:
        """Use a recipe file from anywhere; a mistake in it is shown with its line."""
        self.choose(offered_file(path))

    # ------------------------------------------------------------------------------------------------- saving
    def _save(self) -> None:
        from kdstudio.ui.widgets.recipe_save import SaveRecipeSheet

        project = self.session.project
        try:
            recipe = self.form.recipe()
        except KnownError as error:
            self.show_error(error)
            return
        if project is None:
            return
        sheet = SaveRecipeSheet(self.session, project.folder / OWN_FOLDER, recipe, self)
        sheet.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        sheet.saved.connect(self._saved)
        sheet.open()

    def _saved(self, path: Path) -> None:
        self.banner.dismiss()
        self._offered = offered_file(path)
        self.session.say(f"Saved {OWN_FOLDER}/{path.name}. Run it with: kdstudio elicit PROJECT --recipe {path.name}")
        if self._offered.recipe is not None:
            self.form.show_recipe(self._offered.recipe, self.offer)
        self._go(self.form)
        self._reload()

    # ------------------------------------------------------------------------------------------------- counting
    def _count(self) -> None:
        """Count the rows that would begin, and say what is in the way."""
        project = self.session.project
        self._show_skip()
        self._ready(ready=False)
        if project is None:
            return
        try:
            recipe, teacher = self.form.recipe(), self.form.speakers.parameters()["teacher"]["name"]
        except KnownError as error:
            self.form.say(told(error), fault=True)
            return
        if self._counting is not None:
            self._counting.cancel()
        rows = self.form.rows()
        wanted = Wanted(recipe, recipe_hash(recipe), teacher, rows["status"], rows["tag"], rows["limit"])
        self._counting = background(count_rows, project, wanted, owner=self)
        self._counting.done.connect(lambda counted: self._show_count(recipe, counted))
        self._counting.failed.connect(lambda error: self.form.say(told(error), fault=True))

    def _ready(self, *, ready: bool) -> None:
        for one in (self.try_, self.skip):
            one.setEnabled(ready)

    def _show_count(self, recipe: ElicitationRecipe, counted: Counted) -> None:
        self._counted = counted
        self._ready(ready=counted.rows > 0)
        if not counted.rows:
            self.form.say(counted.nothing or "Nothing to ask.", fault=True)
            return
        shown = f"{'more than ' if counted.more else ''}{plural(counted.rows, counted.noun)}"
        new = " that have no such answer yet" if counted.noun == "prompt" else ""
        asked = plural(counted.rows * questions(recipe.step, self.form.speakers.teachers()), "question")
        most = counted.rows * self.form.longest()
        tokens = f", at most {number(most)} tokens in answers" if most else ""
        self.form.say(f"Asks about {shown}{new}: {asked}{tokens}.")

    # ------------------------------------------------------------------------------------------------- starting
    def launch(self) -> Launch:
        """What would be started now. Raises `BadInput` for what cannot run."""
        recipe, spoken = self.form.recipe(), self.form.speakers.parameters()
        values = {name: table.default for name, table in recipe.parameters.items()}
        parameters = spoken | elicitation_parameters(recipe, spoken["teacher"], **self.form.rows(), values=values)
        parameters |= self.trial.limits()
        title = f"{recipe.recipe.title} by {self.form.speakers.title()}"
        return Launch(title, parameters, self.form.speakers.key_names(), kind_of(recipe))

    def _try(self) -> None:
        try:
            launch = self.launch()
            recipe = self.form.recipe()
            found = flows(recipe.step, recipe.input, recipe.parameters)
        except KnownError as error:
            self.show_error(error)
            return
        self.banner.dismiss()
        self.start.setEnabled(False)
        self._go(self.trial)
        parameters = {**launch.parameters, "trial": ROWS}
        hosted = self.form.speakers.hosted()
        self.trial.begin(f"Trial of {launch.title}", parameters, launch.key_names, found, hosted=hosted)

    def _tried(self) -> None:
        self.trial.show_forecast(self._counted.rows, more=self._counted.more)
        self.start.setEnabled(True)
        self.start.setFocus()

    def _start(self) -> None:
        try:
            launch = self.launch()
        except KnownError as error:
            self.show_error(error)
            return
        self.start.setEnabled(False)
        self._ready(ready=False)
        task = self.session.start("elicit", launch.parameters, title=launch.title, key_names=launch.key_names)
        task.done.connect(lambda run_id: self._begun(str(run_id), launch.kind))
        task.failed.connect(self._failed)

    def _begun(self, run_id: str, kind: str) -> None:
        self.started.emit(run_id, kind)
        self.accept()

    def _failed(self, error: KnownError) -> None:
        self.start.setEnabled(True)
        self._ready(ready=True)
        self.show_error(error)


def kind_of(recipe: ElicitationRecipe) -> str:
    """The kind of rows that the recipe ends with."""
    kinds: Sequence[str] = [step.kind for step in recipe.step if step.type == "emit"]
    return "response" if kinds[-1] == "label" else kinds[-1]
