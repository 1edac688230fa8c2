"""Push and tool buttons with icon, kind, accessible name and object name in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from PySide6.QtCore import QSize, Qt
from PySide6.QtWidgets import QPushButton, QToolButton

from kdstudio.ui.icons import set_icon

Kind = Literal["normal", "primary", "danger", "ghost", "link"]


def button(
    text: str,
    *,
    icon: str = "",
    kind: Kind = "normal",
    name: str = "",
    tip: str = "",
    clicked: Callable[[], object] | None = None,
) -> QPushButton:
    """A push button. `name` is its object name (tests click by it); `clicked` is called without arguments."""
    made = QPushButton(text)
    made.setProperty("kind", kind)
    made.setCursor(Qt.CursorShape.PointingHandCursor if kind == "link" else Qt.CursorShape.ArrowCursor)
    if icon:
        token = {"primary": "on_primary", "danger": "bad", "link": "accent"}.get(kind, "text")
        set_icon(made, icon, token, gap=4 if text else 0)
    _finish(made, name, tip, clicked)
    return made


def tool_button(
    icon: str,
    tip: str,
    *,
    name: str = "",
    kind: Kind = "ghost",
    colour: str = "dim",
    clicked: Callable[[], object] | None = None,
) -> QToolButton:
    """A button that is only an icon; `tip` is also what a screen reader says."""
    made = QToolButton()
    made.setProperty("kind", kind)
    made.setIconSize(QSize(16, 16))
    set_icon(made, icon, colour)
    made.setAccessibleName(tip)
    made.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    _finish(made, name, tip, clicked)
    return made


def _finish(made: QPushButton | QToolButton, name: str, tip: str, clicked: Callable[[], object] | None) -> None:
    if name:
        made.setObjectName(name)
    if tip:
        made.setToolTip(tip)
    if clicked is not None:
        made.clicked.connect(lambda _checked=False: clicked())
