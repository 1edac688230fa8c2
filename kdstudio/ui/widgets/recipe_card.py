"""One recipe in the gallery: what one gets, what it needs, what it costs, what it must not be used for."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QMouseEvent, QPainter, QPaintEvent, QTextLayout, QTextOption
from PySide6.QtWidgets import QSizePolicy, QWidget

from kdstudio.ui.recipe_offer import FAMILY_WORDS, Need, Offer, Offered, needs_of, needs_of_rounds, questions_words
from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.pill import HEIGHT, paint_pill, pill_width
from kdstudio.ui.widgets.wording import plural

CARD_HEIGHT = 176
_MARGIN, _GAP = 13.0, 6.0
_PURPOSE_LINES = 5
_LEAST_PILL = 30.0


class RecipeCard(QWidget):
    """Painted in one piece, so that a hundred of them open at once. `pressed()`, then `chosen()` when it is let go."""

    pressed = Signal()
    chosen = Signal()

    def __init__(self, offered: Offered, offer: Offer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.offered = offered
        self._current = False
        head, fault = offered.head, offered.fault
        self.needs, self.cost = _needs_and_cost(offered, offer)
        self.purpose = head.purpose if head is not None else f"{fault.title}. {fault.detail}" if fault else ""
        self.methods = ", ".join(head.methods) if head is not None else ""
        self.warning = head.not_for if head is not None else ""
        kind = "rounds" if offered.rounds is not None else "recipe"
        self.setObjectName(f"{kind}_card_{head.id if head is not None else offered.key}")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(CARD_HEIGHT)
        self.setAccessibleName(offered.title)
        self.setAccessibleDescription(self._said())
        self.setToolTip(self._tip())
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAttribute(Qt.WidgetAttribute.WA_Hover)
        theme().changed.connect(self.update)

    def _said(self) -> str:
        needs = "; ".join(need.words for need in self.needs)
        return ". ".join(part for part in (self.purpose, self.methods, needs, self.cost, self.warning) if part)

    def _tip(self) -> str:
        return "\n\n".join(part for part in (self.purpose, self.methods, self._not_for()) if part)

    def _not_for(self) -> str:
        return f"Not for: {self.warning}" if self.warning else ""

    def set_current(self, *, current: bool) -> None:
        """Draw it as the one that Enter chooses."""
        self._current = current
        self.update()

    def sizeHint(self) -> QSize:
        """A third of a wide gallery."""
        return QSize(280, CARD_HEIGHT)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Become the current one."""
        if event.button() == Qt.MouseButton.LeftButton:
            self.pressed.emit()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Choose it, if the mouse is still on it."""
        if event.button() == Qt.MouseButton.LeftButton and self.rect().contains(event.position().toPoint()):
            self.chosen.emit()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Title and family, purpose, methods; below, from the bottom up: needs and cost, and what it is not for."""
        tokens, painter = theme().tokens, QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        frame = QRectF(self.rect()).adjusted(1, 1, -1, -1)
        painter.setPen(QColor(tokens.accent if self._current else tokens.border))
        painter.setBrush(QColor(tokens.hover if self.underMouse() else tokens.surface))
        painter.drawRoundedRect(frame, 8, 8)
        inside = frame.adjusted(_MARGIN, _MARGIN - 2, -_MARGIN, -_MARGIN + 2)
        small = QFont(self.font())
        small.setPointSizeF(self.font().pointSizeF() - 1)
        top = self._paint_head(painter, inside, small)
        bottom = self._paint_foot(painter, inside, small)
        if self.warning:
            line = QRectF(inside.left(), bottom - 17, inside.width(), 17)
            self._line(painter, line, self._not_for(), small, tokens.warn)
            bottom -= 19
        if self.methods:
            line = QRectF(inside.left(), bottom - 17, inside.width(), 17)
            self._line(painter, line, self.methods, small, tokens.dim)
            bottom -= 19
        lines = min(_PURPOSE_LINES, int((bottom - top) // 17))
        colour = tokens.bad if self.offered.fault is not None else tokens.text
        area = QRectF(inside.left(), top, inside.width(), bottom - top)
        paint_lines(painter, area, self.purpose, lines, self.font(), colour)
        painter.end()

    def _paint_head(self, painter: QPainter, inside: QRectF, small: QFont) -> float:
        """Returns where the purpose may begin."""
        tokens, bold = theme().tokens, QFont(self.font())
        bold.setWeight(QFont.Weight.DemiBold)
        family = FAMILY_WORDS.get(self.offered.family, self.offered.family)
        width = QFontMetricsF(small).horizontalAdvance(family) + 4
        line = QRectF(inside.left(), inside.top(), inside.width(), 20)
        self._line(painter, line.adjusted(0, 0, -width - 8, 0), self.offered.title, bold, tokens.text)
        self._line(painter, line.adjusted(inside.width() - width, 0, 0, 0), family, small, tokens.dim)
        return inside.top() + 25

    def _paint_foot(self, painter: QPainter, inside: QRectF, small: QFont) -> float:
        """Needs as pills, the cost at the right, in two lines where one is too short. Returns where it begins."""
        tokens = theme().tokens
        cost = QFontMetricsF(small).horizontalAdvance(self.cost)
        pills = sum(pill_width(need.words, small) + _GAP for need in self.needs)
        two = pills + cost > inside.width()
        top = inside.bottom() - HEIGHT
        self._line(painter, QRectF(inside.right() - cost - 1, top, cost + 1, HEIGHT), self.cost, small, tokens.dim)
        if two:
            top -= HEIGHT + 4
        left, row = inside.left(), top
        for need in self.needs:
            width = pill_width(need.words, small)
            if left > inside.left() and left + width > inside.right() and row < inside.bottom() - HEIGHT:
                left, row = inside.left(), inside.bottom() - HEIGHT
            last = row == inside.bottom() - HEIGHT
            room = QRectF(left, row, max(0.0, inside.right() - left - (cost + _GAP if last else 0)), HEIGHT)
            if room.width() < _LEAST_PILL:
                break
            paint_pill(painter, room, need.words, tone="idle" if need.met else "warn", font=small)
            left += width + _GAP
        return top - 5

    def _line(self, painter: QPainter, area: QRectF, text: str, font: QFont, colour: str) -> None:
        painter.setFont(font)
        painter.setPen(QColor(colour))
        shown = QFontMetricsF(font).elidedText(text, Qt.TextElideMode.ElideRight, area.width() + 0.5)
        painter.drawText(area, Qt.AlignmentFlag.AlignVCenter, shown)


def _needs_and_cost(offered: Offered, offer: Offer) -> tuple[list[Need], str]:
    if offered.rounds is not None:
        count = offered.rounds.rounds.count
        return needs_of_rounds(offered.rounds, offer), f"trains it, up to {plural(count, 'round')}"
    if offered.recipe is not None:
        return needs_of(offered.recipe, offer), questions_words(offered.recipe)
    return [], ""


def paint_lines(painter: QPainter, area: QRectF, text: str, most: int, font: QFont, colour: str) -> None:
    """Draw wrapped text in at most so many lines, the last one shortened."""
    layout = QTextLayout(text, font)
    option = QTextOption()
    option.setWrapMode(QTextOption.WrapMode.WordWrap)
    layout.setTextOption(option)
    layout.beginLayout()
    lines: list[tuple[int, int]] = []
    while (line := layout.createLine()).isValid() and len(lines) < most:
        line.setLineWidth(area.width())
        lines.append((line.textStart(), line.textLength()))
    layout.endLayout()
    painter.setFont(font)
    painter.setPen(QColor(colour))
    metrics = QFontMetricsF(font)
    for number, (start, length) in enumerate(lines):
        last = number == most - 1
        piece = text[start:] if last else text[start : start + length]
        shown = metrics.elidedText(piece.strip(), Qt.TextElideMode.ElideRight, area.width())
        painter.drawText(QPointF(area.left(), area.top() + metrics.ascent() + number * 17), shown)
