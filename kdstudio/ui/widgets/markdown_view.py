"""Model text rendered safely: markdown without HTML, no remote content, our own look for code and tables.

A model's answer is untrusted. HTML in it is shown as text, images and style sheets are never loaded, and a link opens
only through the person's own click, only when it is http(s).
"""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QSize, Qt, QUrl
from PySide6.QtGui import (
    QBrush,
    QColor,
    QDesktopServices,
    QFont,
    QResizeEvent,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextDocument,
    QTextFrameFormat,
    QTextLength,
    QTextTable,
)
from PySide6.QtWidgets import QFrame, QSizePolicy, QTextBrowser, QWidget

from kdstudio.ui import style
from kdstudio.ui.theme import theme

_CODE_MARKS = (QTextBlockFormat.Property.BlockCodeLanguage, QTextBlockFormat.Property.BlockCodeFence)
MAXIMUM_CHARACTERS = 200_000
_FEATURES = QTextDocument.MarkdownFeature.MarkdownDialectGitHub | QTextDocument.MarkdownFeature.MarkdownNoHTML


class MarkdownView(QTextBrowser):
    """Read-only rendered text. `grow=True` makes it as tall as its text, for bubbles in a scrolled column."""

    def __init__(self, *, grow: bool = False, name: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        if name:
            self.setObjectName(name)
        self._grow, self._text, self._plain = grow, "", False
        self.setOpenLinks(False)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setProperty("role", "plain")
        self.document().setDocumentMargin(2)
        self.anchorClicked.connect(self._open)
        if grow:
            self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
            self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
            self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            self.document().documentLayout().documentSizeChanged.connect(lambda _size: self._fit())
        theme().changed.connect(self._render)

    def text(self) -> str:
        """The source text that is shown."""
        return self._text

    def set_markdown(self, text: str) -> None:
        """Show `text` as markdown."""
        self._text, self._plain = text[:MAXIMUM_CHARACTERS], False
        self._render()

    def set_plain(self, text: str) -> None:
        """Show `text` exactly as it is."""
        self._text, self._plain = text[:MAXIMUM_CHARACTERS], True
        self._render()

    def append_plain(self, piece: str) -> None:
        """Add a piece while an answer streams; cheaper than rendering it all again."""
        self._text, self._plain = self._text + piece, True
        cursor = QTextCursor(self.document())
        cursor.movePosition(QTextCursor.MoveOperation.End)
        cursor.insertText(piece)

    def loadResource(self, _kind: int, _url: QUrl | str) -> Any:
        """Load nothing: an answer must not fetch an image or read a file."""
        return None

    def _open(self, url: QUrl) -> None:
        if url.scheme() in ("http", "https"):
            QDesktopServices.openUrl(url)

    def _render(self) -> None:
        document = self.document()
        if self._plain:
            document.setPlainText(self._text)
            return
        document.setMarkdown(self._text, _FEATURES)
        self._dress(document)

    def _dress(self, document: QTextDocument) -> None:
        """QTextBrowser leaves code blocks and tables bare, and makes a bold of its own where Inter has a semi-bold."""
        ground = QBrush(QColor(theme().tokens.code))
        for frame in document.rootFrame().childFrames():
            if isinstance(frame, QTextTable):
                _dress_table(frame)
        block = document.begin()
        while block.isValid():
            cursor = QTextCursor(block)
            shape = block.blockFormat()
            if any(shape.hasProperty(mark) for mark in _CODE_MARKS):
                shape.setBackground(ground)
                shape.setLeftMargin(8)
                shape.setNonBreakableLines(False)  # there is no room to scroll sideways
                cursor.setBlockFormat(shape)
            _dress_fragments(cursor, ground)
            block = block.next()

    def _fit(self) -> None:
        self.setFixedHeight(round(self.document().size().height()) + 4)

    def sizeHint(self) -> QSize:
        """As tall as the text when it grows."""
        return QSize(200, round(self.document().size().height()) + 4) if self._grow else super().sizeHint()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """A narrower bubble is a taller one."""
        super().resizeEvent(event)
        if self._grow:
            self._fit()


def _dress_fragments(cursor: QTextCursor, ground: QBrush) -> None:
    block, families = cursor.block(), style.mono_font().families()
    pieces = block.begin()
    found: list[tuple[int, int, QTextCharFormat]] = []
    while not pieces.atEnd():
        fragment = pieces.fragment()
        shape = QTextCharFormat(fragment.charFormat())
        if shape.fontFixedPitch():
            shape.setFontFamilies(families)
            shape.setBackground(ground)
        if shape.fontWeight() > QFont.Weight.DemiBold:
            shape.setFontWeight(QFont.Weight.DemiBold)
        if shape != fragment.charFormat():
            found.append((fragment.position(), fragment.length(), shape))
        pieces += 1
    for position, length, shape in found:
        cursor.setPosition(position)
        cursor.setPosition(position + length, QTextCursor.MoveMode.KeepAnchor)
        cursor.setCharFormat(shape)
    cursor.setPosition(block.position())


def _dress_table(table: QTextTable) -> None:
    first = table.cellAt(0, 0)
    cursor = first.firstCursorPosition()
    if not cursor.block().text() and cursor.block() != first.lastCursorPosition().block():
        cursor.deleteChar()  # Qt leaves an empty line in the first cell of a table after a code block
        cursor.movePosition(QTextCursor.MoveOperation.EndOfBlock, QTextCursor.MoveMode.KeepAnchor)
        bold = QTextCharFormat()
        bold.setFontWeight(QFont.Weight.Bold)
        cursor.mergeCharFormat(bold)
    shape = table.format()
    shape.setBorder(1)
    shape.setBorderBrush(QBrush(QColor(theme().tokens.border)))
    shape.setBorderStyle(QTextFrameFormat.BorderStyle.BorderStyle_Solid)
    shape.setBorderCollapse(True)
    shape.setCellPadding(4)
    shape.setCellSpacing(0)
    shape.setTopMargin(6)
    shape.setBottomMargin(6)
    shape.setWidth(QTextLength())
    table.setFormat(shape)
