"""Train: set up a run, see what it will take, start it, and watch the student close in on its teacher."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from PySide6.QtCore import QTimer
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QStackedWidget, QVBoxLayout, QWidget

from kdstudio.errors import KnownError
from kdstudio.files import write_text
from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.pages import Page
from kdstudio.ui.session import ACTIVE_STATES, Session
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.empty_state import EmptyState
from kdstudio.ui.widgets.estimate_card import EstimateCard
from kdstudio.ui.widgets.fields import ElidedCombo
from kdstudio.ui.widgets.train_run import TrainRun, training_runs
from kdstudio.ui.widgets.train_setup import TrainSetup
from kdstudio.ui.widgets.train_terms import TermsCard, kept_terms, summary_before
from kdstudio.ui.widgets.wording import ago

if TYPE_CHECKING:
    from kdstudio.ui.widgets.rounds_view import RoundsView
    from kdstudio.ui.widgets.train_compare import TrainCompare

_NEW = "New training"
_ESTIMATE_MILLISECONDS = 300
_RUNS_WIDTH = (140, 320)
_WORDS_FROM = 830


class TrainPage(Page):
    """Three views: the forms of a new run with its estimate, one run with its plots, and finished runs compared."""

    key: ClassVar[str] = "train"

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(session, parent)
        self._estimating: Task | None = None
        self._summing: Task | None = None
        self._waiting_signals = ""
        self._pending: tuple[str, dict[str, Any], tuple[str, ...]] | None = None
        self.runs = ElidedCombo()
        self.runs.setObjectName("train_runs")
        self.runs.setAccessibleName("Run to show")
        self.runs.setSizeAdjustPolicy(ElidedCombo.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.runs.setMinimumWidth(_RUNS_WIDTH[0])
        self.runs.setMaximumWidth(_RUNS_WIDTH[1])
        self.start = button("Start training", icon="play", kind="primary", name="train_start", clicked=self._start)
        self.new = button("New training", icon="plus", kind="ghost", name="train_new", clicked=self.show_new)
        self.compare = button(
            "Compare runs",
            icon="scale",
            kind="ghost",
            name="train_compare",
            tip="Compare finished runs",
            clicked=self.show_compare,
        )
        self.comparison: TrainCompare | None = None  # made when it is first asked for
        tip = "A student that learns from its own answers: ask, train, measure, and again"
        self.in_rounds = button(
            "Rounds", icon="refresh", kind="ghost", name="train_rounds", tip=tip, clicked=self.show_rounds
        )
        self.rounds: RoundsView | None = None  # made when it is first asked for
        self.load = button("Open recipe…", icon="folder", name="train_load", clicked=self._ask_load)
        self.save = button("Save recipe…", icon="download", name="train_save", clicked=self._ask_save)
        self.setup = TrainSetup(session)
        self.estimate = EstimateCard("train_estimate")
        self.terms = TermsCard()
        self.run = TrainRun(session)
        self.stack = QStackedWidget()
        self.empty = EmptyState("line-chart", "", "Go to Home", lambda: session.go("home"), name="train_empty")
        self._build()
        self._timer = QTimer(self, singleShot=True, interval=_ESTIMATE_MILLISECONDS)
        self._timer.timeout.connect(self._estimate)
        self.setup.changed.connect(self._timer.start)
        self.runs.activated.connect(self._chosen)
        session.project_changed.connect(self._project_changed)
        session.run_changed.connect(self._run_changed)
        session.rows_changed.connect(self._timer.start)
        self._project_changed()

    def _build(self) -> None:
        head = self._head = QHBoxLayout()
        head.setSpacing(8)
        self.content.addLayout(head)
        self.content.addWidget(self.stack, 1)
        self._forms = QWidget()
        for view in (self.empty, self._forms, self.run):
            self.stack.addWidget(view)
        head.addWidget(self.runs, 20)
        head.addStretch(1)
        for control in (self.in_rounds, self.compare, self.new, self.run.head, self.load, self.save, self.start):
            head.addWidget(control)
        columns = QHBoxLayout(self._forms)
        columns.setContentsMargins(0, 0, 0, 0)
        columns.setSpacing(12)
        side = QVBoxLayout()
        columns.addWidget(self.setup, 1)
        columns.addLayout(side)
        side.addWidget(self.estimate)
        side.addSpacing(12)
        side.addWidget(self.terms)
        side.addStretch(1)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Where the head would be cut off, the ways to other views are icons with tool tips."""
        super().resizeEvent(event)
        narrow = event.size().width() < _WORDS_FROM
        for control, words in ((self.in_rounds, "Rounds"), (self.compare, "Compare runs")):
            control.setText("" if narrow else words)
            control.setAccessibleName(words)

    # ------------------------------------------------------------------------------------------------- showing
    def shown_with(self, arguments: dict[str, Any]) -> None:
        """`run=ID` shows that run, `rounds=ID` those rounds, `new=True` the forms; otherwise the running one."""
        if arguments.get("run"):
            self._show_run(str(arguments["run"]))
        elif arguments.get("rounds"):
            self.show_rounds(str(arguments["rounds"]))
        elif arguments.get("new") and self.session.project is not None:
            self.show_new()
        elif not self.run.run_id and self.stack.currentWidget() is not self.rounds:
            self._show_active()
        self._timer.start()

    def _project_changed(self) -> None:
        self.run.run_id = ""
        self._list_runs()
        if self.session.project is None:
            self.empty.say("Training needs a project with answers to learn from.", "Go to Home")
            self._show(self.empty)
        else:
            self._show(self._forms)
            self._show_active()
        self._timer.start()

    def _show_active(self) -> None:
        active = [run for run in training_runs(self.session.project) if run.state in ACTIVE_STATES]
        if active:
            self._show_run(active[0].id)

    def _list_runs(self) -> None:
        self.runs.clear()
        self.runs.addItem(_NEW, "")
        for run in training_runs(self.session.project):
            self.runs.addItem(f"{run.title} · {run.state} · {ago(run.finished or run.created)}", run.id)
        self.runs.setCurrentIndex(max(0, self.runs.findData(self.run.run_id)))

    def _chosen(self, index: int) -> None:
        run_id = str(self.runs.itemData(index) or "")
        if run_id:
            self._show_run(run_id)
        else:
            self.show_new()

    def show_new(self) -> None:
        """Show the forms of a new run."""
        self.run.run_id = ""
        self.runs.setCurrentIndex(0)
        self._show(self._forms)
        self._timer.start()

    def show_compare(self) -> None:
        """Show finished runs side by side."""
        if self.comparison is None:
            from kdstudio.ui.widgets.train_compare import TrainCompare

            self.comparison = TrainCompare(self.session)
            self.stack.addWidget(self.comparison)
        self.comparison.refresh()
        self._show(self.comparison)

    def show_rounds(self, plan_id: str = "") -> None:
        """Show a student's rounds; those that run, or the last ones, unless a plan is named."""
        if self.rounds is None:
            from kdstudio.ui.widgets.rounds_view import RoundsView

            self.rounds = RoundsView(self.session)
            self.stack.addWidget(self.rounds)
            self._head.insertWidget(0, self.rounds.head, 1)
        self.run.run_id = ""
        self._show(self.rounds)
        self.rounds.show_rounds(plan_id or self.session.rounds.leading or self.rounds.plan_id)

    def _show_run(self, run_id: str) -> None:
        self.run.show_run(run_id)
        self._list_runs()
        self._show(self.run)

    def _show(self, view: QWidget) -> None:
        self.stack.setCurrentWidget(view)
        for control in (self.start, self.load, self.save):
            control.setVisible(view is self._forms)
        self.run.head.setVisible(view is self.run)
        self.new.setVisible(view in (self.run, self.comparison, self.rounds))
        self.compare.setVisible(view in (self.run, self._forms))
        self.in_rounds.setVisible(view in (self.run, self._forms, self.comparison))
        self.runs.setVisible(view not in (self.empty, self.rounds))
        if self.rounds is not None:
            self.rounds.head.setVisible(view is self.rounds)

    def _run_changed(self, run_id: str) -> None:
        project = self.session.project
        if project is None:
            return
        run = project.runs.get(run_id)
        if run.kind == "train":
            self._list_runs()
        if run_id == self._waiting_signals and run.state not in ACTIVE_STATES:
            self._waiting_signals = ""
            if run.state == "finished" and self._pending is not None:
                self._launch(*self._pending)
            elif run.error:
                self.banner.show_error(run.error)

    # ------------------------------------------------------------------------------------------------ starting
    def _start(self) -> None:
        """Start what the forms say, once it is known which terms of use apply."""
        self.banner.dismiss()
        project = self.session.project
        try:
            title, parameters, keys = self.setup.job()
        except KnownError as error:
            self.show_error(error)
            return
        if project is None:
            return
        self.start.setEnabled(False)
        task = background(kept_terms, project, parameters, self.terms.text(), owner=self)
        task.done.connect(lambda kept: self._begin(title, {**parameters, **kept}, keys))
        task.failed.connect(self._refused)
        task.finished.connect(lambda: self.start.setEnabled(True))

    def _refused(self, error: KnownError) -> None:
        self.show_error(error)
        self._sum_terms()
        if not self.terms.isHidden():
            self.terms.ask()

    def _begin(self, title: str, parameters: dict[str, Any], keys: tuple[str, ...]) -> None:
        """Stored signals that are missing are stored first."""
        teacher = parameters["recipe"]["teacher"]
        if self.setup.learning.reads_signals() and teacher["signals"] == "stored":
            self._pending = (title, parameters, keys)
            signals = {"teacher": parameters["teacher"], "top_k": teacher["top_k"], "tail": teacher["tail"], "limit": 0}
            task = self.session.start("signals", signals, title=f"Signals for {title}", key_names=keys)
            task.done.connect(self._signals_started)
            task.failed.connect(self.show_error)
        else:
            self._launch(title, parameters, keys)

    def _signals_started(self, run_id: str) -> None:
        self._waiting_signals = run_id
        self.banner.show_message(
            "The teacher's signals are stored first; training starts when they are there.", tone="busy"
        )

    def _launch(self, title: str, parameters: dict[str, Any], keys: tuple[str, ...]) -> None:
        self._pending = None
        self.banner.dismiss()
        task = self.session.start("train", parameters, title=title, key_names=keys)
        task.done.connect(lambda run_id: self._show_run(str(run_id)))
        task.failed.connect(self.show_error)

    # ------------------------------------------------------------------------------------------------ estimate
    def _estimate(self) -> None:
        project = self.session.project
        if project is None or not self.isVisible():
            return
        try:
            recipe, obstacle = self.setup.recipe(), self.setup.obstacle()
        except KnownError as error:
            self.estimate.show_fault(error)
            return
        if obstacle is not None:
            self.estimate.show_fault(obstacle)
            return
        from kdstudio.ui.training_estimate import estimate_run

        if self._estimating is not None:
            self._estimating.cancel()
        spec = self.setup.teacher_spec()
        self._estimating = background(estimate_run, project, recipe, spec, owner=self)
        self._estimating.done.connect(self.estimate.show_estimate)
        self._estimating.failed.connect(self.estimate.show_fault)
        self._sum_terms()

    def _sum_terms(self) -> None:
        """Look which terms of use the rows carry."""
        project = self.session.project
        try:
            recipe = self.setup.recipe()
        except KnownError:
            return
        if project is None:
            return
        if self._summing is not None:
            self._summing.cancel()
        spec = self.setup.teacher_spec()
        self._summing = background(summary_before, project, recipe, asdict(spec) if spec else {}, owner=self)
        self._summing.done.connect(self.terms.show_summary)
        self._summing.failed.connect(self.show_error)

    # ------------------------------------------------------------------------------------------------- recipes
    def _ask_load(self) -> None:
        """Offer the recipes that come with the program, and a file."""
        from kdstudio.ui.widgets.train_recipes import TrainingRecipesSheet

        self.banner.dismiss()
        sheet = TrainingRecipesSheet(self.session, self)
        sheet.chosen.connect(self.setup.take_recipe)
        sheet.file_wanted.connect(self._ask_file)
        sheet.finished.connect(sheet.deleteLater)
        sheet.open()

    def _ask_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a training recipe", "", "Recipes (*.toml)")
        if path:
            self.load_recipe(Path(path))

    def load_recipe(self, path: Path) -> None:
        """Fill the forms from a recipe file; a mistake in it is shown in place."""
        from kdstudio.recipe import TrainingRecipe, load_recipe

        try:
            self.setup.show_recipe(load_recipe(path, TrainingRecipe))
        except KnownError as error:
            self.show_error(error)

    def _ask_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the recipe", "recipe.toml", "Recipes (*.toml)")
        if path:
            self.save_recipe(Path(path))

    def save_recipe(self, path: Path) -> None:
        """Write what the forms say; `kdstudio train PROJECT FILE` runs the same."""
        from kdstudio.recipe import to_toml

        try:
            write_text(path, to_toml(self.setup.recipe()))
        except KnownError as error:
            self.show_error(error)
            return
        self.session.say(f"Saved {path.name}. Run it with: kdstudio train PROJECT {path.name}")
