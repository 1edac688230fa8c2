"""Keeping an edited recipe: a file in the project's folder of recipes, in the gallery from then on."""

from __future__ import annotations

import re
from pathlib import Path

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QLineEdit, QWidget

from kdstudio.errors import BadInput, KnownError
from kdstudio.files import write_text
from kdstudio.recipe import ElicitationRecipe, load_recipe, parse_recipe, to_toml
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.data_dialog import Sheet
from kdstudio.ui.widgets.labels import label


def id_of(title: str) -> str:
    """`Our tone, dry` -> `our_tone_dry`; "" for a title without letters or digits."""
    plain = re.sub(r"[^a-z0-9]+", "_", title.casefold()).strip("_")[:60]
    return plain if not plain or plain[0].isalpha() else f"recipe_{plain}"


def save_own(folder: Path, title: str, recipe: ElicitationRecipe) -> Path:
    """Write a recipe under a title of one's own; one of the same name is replaced.

    Raises `BadInput` for a title without a letter, or a recipe that could not be read back, with the line at fault.
    """
    key = id_of(title)
    if not key:
        raise BadInput("The recipe needs a name", f"{title!r} has no letter.", "For example: Our tone of voice.")
    head = recipe.recipe.model_copy(update={"id": key, "title": " ".join(title.split())})
    text = to_toml(recipe.model_copy(update={"recipe": head, "example": None}))
    path = folder / f"{key}.toml"
    parse_recipe(text, ElicitationRecipe, path.name)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    load_recipe(path, ElicitationRecipe)
    return path


class SaveRecipeSheet(Sheet):
    """`saved(Path)`: the file is there."""

    saved = Signal(object)

    def __init__(
        self, session: Session, folder: Path, recipe: ElicitationRecipe, parent: QWidget | None = None
    ) -> None:
        words = "It is kept in the project’s folder “recipes”, where it can be changed, copied and shared."
        super().__init__(session, "save_recipe_sheet", "Save as my recipe", words, parent)
        self._folder, self._recipe = folder, recipe
        self.edit = QLineEdit(recipe.recipe.title)
        self.edit.setObjectName("save_recipe_name")
        self.edit.setAccessibleName("Name of the recipe")
        self.edit.selectAll()
        self.path = label("", "small", wrap=True, name="save_recipe_path")
        self.body.addWidget(self.edit)
        self.body.addWidget(self.path)
        self.body.addStretch(1)
        self.add_cancel()
        self.save = self.add_button(
            button("Save", icon="save", kind="primary", name="save_recipe_start", clicked=self._save), default=True
        )
        self.edit.textChanged.connect(self._named)
        self._named()
        self.resize(460, 220)

    def _named(self) -> None:
        key = id_of(self.edit.text())
        there = bool(key) and (self._folder / f"{key}.toml").exists()
        self.save.setText("Replace" if there else "Save")
        self.save.setEnabled(bool(key))
        name = f"recipes/{key}.toml"
        self.path.setText(
            (f"{name} is there already and will be replaced." if there else name) if key else "Give it a name."
        )

    def _save(self) -> None:
        try:
            path = save_own(self._folder, self.edit.text(), self._recipe)
        except KnownError as error:
            self.show_error(error)
            return
        self.saved.emit(path)
        self.accept()
