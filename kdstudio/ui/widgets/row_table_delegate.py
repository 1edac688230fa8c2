"""Paints the table's cells, and edits a text in place in a box as large as the text needs."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QAbstractItemModel, QEvent, QModelIndex, QObject, QPersistentModelIndex, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetrics, QKeyEvent, QPainter
from PySide6.QtWidgets import QAbstractItemView, QPlainTextEdit, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from kdstudio.ui.theme import mix, theme
from kdstudio.ui.widgets.pill import paint_pill
from kdstudio.ui.widgets.row_table_model import RowTableModel

MARGIN = 8
_EDITOR_LINES = 6
Index = QModelIndex | QPersistentModelIndex


class CellDelegate(QStyledItemDelegate):
    """One delegate for all columns. `full_text(row id)` gives the whole text when a cell is edited."""

    def __init__(self, model: RowTableModel, full_text: Callable[[int], str | None], view: QAbstractItemView) -> None:
        super().__init__(view)
        self._model, self._view = model, view
        self._full_text = full_text

    # ------------------------------------------------------------------------------------------------- painting
    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        """Draw ground, text or pill; a faint bar for what is still being read."""
        area: QRect = option.rect
        chosen = bool(option.state & option.state.State_Selected)
        tokens = theme().tokens
        if chosen:
            painter.fillRect(area, QColor(tokens.selection))
        place, column = index.row(), index.column()
        shown = self._model.columns[column]
        text = self._model.cell(place, column)
        inner = area.adjusted(MARGIN, 0, -MARGIN, 0)
        if text is None:
            self._paint_placeholder(painter, inner, place + column)
        elif shown.field == "status":
            paint_pill(painter, QRectF(inner), text, font=option.font)
        else:
            dim = shown.field not in ("prompt", "response")
            painter.setPen(QColor(tokens.dim if dim and not chosen else tokens.text))
            painter.setFont(option.font)
            metrics: QFontMetrics = option.fontMetrics
            fitting = metrics.elidedText(text, Qt.TextElideMode.ElideRight, inner.width())
            side = Qt.AlignmentFlag.AlignRight if shown.right else Qt.AlignmentFlag.AlignLeft
            painter.drawText(inner, int(side | Qt.AlignmentFlag.AlignVCenter | Qt.TextFlag.TextSingleLine), fitting)
        if column == 0 and place == self._view.currentIndex().row():
            # The current row wears a line at its left, so that it is seen in a selection of many.
            painter.fillRect(QRect(area.left(), area.top(), 3, area.height()), theme().colour("accent"))

    @staticmethod
    def _paint_placeholder(painter: QPainter, inner: QRect, seed: int) -> None:
        width = inner.width() * (55 + seed * 37 % 40) // 100
        bar = QRectF(inner.left(), inner.center().y() - 3, max(12, width), 7)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(mix(theme().tokens.border, theme().tokens.surface, 0.7)))
        painter.drawRoundedRect(bar, 3, 3)

    # -------------------------------------------------------------------------------------------------- editing
    def createEditor(self, parent: QWidget, _option: QStyleOptionViewItem, _index: Index) -> QWidget:
        """A box of a few lines over the cell."""
        box = QPlainTextEdit(parent)
        box.setObjectName("row_cell_editor")
        box.setAccessibleName("Text of the row. Ctrl+Enter saves, Escape gives up.")
        box.setPlaceholderText("A row needs some text")
        return box

    def setEditorData(self, editor: QWidget, index: Index) -> None:
        """Put the whole text in, not the shortened one of the cell."""
        if isinstance(editor, QPlainTextEdit) and not editor.document().isModified():
            editor.setPlainText(self._full_text(self._model.ids[index.row()]) or "")
            editor.document().setModified(False)
            editor.selectAll()

    def setModelData(self, editor: QWidget, model: QAbstractItemModel, index: Index) -> None:
        """Hand the text over if it was changed."""
        if isinstance(editor, QPlainTextEdit) and editor.document().isModified():
            model.setData(index, editor.toPlainText())

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, _index: Index) -> None:
        """Cover the cell and some room below it, inside the table."""
        area: QRect = QRect(option.rect)
        over = editor.parentWidget()
        room = over.rect() if over is not None else area
        metrics: QFontMetrics = option.fontMetrics
        height = max(area.height(), metrics.lineSpacing() * _EDITOR_LINES + 18)
        area.setHeight(min(height, room.height()))
        area.setWidth(max(area.width(), min(320, room.width())))
        area.moveRight(min(area.right(), room.right()))
        area.moveBottom(min(area.bottom(), room.bottom()))
        editor.setGeometry(area)

    def eventFilter(self, editor: QObject, event: QEvent) -> bool:
        """Ctrl+Enter saves; plain Enter stays a new line."""
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress and isinstance(editor, QWidget):
            held = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
            if held and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
                self.commitData.emit(editor)
                self.closeEditor.emit(editor, QStyledItemDelegate.EndEditHint.NoHint)
                return True
        return super().eventFilter(editor, event)
