"""A recipe as the file it is: edited as text, with the fault and its line below."""

from __future__ import annotations

import re

from PySide6.QtCore import Signal
from PySide6.QtGui import QTextCursor
from PySide6.QtWidgets import QPlainTextEdit, QVBoxLayout, QWidget

from kdstudio.errors import KnownError
from kdstudio.recipe import ElicitationRecipe, parse_recipe, to_toml
from kdstudio.ui.style import mono_font
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.wording import told

_NAME = "recipe.toml"


class RecipeText(QWidget):
    """`changed()` follows every edit; `recipe()` is what the text says."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.edit = QPlainTextEdit()
        self.edit.setObjectName("recipe_text")
        self.edit.setAccessibleName("The recipe as text")
        self.edit.setFont(mono_font())
        self.edit.setLineWrapMode(QPlainTextEdit.LineWrapMode.WidgetWidth)
        self.fault = label("", "error", wrap=True, name="recipe_text_fault", selectable=True)
        self.go = button("Go to the line", kind="link", name="recipe_text_go", clicked=self._go)
        self._line = 0
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(self.edit, 1)
        column.addWidget(self.fault)
        column.addWidget(self.go)
        self.edit.textChanged.connect(self._edited)
        self._show_fault(None)

    def show_text(self, recipe: ElicitationRecipe) -> None:
        """Show a recipe; its worked example, which only tests read, is left out."""
        text = to_toml(recipe.model_copy(update={"example": None}))
        self.edit.blockSignals(True)
        self.edit.setPlainText(text)
        self.edit.blockSignals(False)
        self._show_fault(None)

    def recipe(self) -> ElicitationRecipe:
        """Read the text. Raises `BadInput` with the line."""
        return parse_recipe(self.edit.toPlainText(), ElicitationRecipe, _NAME)

    def _edited(self) -> None:
        try:
            self.recipe()
        except KnownError as error:
            self._show_fault(error)
        else:
            self._show_fault(None)
        self.changed.emit()

    def _show_fault(self, error: KnownError | None) -> None:
        self.fault.setText(told(error) if error is not None else "")
        found = re.search(r"line (\d+)", error.detail) if error is not None else None
        self._line = int(found.group(1)) if found else 0
        self.fault.setVisible(error is not None)
        self.go.setVisible(bool(self._line))

    def _go(self) -> None:
        block = self.edit.document().findBlockByNumber(self._line - 1)
        if block.isValid():
            self.edit.setTextCursor(QTextCursor(block))
            self.edit.setFocus()
