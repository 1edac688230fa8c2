"""The seven pages, listed once: key, label, icon and where the class is. A page is imported when it is first shown."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PySide6.QtWidgets import QVBoxLayout, QWidget

from kdstudio.errors import KnownError
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.banner import ErrorBanner


class Page(QWidget):
    """Base of every page: a banner for errors on top, `content` below it.

    A page connects to the session's signals itself, reads the project only in `refresh`-like methods or background
    tasks, and works (shows an empty state) when no project is open.
    """

    key: ClassVar[str] = ""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.setObjectName(f"page_{self.key}")
        self.setProperty("role", "page")
        self.banner = ErrorBanner(f"{self.key}_banner")
        self.content = QVBoxLayout()
        self.content.setSpacing(12)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(14, 12, 14, 12)
        outer.setSpacing(10)
        outer.addWidget(self.banner)
        outer.addLayout(self.content, 1)

    def show_error(self, error: KnownError) -> None:
        """Show an error in place; connect a task's `failed` to it."""
        self.banner.show_error(error)

    def shown_with(self, arguments: dict[str, Any]) -> None:
        """Called each time the page comes to the front, with what `Session.go` was given (empty by navigation)."""

    def take_files(self, paths: list[Path]) -> None:
        """Called with files dropped on the window that belong to this page (see `DROPS`)."""

    def selection_words(self) -> str:
        """What the status bar says at its left while this page is shown; empty for the project's row count."""
        return ""


@dataclass(frozen=True)
class PageEntry:
    """One line of the navigation."""

    key: str
    label: str
    icon: str
    module: str
    name: str

    def make(self, session: Session) -> Page:
        """Import the page's module and build the page."""
        made = getattr(importlib.import_module(self.module), self.name)(session)
        assert isinstance(made, Page)  # noqa: S101 - our own class table
        return made


PAGES: tuple[PageEntry, ...] = tuple(
    PageEntry(key, label, icon, f"kdstudio.ui.pages.{key}", f"{label}Page")
    for key, label, icon in (
        ("home", "Home", "home"),
        ("teachers", "Teachers", "graduation-cap"),
        ("data", "Data", "table"),
        ("train", "Train", "line-chart"),
        ("evaluate", "Evaluate", "scale"),
        ("export", "Export", "package"),
        ("chat", "Chat", "message-circle"),
    )
)

DROPS: dict[str, str] = {
    ".gguf": "teachers",
    ".jsonl": "data",
    ".json": "data",
    ".csv": "data",
    ".tsv": "data",
    ".txt": "data",
}
"""Which page takes a dropped file, by its suffix."""
