"""The three presets as cards, of which one is chosen; none while the recipe is a mix of one's own."""

from __future__ import annotations

from collections.abc import Mapping

from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QButtonGroup, QFrame, QRadioButton, QVBoxLayout, QWidget

from kdstudio.ui.theme import theme, tone_colours
from kdstudio.ui.training_presets import PRESETS, Preset
from kdstudio.ui.widgets.labels import label

_ABREAST_FROM = 690
_NARROWEST = 240
_RADIUS = 8.0


class PresetCard(QFrame):
    """One preset: its name, when to use it, its paper. A click anywhere on it chooses it."""

    def __init__(self, preset: Preset, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.preset = preset
        self.setObjectName(f"preset_{preset.key}_card")
        self.choose = QRadioButton(preset.label)
        self.choose.setObjectName(f"preset_{preset.key}")
        self.choose.setAccessibleDescription(preset.when)
        font = self.choose.font()
        font.setWeight(font.Weight.DemiBold)
        self.choose.setFont(font)
        self.when = label(preset.when, "small", wrap=True)
        self.paper = label(preset.reference.removeprefix("https://"), "small", selectable=True)
        self.obstacle = label("", "warn", wrap=True, name=f"preset_{preset.key}_obstacle")
        self.obstacle.hide()
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 9, 12, 10)
        column.setSpacing(5)
        for part in (self.choose, self.when, self.obstacle):
            column.addWidget(part)
        column.addStretch(1)
        column.addWidget(self.paper, 0, Qt.AlignmentFlag.AlignLeft)
        self.choose.toggled.connect(lambda _checked: self.update())
        theme().changed.connect(self.update)

    def forbid(self, reason: str) -> None:
        """Say why it cannot be chosen now; "" allows it."""
        self.obstacle.setText(reason)
        self.obstacle.setVisible(bool(reason))
        self.choose.setEnabled(not reason)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose it."""
        if event.button() == Qt.MouseButton.LeftButton and self.choose.isEnabled():
            self.choose.setFocus(Qt.FocusReason.MouseFocusReason)
            self.choose.click()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw the frame: tinted and in the accent's colour while it is chosen."""
        chosen, tokens = self.choose.isChecked(), theme().tokens
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor(tokens.accent if chosen else tokens.border), 1.5 if chosen else 1.0))
        painter.setBrush(QColor(tone_colours(tokens, "busy")[0] if chosen else tokens.surface))
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.75, 0.75, -0.75, -0.75), _RADIUS, _RADIUS)


class PresetRow(QWidget):
    """The cards side by side, or one under the other where they would be too narrow. `picked(key)`: by a person."""

    picked = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.cards = {preset.key: PresetCard(preset) for preset in PRESETS}
        self._group = QButtonGroup(self)
        self._row = QBoxLayout(QBoxLayout.Direction.LeftToRight, self)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.setSpacing(10)
        for key, card in self.cards.items():
            self._group.addButton(card.choose)
            self._row.addWidget(card, 1)
            card.choose.clicked.connect(lambda _checked=False, key=key: self.picked.emit(key))

    def chosen(self) -> str:
        """The key of the chosen preset, or ""."""
        return next((key for key, card in self.cards.items() if card.choose.isChecked()), "")

    def choose(self, key: str) -> None:
        """Show a preset as chosen; "" shows none."""
        if key == self.chosen():
            return
        self._group.setExclusive(False)
        for name, card in self.cards.items():
            card.choose.setChecked(name == key)
        self._group.setExclusive(True)

    def forbid(self, reasons: Mapping[str, str]) -> None:
        """Say of each preset why it cannot be chosen now, "" if it can."""
        for key, card in self.cards.items():
            card.forbid(reasons.get(key, ""))

    def minimumSizeHint(self) -> QSize:
        """As narrow as one card: cards side by side must not keep the page from becoming narrow."""
        return QSize(_NARROWEST, super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Stack the cards where the row is narrow."""
        super().resizeEvent(event)
        abreast = event.size().width() >= _ABREAST_FROM
        self._row.setDirection(QBoxLayout.Direction.LeftToRight if abreast else QBoxLayout.Direction.TopToBottom)
