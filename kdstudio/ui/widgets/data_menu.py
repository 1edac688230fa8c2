"""The context menu of the rows: what the keys do, with the keys beside it."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMenu, QWidget

from kdstudio.ui.icons import set_icon
from kdstudio.ui.widgets.wording import number


def row_menu(parent: QWidget, chosen: int, *, editable: bool, act: Callable[[str], None]) -> QMenu:
    """A menu for so many chosen rows; `act` gets the name of the action, as the table's keys send it."""
    menu = QMenu(parent)
    menu.setObjectName("data_menu")
    many = f" {number(chosen)} rows" if chosen > 1 else ""
    entries = (
        ("accept", f"Accept{many}", "A", "check"),
        ("reject", f"Reject{many}", "R", "x"),
        ("reason", f"Reject{many} with a reason…", "Shift+R", ""),
        ("reset", "Set back to pending", "U", "undo"),
        ("", "", "", ""),
        ("edit", "Edit", "E", "pencil"),
        ("copy", "Copy with headings", "Ctrl+Shift+C", "copy"),
    )
    for name, words, keys, icon in entries:
        if not name:
            menu.addSeparator()
            continue
        action = QAction(f"{words}\t{keys}", menu)
        action.setObjectName(f"data_menu_{name}")
        if icon:
            set_icon(action, icon, "dim")
        action.setEnabled(name != "edit" or editable)
        action.triggered.connect(lambda _checked=False, name=name: act(name))
        menu.addAction(action)
    return menu
