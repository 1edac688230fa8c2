"""The gallery of recipes: families at the left, a search by task, method or paper, and cards. The keyboard suffices."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt, QTimer, Signal
from PySide6.QtGui import QAction, QKeyEvent, QResizeEvent
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QScrollArea,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from kdstudio.ui.icons import set_icon
from kdstudio.ui.recipe_offer import FAMILY_WORDS, Offer, Offered
from kdstudio.ui.widgets.empty_state import EmptyState
from kdstudio.ui.widgets.recipe_card import RecipeCard

_CARD_WIDTH, _SPACING, _FAMILIES_WIDTH = 300, 10, 150
_KEYS = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}


class RecipeGallery(QWidget):
    """`chosen(Offered)`: by click or Enter. `left()`: Escape, with nothing searched."""

    chosen = Signal(object)
    left = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.cards: list[RecipeCard] = []
        self.shown: list[RecipeCard] = []
        self.wanted = ""  # the family to begin with, before the recipes are there
        self._current = 0
        self._columns = 2
        self.search = QLineEdit()
        self.families = QListWidget()
        self.area = QScrollArea()
        self.stack = QStackedWidget()
        self.empty = EmptyState("search", "", "Clear the search", self._clear, name="gallery_empty")
        self._build()
        self.search.textChanged.connect(self._narrow)
        self.families.currentRowChanged.connect(self._narrow)
        for one in (self.search, self.area, self.families):
            one.installEventFilter(self)

    def _build(self) -> None:
        self.search.setObjectName("gallery_search")
        self.search.setAccessibleName("Search recipes")
        self.search.setPlaceholderText("Search by task, method or paper: judge, code, WizardLM, 2304.12244")
        self.search.setClearButtonEnabled(True)
        mark = QAction(self.search)
        set_icon(mark, "search", "dim")
        self.search.addAction(mark, QLineEdit.ActionPosition.LeadingPosition)
        self.families.setObjectName("gallery_families")
        self.families.setAccessibleName("Families of recipes")
        self.families.setFixedWidth(_FAMILIES_WIDTH)
        self._grid_holder = QWidget()
        self._grid_holder.setProperty("role", "scrolled")
        self._grid = QGridLayout(self._grid_holder)
        self._grid.setContentsMargins(0, 0, 8, 0)
        self._grid.setSpacing(_SPACING)
        self._grid.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.area.setObjectName("gallery_cards")
        self.area.setAccessibleName("Recipes")
        self.area.setWidgetResizable(True)
        self.area.setFrameShape(QFrame.Shape.NoFrame)
        self.area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.area.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.area.setWidget(self._grid_holder)
        self.stack.addWidget(self.area)
        self.stack.addWidget(self.empty)
        right = QVBoxLayout()
        right.setSpacing(10)
        right.addWidget(self.search)
        right.addWidget(self.stack, 1)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(14)
        row.addWidget(self.families)
        row.addLayout(right, 1)

    # -------------------------------------------------------------------------------------------------- contents
    def show_offer(self, offer: Offer) -> None:
        """Show all recipes anew, keeping search and family."""
        family = self.family() or self.wanted
        self.wanted = ""
        for card in self.cards:
            card.hide()
            card.deleteLater()
        self.cards = [self._card(offered, offer) for offered in offer.recipes]
        self.families.blockSignals(True)
        self.families.clear()
        for key, words in FAMILY_WORDS.items():
            count = sum(not key or card.offered.family == key for card in self.cards)
            if count:
                item = QListWidgetItem(f"{words}  {count}")
                item.setData(Qt.ItemDataRole.UserRole, key)
                self.families.addItem(item)
                if key == family:
                    self.families.setCurrentItem(item)
        self.families.setCurrentRow(max(0, self.families.currentRow()))
        self.families.blockSignals(False)
        self._narrow()

    def _card(self, offered: Offered, offer: Offer) -> RecipeCard:
        card = RecipeCard(offered, offer, self._grid_holder)
        card.pressed.connect(lambda: self._go_to_card(card))
        card.chosen.connect(lambda: self.chosen.emit(card.offered))
        return card

    def family(self) -> str:
        """The key of the chosen family; "" for all."""
        row = self.families.currentRow()
        return str(self.families.item(row).data(Qt.ItemDataRole.UserRole)) if row >= 0 else ""

    def choose_family(self, key: str) -> None:
        """Show one family."""
        for row in range(self.families.count()):
            if self.families.item(row).data(Qt.ItemDataRole.UserRole) == key:
                self.families.setCurrentRow(row)

    def _narrow(self) -> None:
        family, text = self.family(), self.search.text()
        before = self.current()
        self.shown = [
            card for card in self.cards if (not family or card.offered.family == family) and card.offered.found_by(text)
        ]
        self.shown.sort(key=lambda card: not card.offered.named_by(text))
        for card in self.cards:
            card.setVisible(card in self.shown)
        self._arrange()
        self._go_to(self.shown.index(before) if before in self.shown else 0)
        elsewhere = bool(family) and any(card.offered.found_by(text) for card in self.cards)
        where = f" in {FAMILY_WORDS.get(family, family)}" if family else ""
        hint = " It is found in other families." if elsewhere else " Try a task, a method’s name, or a paper’s number."
        self.empty.say(f"No recipe{where} matches “{text.strip()}”.{hint}", "Clear the search")
        self.stack.setCurrentIndex(0 if self.shown else 1)

    def _clear(self) -> None:
        self.families.setCurrentRow(0)
        self.search.clear()
        self.search.setFocus()

    def _arrange(self) -> None:
        width = self.area.viewport().width()
        self._columns = max(1, (width + _SPACING) // (_CARD_WIDTH + _SPACING))
        while self._grid.takeAt(0):
            pass
        for place, card in enumerate(self.shown):
            self._grid.addWidget(card, place // self._columns, place % self._columns)
        for column in range(8):
            self._grid.setColumnStretch(column, 1 if column < self._columns else 0)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """As many columns as fit."""
        super().resizeEvent(event)
        QTimer.singleShot(0, self, self._arrange)

    # -------------------------------------------------------------------------------------------------- keyboard
    def current(self) -> RecipeCard | None:
        """The card that Enter chooses."""
        return self.shown[self._current] if self._current < len(self.shown) else None

    def _go_to_card(self, card: RecipeCard) -> None:
        if card in self.shown:
            self._go_to(self.shown.index(card))

    def _go_to(self, place: int) -> None:
        self._current = max(0, min(place, len(self.shown) - 1))
        for number, card in enumerate(self.shown):
            card.set_current(current=number == self._current)
        found = self.current()
        if found is not None:
            self.area.ensureWidgetVisible(found, 0, _SPACING)
            self.area.setAccessibleDescription(f"{found.accessibleName()}. {found.accessibleDescription()}")

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Arrows move among the cards, Enter chooses, Escape clears the search and then leaves."""
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            return self._key(watched, event)
        return super().eventFilter(watched, event)

    def _key(self, watched: QObject, event: QKeyEvent) -> bool:
        key = event.key()
        if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            if (card := self.current()) is not None:
                self.chosen.emit(card.offered)
            return True
        if key == Qt.Key.Key_Escape:
            if self.search.text():
                self.search.clear()
            else:
                self.left.emit()
            return True
        if watched is self.families:
            return False
        steps = {Qt.Key.Key_Down: self._columns, Qt.Key.Key_Up: -self._columns}
        if watched is self.area:
            steps |= _KEYS
        if key not in steps:
            return False
        if watched is self.search and key == Qt.Key.Key_Down:
            self.area.setFocus()
        elif watched is self.area and key == Qt.Key.Key_Up and self._current < self._columns:
            self.search.setFocus()
        else:
            self._go_to(self._current + steps[Qt.Key(key)])
        return True
