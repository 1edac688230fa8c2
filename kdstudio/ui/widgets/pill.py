"""Pills: a word on a tinted ground. Status is never said by colour alone."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from kdstudio.ui.theme import Tone, theme, tone_colours

TONES: dict[str, Tone] = {
    "accepted": "good",
    "finished": "good",
    "done": "good",
    "passed": "good",
    "ready": "good",
    "rejected": "bad",
    "failed": "bad",
    "interrupted": "bad",
    "not responding": "bad",
    "warning": "warn",
    "stopping": "warn",
    "paused": "warn",
    "running": "busy",
    "starting": "busy",
    "next": "busy",
}
"""The tone of a status word; every other word is "idle" (grey)."""

PADDING = 8.0
HEIGHT = 20.0


def tone_of(word: str) -> Tone:
    """The tone in which a status word is shown."""
    return TONES.get(word, "idle")


def pill_width(word: str, font: QFont) -> float:
    """Width in pixels that `paint_pill` takes for that word."""
    return QFontMetricsF(font).horizontalAdvance(word) + 2 * PADDING


def paint_pill(
    painter: QPainter, area: QRectF, word: str, *, tone: Tone | None = None, font: QFont | None = None
) -> None:
    """Draw a pill at the left of `area`, centred upright: for item delegates."""
    ground, text = tone_colours(theme().tokens, tone or tone_of(word))
    font = font or painter.font()
    box = QRectF(area.left(), area.center().y() - HEIGHT / 2, min(pill_width(word, font), area.width()), HEIGHT)
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(ground))
    painter.drawRoundedRect(box, HEIGHT / 2, HEIGHT / 2)
    painter.setPen(QColor(text))
    painter.setFont(font)
    shown = QFontMetricsF(font).elidedText(word, Qt.TextElideMode.ElideRight, max(box.width() - 2 * PADDING, 1) + 0.5)
    painter.drawText(box, Qt.AlignmentFlag.AlignCenter, shown)
    painter.restore()


class Pill(QWidget):
    """A pill as a widget; `set_word` changes word and tone together."""

    def __init__(self, word: str = "", tone: Tone | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self._word, self._tone = word, tone
        self.setAccessibleName(word)
        theme().changed.connect(self.update)

    @property
    def word(self) -> str:
        """The word shown."""
        return self._word

    def set_word(self, word: str, tone: Tone | None = None) -> None:
        """Show another word, in its own tone unless one is given."""
        if (word, tone) == (self._word, self._tone):
            return
        self._word, self._tone = word, tone
        self.setAccessibleName(word)
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:
        """As wide as the word."""
        return QSize(round(pill_width(self._word, self.font()) + 1), round(HEIGHT + 1))

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw the pill."""
        painter = QPainter(self)
        paint_pill(painter, QRectF(self.rect()), self._word, tone=self._tone, font=self.font())
