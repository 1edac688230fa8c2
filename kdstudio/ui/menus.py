"""The menu bar: every command of the shell with its shortcut, built once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from PySide6.QtGui import QAction, QActionGroup, QKeySequence
from PySide6.QtWidgets import QMenu

from kdstudio.ui.icons import set_icon
from kdstudio.ui.pages import PAGES
from kdstudio.ui.theme import Choice, theme

if TYPE_CHECKING:
    from kdstudio.ui.main_window import MainWindow

SHORTCUTS: tuple[tuple[str, str], ...] = (
    *((f"Ctrl+{number}", f"Go to {entry.label}") for number, entry in enumerate(PAGES, start=1)),
    ("Ctrl+N", "New project"),
    ("Ctrl+O", "Open a project"),
    ("Ctrl+I", "Import rows"),
    ("Ctrl+Z", "Undo a change of rows"),
    ("Ctrl+Y", "Redo"),
    ("Ctrl+J", "Show or hide the jobs panel"),
    ("Ctrl+0", "Reset the layout"),
    ("Ctrl+/", "This list"),
    ("Ctrl+Q", "Quit; jobs may go on"),
)
"""What the shortcut sheet lists for the shell; pages add theirs in their own help."""


class Menus:
    """Builds the menus of a window and keeps the actions that change."""

    def __init__(self, window: MainWindow) -> None:
        self._window = window
        self.actions: dict[str, QAction] = {}
        self._file()
        self._edit()
        self._go()
        self._view()
        self._help()

    def _add(
        self, menu: QMenu, name: str, words: str, act: Callable[[], object], keys: str = "", icon: str = ""
    ) -> QAction:
        action = QAction(words, self._window)
        action.setObjectName(f"action_{name}")
        if keys:
            action.setShortcuts([QKeySequence(part) for part in keys.split("|")])
        if icon:
            set_icon(action, icon, "dim")
        action.triggered.connect(lambda _checked=False: act())
        menu.addAction(action)
        self.actions[name] = action
        return action

    def _file(self) -> None:
        window, menu = self._window, self._window.menuBar().addMenu("&File")
        self._add(menu, "new", "&New project…", window.ask_new_project, "Ctrl+N", "plus")
        self._add(menu, "open", "&Open project…", window.ask_open_project, "Ctrl+O", "folder-open")
        self.recent = QMenu("Open &recent", window)
        menu.addMenu(self.recent)
        self.recent.aboutToShow.connect(self._fill_recent)
        menu.addSeparator()
        self._add(
            menu, "import", "&Import rows…", lambda: window.session.go("data", importing=True), "Ctrl+I", "file-down"
        )
        menu.addSeparator()
        self._add(menu, "close_project", "&Close project", window.session.close)
        self._add(menu, "quit", "&Quit", window.close, "Ctrl+Q")

    def _fill_recent(self) -> None:
        self.recent.clear()
        for path in self._window.session.settings.recent_projects:
            action = QAction(path, self.recent)
            action.triggered.connect(lambda _checked=False, chosen=path: self._window.open_project(Path(chosen)))
            self.recent.addAction(action)
        if self.recent.isEmpty():
            nothing = QAction("No project was opened yet", self.recent)
            nothing.setEnabled(False)
            self.recent.addAction(nothing)

    def _edit(self) -> None:
        session, menu = self._window.session, self._window.menuBar().addMenu("&Edit")
        self._add(menu, "undo", "&Undo", session.undo, "Ctrl+Z", "undo")
        self._add(menu, "redo", "&Redo", session.redo, "Ctrl+Y|Ctrl+Shift+Z", "redo")
        menu.aboutToShow.connect(self._name_history)
        menu.aboutToHide.connect(self._enable_history)

    def _name_history(self) -> None:
        """Say what would be undone, and grey out what cannot be."""
        project = self._window.session.project
        undo = project.history.can_undo() if project is not None else ""
        redo = project.history.can_redo() if project is not None else ""
        for name, label in (("undo", undo), ("redo", redo)):
            self.actions[name].setText(f"&{name.capitalize()}" + (f": {label}" if label else ""))
            self.actions[name].setEnabled(bool(label))

    def _enable_history(self) -> None:
        """Shortcuts must work although the menu was not opened since the last change."""
        self.actions["undo"].setEnabled(True)
        self.actions["redo"].setEnabled(True)

    def _go(self) -> None:
        menu = self._window.menuBar().addMenu("&Go")
        for number, entry in enumerate(PAGES, start=1):
            act = lambda key=entry.key: self._window.show_page(key)  # noqa: E731 - one action each
            self._add(menu, f"go_{entry.key}", f"&{number} {entry.label}", act, f"Ctrl+{number}", entry.icon)

    def _view(self) -> None:
        menu = self._window.menuBar().addMenu("&View")
        themes = QMenu("&Theme", self._window)
        menu.addMenu(themes)
        group = QActionGroup(self._window)
        for choice in get_args(Choice):
            act = lambda chosen=choice: self._window.set_theme(chosen)  # noqa: E731 - one action each
            action = self._add(themes, f"theme_{choice}", f"&{choice.capitalize()}", act)
            action.setCheckable(True)
            action.setChecked(theme().choice == choice)
            group.addAction(action)
        toggle = self._add(menu, "jobs", "&Jobs panel", self._window.toggle_jobs, "Ctrl+J")
        toggle.setCheckable(True)
        menu.addSeparator()
        self._add(menu, "reset_layout", "&Reset layout", self._window.reset_layout, "Ctrl+0")

    def _help(self) -> None:
        menu = self._window.menuBar().addMenu("&Help")
        self._add(menu, "shortcuts", "&Keyboard shortcuts", self._window.show_shortcuts, "Ctrl+/", "keyboard")
        self._add(menu, "about", "&About KD Studio", self._window.show_about, icon="info")
