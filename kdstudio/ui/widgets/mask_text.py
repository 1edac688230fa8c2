"""A row's text as training sees it: what is only read in grey, what is learnt on a coloured ground, with a key."""

from __future__ import annotations

import html
from collections.abc import Iterable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QWidget

from kdstudio.ui.theme import theme

_KEY = {"read": "read", "learnt": "learnt"}


class MaskText(QLabel):
    """`passages`: pieces of the text, each with "read" or "learnt"."""

    def __init__(self, passages: Iterable[tuple[str, str]], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.passages = tuple(passages)
        self.setObjectName("mask_text")
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setWordWrap(True)
        self.setProperty("role", "small")
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setAccessibleName(" ".join(f"{kind}: {text}" for text, kind in self.passages))
        theme().changed.connect(self._draw)
        self._draw()

    def _draw(self) -> None:
        tokens = theme().tokens
        styles = {
            "read": f"color:{tokens.dim}",
            "learnt": f"color:{tokens.text}; background-color:{tokens.selection}",
        }
        pieces = [
            f'<span style="{styles.get(kind, styles["read"])}">{html.escape(text).replace(chr(10), "<br>")}</span>'
            for text, kind in self.passages
        ]
        key = " ".join(f'<span style="{styles[kind]}">&nbsp;{word}&nbsp;</span>' for kind, word in _KEY.items())
        self.setText(f"{key}<br>{''.join(pieces)}")
