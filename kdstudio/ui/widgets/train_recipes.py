"""Opening a training recipe: those that come with the program, by family, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from PySide6.QtCore import QEvent, QModelIndex, QObject, QPersistentModelIndex, QRect, QSize, Qt, Signal
from PySide6.QtGui import QAction, QFont, QFontMetrics, QKeyEvent, QPainter
from PySide6.QtWidgets import (
    QApplication,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from kdstudio.catalogue.objectives import OBJECTIVES
from kdstudio.recipe import TrainingRecipe, shipped_training_recipes
from kdstudio.ui.icons import set_icon
from kdstudio.ui.session import Session
from kdstudio.ui.theme import theme
from kdstudio.ui.training_choice import FAMILIES
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.data_dialog import Sheet
from kdstudio.ui.widgets.labels import label

_RECIPE = Qt.ItemDataRole.UserRole
_ROW_HEIGHT, _HEADING_HEIGHT = 52, 32
_MARGIN = 10
_STEPS = (Qt.Key.Key_Up, Qt.Key.Key_Down, Qt.Key.Key_PageUp, Qt.Key.Key_PageDown)


def paper_of(recipe: TrainingRecipe) -> str:
    """Its papers, short: `arXiv 2305.18290`."""
    plain = (one.removeprefix("https://").replace("arxiv.org/abs/", "arXiv ") for one in recipe.recipe.references)
    return ", ".join(plain)


class RecipeDelegate(QStyledItemDelegate):
    """A recipe in two lines: title and papers, then what it is for. A heading in one."""

    def sizeHint(self, _option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        """The same height for all recipes, less for headings."""
        return QSize(200, _ROW_HEIGHT if index.data(_RECIPE) is not None else _HEADING_HEIGHT)

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        """The row's ground as the style draws it, and the texts over it."""
        recipe, ground = index.data(_RECIPE), QStyleOptionViewItem(option)
        style = QApplication.style()
        style.drawPrimitive(QStyle.PrimitiveElement.PE_PanelItemViewItem, ground, painter, ground.widget)
        area = ground.rect.adjusted(_MARGIN, 0, -_MARGIN, 0)
        bold, small = QFont(ground.font), QFont(ground.font)
        bold.setWeight(QFont.Weight.DemiBold)
        small.setPointSizeF(small.pointSizeF() - 1)
        if not isinstance(recipe, TrainingRecipe):
            self._line(painter, area.adjusted(0, 8, 0, -2), str(index.data()), bold, "dim")
            return
        top, below = area.adjusted(0, 7, 0, -_ROW_HEIGHT // 2), area.adjusted(0, _ROW_HEIGHT // 2, 0, -7)
        paper = paper_of(recipe)
        width = QFontMetrics(small).horizontalAdvance(paper) + 2
        self._line(painter, top.adjusted(top.width() - width, 0, 0, 0), paper, small, "dim")
        self._line(painter, top.adjusted(0, 0, -width - _MARGIN, 0), recipe.recipe.title, bold, "text")
        self._line(painter, below, recipe.recipe.purpose, small, "dim")

    def _line(self, painter: QPainter, area: QRect, text: str, font: QFont, token: str) -> None:
        painter.setFont(font)
        painter.setPen(theme().colour(token))
        shown = QFontMetrics(font).elidedText(text, Qt.TextElideMode.ElideRight, area.width())
        painter.drawText(area, Qt.AlignmentFlag.AlignVCenter, shown)


class TrainingRecipesSheet(Sheet):
    """`chosen(TrainingRecipe)`: one that came with the program. `file_wanted`: a file is to be chosen instead."""

    chosen = Signal(object)
    file_wanted = Signal()

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        words = "Ways to train that come with the program. Teacher, student, rows and schedule stay as you set them."
        super().__init__(session, "train_recipes", "Open a training recipe", words, parent)
        self.search = QLineEdit()
        self.list = QListWidget()
        self.nothing = label("", "dim", wrap=True, name="train_recipes_nothing")
        self.file = self.add_button(
            button("Open a file…", icon="folder-open", name="train_recipes_file", clicked=self._want_file)
        )
        self.add_cancel()
        self.use = self.add_button(
            button("Use this recipe", kind="primary", name="train_recipes_use", clicked=self._choose), default=True
        )
        self._build()
        self._fill()
        self._narrow()
        room = parent.window().size() if parent is not None else QSize(760, 640)
        self.resize(min(760, round(room.width() * 0.9)), min(680, round(room.height() * 0.9)))
        self.search.setFocus()

    def _build(self) -> None:
        self.search.setObjectName("train_recipes_search")
        self.search.setAccessibleName("Search training recipes")
        self.search.setPlaceholderText("Search by task, method or paper: DPO, hidden states, MiniLLM, 2306.08543")
        self.search.setClearButtonEnabled(True)
        mark = QAction(self.search)
        set_icon(mark, "search", "dim")
        self.search.addAction(mark, QLineEdit.ActionPosition.LeadingPosition)
        self.search.textChanged.connect(self._narrow)
        self.search.installEventFilter(self)
        self.list.setObjectName("train_recipes_list")
        self.list.setAccessibleName("Training recipes")
        self.list.setItemDelegate(RecipeDelegate(self.list))
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setVerticalScrollMode(QListWidget.ScrollMode.ScrollPerPixel)
        self.list.itemDoubleClicked.connect(lambda _item: self._choose())
        self.list.currentItemChanged.connect(lambda _now, _before: self.use.setEnabled(self.current() is not None))
        self.nothing.hide()
        for part in (self.search, self.nothing):
            self.body.addWidget(part)
        self.body.addWidget(self.list, 1)

    def _fill(self) -> None:
        """The recipes under the heading of their family, in the order of the objectives in the catalogue."""
        order = OBJECTIVES.keys()
        found = shipped_training_recipes().values()
        recipes = sorted(found, key=lambda recipe: _place(recipe, order))
        for family, words in FAMILIES.items():
            heading = QListWidgetItem(words)
            heading.setFlags(Qt.ItemFlag.NoItemFlags)
            self.list.addItem(heading)
            for recipe in recipes:
                if recipe.recipe.family == family:
                    item = QListWidgetItem(recipe.recipe.title)
                    item.setData(_RECIPE, recipe)
                    item.setToolTip(f"{recipe.recipe.purpose}\nKnown as: {', '.join(recipe.recipe.methods)}")
                    item.setData(Qt.ItemDataRole.AccessibleDescriptionRole, recipe.recipe.purpose)
                    self.list.addItem(item)

    # ------------------------------------------------------------------------------------------------- searching
    def _narrow(self) -> None:
        """Show what is found, and a heading only over something."""
        sought = self.search.text().casefold().split()
        heading: QListWidgetItem | None = None
        for place in range(self.list.count()):
            item = self.list.item(place)
            recipe = item.data(_RECIPE)
            if not isinstance(recipe, TrainingRecipe):
                heading = item
                heading.setHidden(True)
                continue
            said = _said(recipe)
            item.setHidden(not all(word in said for word in sought))
            if heading is not None and not item.isHidden():
                heading.setHidden(False)
        shown = self.shown()
        called = (item for item in shown if all(word in _name(item.data(_RECIPE)) for word in sought))
        first = next(called, shown[0] if shown else None)
        self.list.setCurrentRow(self.list.row(first) if first is not None else -1)
        self.use.setEnabled(bool(shown))
        self.list.setVisible(bool(shown))
        self.nothing.setVisible(not shown)
        self.nothing.setText(f"No recipe is found by “{self.search.text().strip()}”. Try a method’s or a paper’s name.")

    def shown(self) -> list[QListWidgetItem]:
        """The recipes that are not hidden by the search."""
        items = (self.list.item(place) for place in range(self.list.count()))
        return [item for item in items if item.data(_RECIPE) is not None and not item.isHidden()]

    def current(self) -> TrainingRecipe | None:
        """The recipe that is chosen in the list."""
        recipe = self.list.currentIndex().data(_RECIPE)
        return recipe if isinstance(recipe, TrainingRecipe) else None

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Arrows move in the list while one types."""
        pressed = event.type() == QEvent.Type.KeyPress and isinstance(event, QKeyEvent) and event.key() in _STEPS
        if watched is self.search and pressed:
            self.list.keyPressEvent(cast(QKeyEvent, event))
            return True
        return super().eventFilter(watched, event)

    # -------------------------------------------------------------------------------------------------- choosing
    def _choose(self) -> None:
        recipe = self.current()
        if recipe is not None:
            self.accept()
            self.chosen.emit(recipe)

    def _want_file(self) -> None:
        self.reject()
        self.file_wanted.emit()


def _place(recipe: TrainingRecipe, order: Sequence[str]) -> tuple[int, bool]:
    """That of its first objective; the recipe that is called like one stands before others that use it."""
    names = [table.name for table in recipe.objective]
    return min(map(order.index, names)), recipe.recipe.id not in names


def _name(recipe: TrainingRecipe) -> str:
    return " ".join((recipe.recipe.id, recipe.recipe.title, *recipe.recipe.methods)).casefold()


def _said(recipe: TrainingRecipe) -> str:
    head, names = recipe.recipe, " ".join(table.name for table in recipe.objective)
    family = next((words for key, words in FAMILIES.items() if key == head.family), "")
    words = (head.id, head.title, head.purpose, family, names)
    said = " ".join((*words, *head.methods, *head.references))
    return f"{said} {said.replace('-', '')} {said.replace('_', ' ')}".casefold()
