"""Recent projects with Open and New, for Home."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent, QMouseEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout

from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import ElidedLabel, label
from kdstudio.ui.widgets.wording import short_path

_SHOWN = 5


class ProjectRow(QFrame):
    """One recent project; a click or Enter opens it."""

    opened = Signal(str)

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.setObjectName(f"recent_{path.stem}")
        self.setProperty("role", "row")
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAccessibleName(f"Open {path.stem}")
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 5, 8, 5)
        column.setSpacing(0)
        column.addWidget(ElidedLabel(path.stem))
        column.addWidget(ElidedLabel(short_path(path.parent), "small", mode=Qt.TextElideMode.ElideMiddle))

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Open on a click."""
        if event.button() == Qt.MouseButton.LeftButton and self.rect().contains(event.position().toPoint()):
            self.opened.emit(str(self._path))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Open on Enter or Space."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            self.opened.emit(str(self._path))
        else:
            super().keyPressEvent(event)


class RecentProjects(Card):
    """`opened(path)`, `open_wanted` and `new_wanted` tell what was chosen."""

    opened = Signal(str)
    open_wanted = Signal()
    new_wanted = Signal()

    def __init__(self) -> None:
        super().__init__("Projects", name="recent_projects")
        self._rows: list[ProjectRow] = []
        self._list = QVBoxLayout()
        self._list.setSpacing(0)
        self._nothing = label("Projects you open show here.", "small", wrap=True)
        self.body.addLayout(self._list)
        self.add(self._nothing)
        actions = QHBoxLayout()
        actions.setSpacing(8)
        new = button("New…", icon="plus", name="home_new", clicked=self.new_wanted.emit)
        actions.addWidget(new, 1)
        actions.addWidget(button("Open…", icon="folder-open", name="home_open", clicked=self.open_wanted.emit), 1)
        self.body.addLayout(actions)

    def show_paths(self, paths: list[str]) -> None:
        """List the projects that still exist, newest first."""
        for row in self._rows:
            self._list.removeWidget(row)
            row.deleteLater()
        alive = [Path(path) for path in paths if Path(path).is_dir()][:_SHOWN]
        self._rows = [ProjectRow(path) for path in alive]
        for row in self._rows:
            row.opened.connect(self.opened)
            self._list.addWidget(row)
        self._nothing.setVisible(not alive)
