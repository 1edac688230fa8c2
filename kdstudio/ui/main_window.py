"""The window's frame: navigation, pages, jobs panel, status bar; what belongs to no single page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6.QtCore import QByteArray, QEvent, QObject, QSize, Qt
from PySide6.QtGui import QCloseEvent, QDragEnterEvent, QDropEvent, QPaintEvent
from PySide6.QtWidgets import (
    QDockWidget,
    QFileDialog,
    QHBoxLayout,
    QMainWindow,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from kdstudio.errors import KnownError
from kdstudio.ui.menus import Menus
from kdstudio.ui.pages import DROPS, PAGES, Page
from kdstudio.ui.session import ACTIVE_STATES, Session
from kdstudio.ui.theme import Choice, theme
from kdstudio.ui.widgets.banner import ErrorBanner
from kdstudio.ui.widgets.jobs_panel import JobsPanel
from kdstudio.ui.widgets.navigation import Navigation
from kdstudio.ui.widgets.status_line import StatusLine
from kdstudio.ui.widgets.toast import Toasts
from kdstudio.ui.widgets.wording import kind_words

_LAYOUT_VERSION = 1
_JOBS_HEIGHT = 210


class MainWindow(QMainWindow):
    """The one window. Pages are built when first shown; `painted` is true from the first paint on."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.painted = False
        self._pages: dict[str, Page] = {}
        self._states: dict[str, str] = {}
        self._closing = False
        self.setObjectName("main_window")
        self.setWindowTitle("KD Studio")
        self.setMinimumSize(QSize(980, 640))
        self.setAcceptDrops(True)
        self.banner = ErrorBanner("window_banner")
        self.navigation = Navigation()
        self.stack = QStackedWidget()
        self.jobs = JobsPanel(session)
        self.dock = self._make_dock()
        self.status = StatusLine(session)
        self.toasts = Toasts(self)
        self._build()
        self.menus = Menus(self)
        self._connect()
        self.reset_layout()
        self._restore_layout()
        self.show_page("home")
        self.stack.setFocus()

    # ------------------------------------------------------------------------------------------------ building
    def _build(self) -> None:
        middle = QWidget()
        middle.setProperty("role", "page")
        row = QHBoxLayout(middle)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        row.addWidget(self.navigation)
        column = QVBoxLayout()
        column.setSpacing(0)
        holder = self._banner_row = QHBoxLayout()
        holder.setContentsMargins(0, 0, 0, 0)
        holder.addWidget(self.banner)
        self.banner.installEventFilter(self)
        column.addLayout(holder)
        column.addWidget(self.stack, 1)
        row.addLayout(column, 1)
        self.setCentralWidget(middle)
        self.addDockWidget(Qt.DockWidgetArea.BottomDockWidgetArea, self.dock)
        self.setStatusBar(self.status)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """The banner stands free of the window's edges; a hidden one takes no room."""
        if watched is self.banner and event.type() in (QEvent.Type.Show, QEvent.Type.Hide):
            shown = event.type() == QEvent.Type.Show
            self._banner_row.setContentsMargins(*((14, 12, 14, 0) if shown else (0, 0, 0, 0)))
        return super().eventFilter(watched, event)

    def _make_dock(self) -> QDockWidget:
        dock = QDockWidget("Jobs", self)
        dock.setObjectName("jobs_dock")
        dock.setWidget(self.jobs)
        dock.setFeatures(QDockWidget.DockWidgetFeature.NoDockWidgetFeatures)
        dock.setTitleBarWidget(QWidget())
        return dock

    def _connect(self) -> None:
        session = self.session
        session.page_wanted.connect(self.show_page)
        session.said.connect(self.toasts.show)
        session.troubled.connect(self.banner.show_error)
        session.project_changed.connect(self._project_changed)
        session.run_changed.connect(self._run_changed)
        session.selection_said.connect(self.status.say)
        self.navigation.chosen.connect(self.show_page)
        self.navigation.jobs_wanted.connect(lambda _checked: self.toggle_jobs())
        self.dock.visibilityChanged.connect(self._jobs_shown)
        self.jobs.failed.connect(self.banner.show_error)
        self.jobs.log_wanted.connect(self.show_log)
        self.jobs.hide_wanted.connect(self.dock.hide)
        self.status.stop_wanted.connect(self._stop)

    # --------------------------------------------------------------------------------------------------- pages
    def page(self, key: str) -> Page:
        """The page with that key, built on first use."""
        if key not in self._pages:
            entry = next(entry for entry in PAGES if entry.key == key)
            self._pages[key] = entry.make(self.session)
            self.stack.addWidget(self._pages[key])
        return self._pages[key]

    def show_page(self, key: str, arguments: dict[str, Any] | None = None) -> None:
        """Bring a page to the front and tell it why."""
        shown = self.page(key)
        self.stack.setCurrentWidget(shown)
        self.navigation.choose(key)
        self.status.say(shown.selection_words())
        shown.shown_with(arguments or {})

    # ------------------------------------------------------------------------------------------------- project
    def open_project(self, path: Path) -> None:
        """Open a project; what goes wrong is said above the page."""
        self.banner.dismiss()
        self.session.open_project(path).failed.connect(self.banner.show_error)

    def create_project(self, path: Path) -> None:
        """Make a project and open it."""
        self.banner.dismiss()
        self.session.create_project(path).failed.connect(self.banner.show_error)

    def ask_open_project(self) -> None:
        """Let the person choose a project's folder."""
        chosen = QFileDialog.getExistingDirectory(
            self, "Open a project (a .kdstudio folder)", str(_usual_folder(self.session))
        )
        if chosen:
            self.open_project(Path(chosen))

    def ask_new_project(self) -> None:
        """Let the person name a new project."""
        start = str(_usual_folder(self.session) / "My project.kdstudio")
        chosen, _ = QFileDialog.getSaveFileName(self, "New project", start, "KD Studio project (*.kdstudio)")
        if chosen:
            self.create_project(Path(chosen))

    def _project_changed(self) -> None:
        project = self.session.project
        self.setWindowTitle(f"{project.name} – KD Studio" if project is not None else "KD Studio")
        self._states = {run.id: run.state for run in self.session.runs()}
        self._count_running()
        if self._running():
            self.dock.show()

    # ---------------------------------------------------------------------------------------------------- jobs
    def toggle_jobs(self) -> None:
        """Show or hide the jobs panel."""
        self.dock.setVisible(not self.dock.isVisible())

    def _jobs_shown(self, visible: bool) -> None:
        self.navigation.jobs.setChecked(visible)
        self.menus.actions["jobs"].setChecked(visible)

    def show_log(self, run_id: str) -> None:
        """Open the log of a run."""
        from kdstudio.ui.widgets.log_dialog import LogDialog

        if self.session.project is not None:
            run = self.session.project.runs.get(run_id)
            dialog = LogDialog(self.session.project.runs_folder / run_id, run.title or kind_words(run.kind), self)
            dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
            dialog.show()

    def _stop(self, run_id: str) -> None:
        self.session.stop(run_id).failed.connect(self.banner.show_error)

    def _run_changed(self, run_id: str) -> None:
        if self.session.project is None:
            return
        run = self.session.project.runs.get(run_id)
        before = self._states.get(run_id)
        self._states[run_id] = run.state
        self._count_running()
        if before is None and run.state in ACTIVE_STATES:
            self.dock.show()
        if before in (None, *ACTIVE_STATES) and run.state not in ACTIVE_STATES:
            self._say_end(run.title or kind_words(run.kind), run.state, run.error)
        if self._closing and not self._running():
            self.close()

    def _say_end(self, title: str, state: str, error: dict[str, Any]) -> None:
        tone = {"finished": "good", "stopped": "idle"}.get(state, "bad")
        words = {"stopped": "stopped; what was done is kept", "interrupted": "was interrupted"}
        said = words.get(state, state)
        reason = f": {error['title']}" if state == "failed" and error.get("title") else ""
        self.toasts.show(f"{title} {said}{reason}", tone)

    def _running(self) -> list[str]:
        return [run_id for run_id, state in self._states.items() if state in ACTIVE_STATES]

    def _count_running(self) -> None:
        self.navigation.set_running(len(self._running()))

    # ------------------------------------------------------------------------------------------ drag and drop
    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Accept model files, row files and projects."""
        if _dropped(event):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Send dropped files to the page they belong to."""
        paths = _dropped(event)
        event.acceptProposedAction()
        if paths and paths[0].suffix == ".kdstudio":
            self.open_project(paths[0])
            return
        key = DROPS[paths[0].suffix.lower()]
        if self.session.project is None:
            self.banner.show_error(
                KnownError(
                    "No project is open", f"{paths[0].name} needs a project to go to.", "Open or create one first."
                )
            )
            return
        self.show_page(key)
        self.page(key).take_files([path for path in paths if DROPS.get(path.suffix.lower()) == key])

    # -------------------------------------------------------------------------------------------- view and help
    def set_theme(self, choice: Choice) -> None:
        """Switch the theme at once and remember it."""
        theme().set_choice(choice)
        self.session.change_settings(theme=choice)

    def reset_layout(self) -> None:
        """The first start's size, with the jobs panel hidden."""
        self.resize(QSize(1280, 820).boundedTo(self.screen().availableSize()))
        self.dock.hide()
        self.resizeDocks([self.dock], [_JOBS_HEIGHT], Qt.Orientation.Vertical)

    def show_shortcuts(self) -> None:
        """The sheet of keyboard shortcuts."""
        from kdstudio.ui.widgets.sheets import ShortcutSheet

        ShortcutSheet(self).open()

    def show_about(self) -> None:
        """Versions and licences."""
        from kdstudio.ui.widgets.sheets import AboutSheet

        AboutSheet(self).open()

    def _restore_layout(self) -> None:
        kept = self.session.window_settings()
        geometry, state = kept.value("geometry"), kept.value("state")
        if isinstance(geometry, QByteArray):
            self.restoreGeometry(geometry)
        if isinstance(state, QByteArray):
            self.restoreState(state, _LAYOUT_VERSION)

    def _keep_layout(self) -> None:
        kept = self.session.window_settings()
        kept.setValue("geometry", self.saveGeometry())
        kept.setValue("state", self.saveState(_LAYOUT_VERSION))

    # -------------------------------------------------------------------------------------------------- closing
    def closeEvent(self, event: QCloseEvent) -> None:
        """Ask once when jobs run: keep them running, stop them, or stay."""
        running = self._running()
        if running and not self._closing:
            from kdstudio.ui.widgets.sheets import CloseSheet

            answer = CloseSheet(len(running), self).ask()
            if answer == "cancel":
                event.ignore()
                return
            if answer == "stop":
                self._stop_all(running)
                event.ignore()
                return
        self._keep_layout()
        self.session.close()
        event.accept()

    def leave(self) -> None:
        """Close without asking, as when the system shuts down; jobs go on."""
        self._closing = True
        self.close()

    def _stop_all(self, running: list[str]) -> None:
        """Ask every job to stop and close when the last one has; closing once more does not wait."""
        self._closing = True
        for run_id in running:
            self._stop(run_id)
        self.banner.show_message("Stopping…", "The window closes when the jobs have saved what they did.", tone="busy")

    def paintEvent(self, event: QPaintEvent) -> None:
        """Note the first paint: start-up is measured up to here."""
        super().paintEvent(event)
        self.painted = True


def _usual_folder(session: Session) -> Path:
    recent = [Path(item).parent for item in session.settings.recent_projects]
    return next((folder for folder in recent if folder.is_dir()), Path.home())


def _dropped(event: QDropEvent) -> list[Path]:
    paths = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
    return [path for path in paths if path.suffix.lower() in DROPS or path.suffix == ".kdstudio"]
