"""What all pages share: the open project, its supervisor, the person's settings, and the signals that tie them.

A page never opens a database or starts a process itself; it asks the session, and hears of the outcome by signal.
Methods that may take longer than a frame return a `Task`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, QSettings, Signal

from kdstudio import settings as settings_file
from kdstudio.errors import KnownError
from kdstudio.ui.job_bridge import JobBridge, Task, background, forgive_background, wait_for_background
from kdstudio.ui.rounds_conductor import RoundsConductor

if TYPE_CHECKING:
    from kdstudio.jobs.supervisor import Supervisor
    from kdstudio.project import Project, Run

ACTIVE_STATES = ("starting", "running", "paused", "stopping", "not responding")
_CLOSE_SECONDS = 2.0


class Session(QObject):
    """The open project and everything that acts on it.

    `project_changed`: another project, or none; `project_closing` comes before, while the old one can still be read:
    whoever keeps a connection of its own closes it now. `rows_changed`, `teachers_changed`: read them again.
    `run_changed(run_id)`: its state or progress moved. `events(run_id, lines)`: new journal lines, for live plots.
    `page_wanted(key, arguments)`: go to a page. `said(text, tone)`: a toast. `troubled(KnownError)`: a message for all
    pages. `selection_said(text)`: the status bar's left half. `rounds` leads a student through its rounds.
    """

    project_changed = Signal()
    project_closing = Signal()
    rows_changed = Signal()
    teachers_changed = Signal()
    run_changed = Signal(str)
    events = Signal(str, list)
    page_wanted = Signal(str, dict)
    said = Signal(str, str)
    troubled = Signal(object)
    selection_said = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.settings = settings_file.load()
        self.project: Project | None = None
        self.supervisor: Supervisor | None = None
        self._bridge: JobBridge | None = None
        self._active: set[str] = set()
        self.rounds = RoundsConductor(self)

    # ------------------------------------------------------------------------------------------------ project
    def open_project(self, path: Path) -> Task:
        """Open a project in place of the current one, which stays open if this fails. `done` carries the project."""
        return self._exchange(_opened, Path(path))

    def create_project(self, path: Path) -> Task:
        """Make an empty project and open it."""
        return self._exchange(_created, Path(path))

    def _exchange(self, act: Callable[[Path], tuple[Project, Supervisor]], path: Path) -> Task:
        """Swap projects. The lock is a person's own when the path is already open here: then nothing is done."""
        current = self.project
        if current is not None and current.folder.resolve() == path.resolve():
            return background(lambda: current, owner=self)
        task = background(act, path, owner=self)
        adopted = Task(self)
        task.done.connect(lambda pair: self._adopt(pair[0], pair[1], adopted))
        task.failed.connect(adopted.failed)
        task.finished.connect(adopted.finished)
        return adopted

    def _adopt(self, project: Project, supervisor: Supervisor, task: Task) -> None:
        self._release()
        self.project, self.supervisor = project, supervisor
        self._active = {run.id for run in project.runs.list() if run.state in ACTIVE_STATES}
        self._bridge = JobBridge(project, supervisor, self)
        self._bridge.events.connect(self.events)
        self._bridge.run_changed.connect(self._run_moved)
        self._bridge.rows_changed.connect(self.rows_changed)
        self._bridge.troubled.connect(self.troubled)
        self._bridge.start()
        settings_file.remember_project(project.folder)
        self.settings = settings_file.load()
        self.project_changed.emit()
        task.done.emit(project)

    def close(self) -> None:
        """Close the project; its running jobs go on by themselves."""
        if self.project is not None:
            self._release()
            self.project_changed.emit()

    def _release(self) -> None:
        if self.project is not None:
            self.project_closing.emit()
        if self._bridge is not None:
            self._bridge.stop()
            self._bridge.deleteLater()
        project, self._bridge, self.supervisor, self.project = self.project, None, None, None
        self._active = set()
        if project is not None:
            forgive_background()
            wait_for_background(_CLOSE_SECONDS)  # reads end in milliseconds; a long import is rolled back instead
            project.close()

    # --------------------------------------------------------------------------------------------------- runs
    def start(
        self,
        kind: str,
        parameters: dict[str, Any],
        *,
        title: str = "",
        key_names: Iterable[str] = (),
        anew: bool = False,
    ) -> Task:
        """Start a job; `done` carries its run id. `key_names` are secrets that the child needs, by name."""
        names = tuple(key_names)
        return self._act(
            lambda jobs: jobs.start(kind, parameters, title=title or kind, secrets=found_secrets(names), anew=anew)
        )

    def resume(self, run_id: str) -> Task:
        """Let a paused run go on, or continue a broken one where it stopped; `done` carries its id."""
        return self._act(lambda jobs: jobs.resume(run_id, secrets=found_secrets(self._secret_names(run_id))))

    def pause(self, run_id: str) -> Task:
        """Ask a run to pause; `done` carries its id."""
        return self._act(lambda jobs: jobs.pause(run_id), run_id)

    def stop(self, run_id: str) -> Task:
        """Ask a run to stop and keep what was done; `done` carries its id."""
        return self._act(lambda jobs: jobs.stop(run_id), run_id)

    def _act(self, function: Callable[[Supervisor], str | None], run_id: str = "") -> Task:
        supervisor = self.supervisor

        def act() -> str:
            if supervisor is None:
                raise KnownError("No project is open", "A job belongs to a project.", "Open or create one on Home.")
            return function(supervisor) or run_id

        task = background(act, owner=self)
        task.done.connect(self._run_moved)
        return task

    def _secret_names(self, run_id: str) -> tuple[str, ...]:
        from kdstudio.jobs.folder import read_job

        return read_job(self.project.runs_folder / run_id).secret_names if self.project is not None else ()

    def runs(self, kind: str | None = None) -> list[Run]:
        """The project's runs, newest first; none without a project."""
        return self.project.runs.list(kind) if self.project is not None else []

    def active_runs(self) -> list[Run]:
        """The runs that are not over, newest first; cheap enough for every redraw."""
        if self.project is None:
            return []
        return [self.project.runs.get(run_id) for run_id in sorted(self._active, reverse=True)]

    def _run_moved(self, run_id: str) -> None:
        """Keep in mind which runs are active, then tell everybody."""
        if self.project is None:
            return
        if self.project.runs.get(run_id).state in ACTIVE_STATES:
            self._active.add(run_id)
        else:
            self._active.discard(run_id)
        self.run_changed.emit(run_id)

    # ------------------------------------------------------------------------------------------------- history
    def undo(self) -> Task:
        """Take back the last change of rows; `done` carries its label, or None if there was nothing."""
        return self._turn("undo")

    def redo(self) -> Task:
        """Do again what was undone."""
        return self._turn("redo")

    def _turn(self, direction: str) -> Task:
        project = self.project
        if project is None:
            return background(lambda: None, owner=self)
        task = background(getattr(project.history, direction), owner=self, in_order=True)
        task.done.connect(lambda label: self._turned(direction, label))
        task.failed.connect(self.troubled)
        return task

    def _turned(self, direction: str, label: str | None) -> None:
        if label is None:
            self.said.emit(f"Nothing to {direction}", "idle")
            return
        self.rows_changed.emit()
        self.said.emit(f"{'Undone' if direction == 'undo' else 'Redone'}: {label}", "idle")

    # ------------------------------------------------------------------------------------------------- messages
    def go(self, page: str, **arguments: Any) -> None:
        """Show a page by key; `arguments` reach its `shown_with` (which run, which filter, which file)."""
        self.page_wanted.emit(page, arguments)

    def say(self, text: str, tone: str = "good") -> None:
        """Show a toast for a few seconds."""
        self.said.emit(text, tone)

    def remember(self, what: str) -> None:
        """Note for this project on this machine that something was done once (e.g. "chatted")."""
        if self.project is not None:
            self.window_settings().setValue(self._note_key(what), True)

    def remembers(self, what: str) -> bool:
        """Whether `remember(what)` was called for this project."""
        return self.project is not None and self.window_settings().contains(self._note_key(what))

    def _note_key(self, what: str) -> str:
        assert self.project is not None  # noqa: S101 - both callers asked
        digest = hashlib.blake2b(str(self.project.folder.resolve()).encode(), digest_size=8).hexdigest()
        return f"{what}/{digest}"

    def window_settings(self) -> QSettings:
        """Geometry and the like, in an INI file beside the other settings."""
        path = settings_file.config_folder() / "window.ini"
        return QSettings(str(path), QSettings.Format.IniFormat)

    def change_settings(self, **changes: Any) -> None:
        """Change some of the person's settings and write them."""
        self.settings = settings_file.load().model_copy(update=changes)
        settings_file.save(self.settings)


def _opened(path: Path) -> tuple[Project, Supervisor]:
    from kdstudio.jobs.supervisor import Supervisor
    from kdstudio.project import Project

    project = Project.open(path)
    return _supervised(project, Supervisor)


def _created(path: Path) -> tuple[Project, Supervisor]:
    from kdstudio.jobs.supervisor import Supervisor
    from kdstudio.project import Project

    project = Project.create(path)
    return _supervised(project, Supervisor)


def _supervised(project: Project, shape: type[Supervisor]) -> tuple[Project, Supervisor]:
    try:
        return project, shape(project)
    except BaseException:
        project.close()
        raise


def found_secrets(names: Iterable[str]) -> dict[str, str]:
    """The secrets that a job needs, by name. Raises `KnownError` for one that nobody knows."""
    from kdstudio import secrets

    found = {name: secrets.find(name) for name in names if name}
    missing = [name for name, value in found.items() if not value]
    if missing:
        raise KnownError(
            "A key is missing",
            f"No API key called {missing[0]!r} is known in this session, the keyring or the environment.",
            "Enter it on the Teachers page.",
        )
    return found
