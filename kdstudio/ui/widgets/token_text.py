"""An answer token by token, each on a ground that says how likely it was, with what else might have stood there.

Colour is never alone: the legend names the steps, unlikely tokens are underlined, and the line below reads out the
token at hand, by mouse or by arrow keys.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtGui import QColor, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QFrame, QHBoxLayout, QTextEdit, QVBoxLayout, QWidget

from kdstudio.ui.theme import Tokens, mix, theme
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.token_view import TokenView

MOST_ALTERNATIVES = 6
_SHOWN_CHARACTERS = 24
_MARKS = {"\n": "↵", "\t": "⇥", " ": "␣"}


@dataclass(frozen=True)
class ShownToken:
    """A token's text, its log-prob in nats, and the likeliest tokens at its place, likeliest first."""

    text: str
    log_prob: float
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Step:
    """Tokens of at least `probability` are shown on `share` (0..1) of the colour `token` over the surface.

    `words`: that probability in nats, and as a share.
    """

    probability: float
    words: str
    token: str
    share: float
    underlined: bool = False

    def ground(self, tokens: Tokens) -> str:
        """The colour behind the text, in that theme."""
        return mix(getattr(tokens, self.token), tokens.surface, self.share)


STEPS: tuple[Step, ...] = (
    Step(0.9, "−0.1 (90 %)", "good", 0.24),
    Step(0.5, "−0.7 (50 %)", "surface", 0.0),
    Step(0.1, "−2.3 (10 %)", "warn", 0.24),
    Step(0.01, "−4.6 (1 %)", "bad", 0.24, underlined=True),
    Step(0.0, "less", "bad", 0.46, underlined=True),
)


def step_of(log_prob: float) -> Step:
    """The step of a log-prob in nats; what is no number is taken for the least likely."""
    probability = math.exp(min(log_prob, 0.0)) if not math.isnan(log_prob) else 0.0
    return next((step for step in STEPS if probability >= step.probability), STEPS[-1])


def tokens_of(reply: Sequence[Any]) -> tuple[ShownToken, ...]:
    """Read what the chat server sends: `[text, nats, [[text, nats], ...]]` for each token; what is none is left out."""
    found = []
    for item in reply:
        try:
            text, log_prob, others = item
            pairs = tuple((str(other), float(nats)) for other, nats in others)
            found.append(ShownToken(str(text), float(log_prob), pairs))
        except (TypeError, ValueError):
            continue
    return tuple(found)


def marked(text: str) -> str:
    """A token as it is read out: blanks made visible, long ones cut."""
    shown = "".join(_MARKS.get(mark, mark if mark.isprintable() else "·") for mark in text)
    return f"“{shown if len(shown) <= _SHOWN_CHARACTERS else shown[: _SHOWN_CHARACTERS - 1] + '…'}”"


def likelihood(log_prob: float) -> str:
    """`−1.61 nats (20 %)`."""
    if math.isnan(log_prob) or log_prob == -math.inf:
        return "never"
    percent = 100 * math.exp(min(log_prob, 0.0))
    words = f"{percent:.0f} %" if percent >= 9.5 else f"{percent:.1f} %" if percent >= 0.1 else "below 0.1 %"
    return f"{log_prob:.2f} nats ({words})".replace("-", "−").replace("−0.00", "0.00")


class Swatch(QFrame):
    """One step of the legend: its words on its ground."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self._step = step
        self._words = label(step.words, "small")
        row = QHBoxLayout(self)
        row.setContentsMargins(6, 1, 6, 2)
        row.addWidget(self._words)
        least = f"{100 * step.probability:g} % or more" if step.probability else "less than 1 %"
        self.setToolTip(f"Tokens to which the teacher gave {least}")
        theme().changed.connect(self._draw)
        self._draw()

    def _draw(self) -> None:
        tokens = theme().tokens
        line = "; text-decoration: underline" if self._step.underlined else ""
        self._words.setStyleSheet(f"color: {tokens.text}{line}")
        ground, edge = self._step.ground(tokens), tokens.border
        self.setStyleSheet(f"Swatch {{ background: {ground}; border: 1px solid {edge}; border-radius: 4px }}")


class TokenText(QWidget):
    """`chosen(place)`: another token is at hand. Shows plain text while it grows, tokens once they are known."""

    chosen = Signal(int)

    def __init__(self, name: str = "token_text", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.tokens: tuple[ShownToken, ...] = ()
        self.current = -1
        self._starts: list[int] = []
        self.view = TokenView(f"{name}_view")
        self.legend = QWidget()
        self.readout = label("", wrap=True, name=f"{name}_readout")
        self.others = label("", "small", wrap=True, name=f"{name}_others")
        self._build()
        self.view.pointed.connect(self._pointed)
        self.view.walked.connect(self._walked)
        theme().changed.connect(self._draw)
        self.clear()

    def _build(self) -> None:
        row = QHBoxLayout(self.legend)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        row.addWidget(label("nats at least", "small"))
        for step in STEPS:
            row.addWidget(Swatch(step))
        row.addStretch(1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        for part in (self.view, self.legend, self.readout, self.others):
            column.addWidget(part)

    # ------------------------------------------------------------------------------------------------- showing
    def clear(self) -> None:
        """Show nothing."""
        self.show_text("")

    def show_text(self, text: str) -> None:
        """Show a text whose log-probs are not known."""
        self.tokens, self._starts, self.current = (), [], -1
        self.view.setPlainText(text)
        self.view.setExtraSelections([])
        self.view.setAccessibleDescription("")
        for part in (self.legend, self.readout, self.others):
            part.hide()
        self.view.setVisible(bool(text))

    def append(self, piece: str) -> None:
        """Add to the plain text, while an answer grows."""
        cursor = QTextCursor(self.view.document())
        cursor.movePosition(QTextCursor.MoveOperation.End)
        cursor.insertText(piece, QTextCharFormat())
        self.view.show()

    def show_tokens(self, tokens: Sequence[ShownToken]) -> None:
        """Show an answer by its tokens; none clears it."""
        self.show_text("")
        self.tokens = tuple(tokens)
        if not tokens:
            return
        position = 0
        for token in tokens:
            self._starts.append(position)
            position += _width(token.text)
        self.view.setPlainText("".join(_lines(token.text) for token in tokens))
        self._draw()
        mean = sum(max(token.log_prob, -100.0) for token in tokens) / len(tokens)
        words = f"{len(tokens)} tokens, {likelihood(mean)} each on average."
        self.readout.setText(words)
        self.others.setText("Point at a token, or walk with the arrow keys: Ctrl+→ goes to the next unlikely one.")
        self.view.setAccessibleDescription(words)
        for part in (self.view, self.legend, self.readout, self.others):
            part.show()

    def _draw(self) -> None:
        """Colour the tokens; also after the theme changed."""
        if not self.tokens:
            return
        colours = theme().tokens
        cursor = QTextCursor(self.view.document())
        cursor.beginEditBlock()
        for token, start in zip(self.tokens, self._starts, strict=True):
            step, shape = step_of(token.log_prob), QTextCharFormat()
            shape.setForeground(QColor(colours.text))
            if step.share:
                shape.setBackground(QColor(step.ground(colours)))
            if step.underlined:
                shape.setUnderlineStyle(QTextCharFormat.UnderlineStyle.DotLine)
            cursor.setPosition(start)
            cursor.setPosition(start + _width(token.text), QTextCursor.MoveMode.KeepAnchor)
            cursor.setCharFormat(shape)
        cursor.endEditBlock()
        self._mark()

    # ------------------------------------------------------------------------------------------------- walking
    def choose(self, place: int) -> None:
        """Read out a token by its place; beyond the ends nothing changes."""
        if not 0 <= place < len(self.tokens) or place == self.current:
            return
        self.current = place
        token = self.tokens[place]
        self.readout.setText(f"{marked(token.text)}   {likelihood(token.log_prob)}")
        others = [pair for pair in token.alternatives if pair[0] != token.text][:MOST_ALTERNATIVES]
        listed = "   ".join(_unbroken(f"{marked(text)} {likelihood(nats)}") for text, nats in others)
        self.others.setText(f"Instead: {listed}" if listed else "The likeliest tokens at its place were not given.")
        self.view.setAccessibleDescription(f"Token {place + 1}: {self.readout.text()}. {self.others.text()}")
        self._mark()
        self.chosen.emit(place)

    def place_at(self, position: int) -> int:
        """The token at a position of the document; -1 when there is none."""
        return bisect.bisect_right(self._starts, position) - 1 if self._starts else -1

    def _pointed(self, position: int) -> None:
        self.choose(self.place_at(position))
        if self.tokens and self.current >= 0:
            self.view.setToolTip(f"{self.readout.text()}\n{self.others.text()}")

    def _walked(self, way: str) -> None:
        last = len(self.tokens) - 1
        near = max(self.current, 0)
        if way in ("next unlikely", "previous unlikely"):
            onward = range(self.current + 1, last + 1) if way == "next unlikely" else range(near - 1, -1, -1)
            self.choose(next((place for place in onward if step_of(self.tokens[place].log_prob).underlined), -1))
        elif way in ("up", "down"):
            self.choose(self.place_at(self.view.line_from(self._starts[near], down=way == "down")) if last >= 0 else -1)
        else:
            places = {"next": self.current + 1, "previous": near - 1, "first": 0, "last": last}
            self.choose(places[way])

    def _mark(self) -> None:
        """Frame the token at hand."""
        if self.current < 0:
            self.view.setExtraSelections([])
            return
        start = self._starts[self.current]
        selection = QTextEdit.ExtraSelection()
        cursor = QTextCursor(self.view.document())
        cursor.setPosition(start)
        cursor.setPosition(start + _width(self.tokens[self.current].text), QTextCursor.MoveMode.KeepAnchor)
        shape = QTextCharFormat()
        shape.setBackground(QColor(theme().tokens.primary))
        shape.setForeground(QColor(theme().tokens.on_primary))
        selection.cursor, selection.format = cursor, shape
        self.view.setExtraSelections([selection])
        self.view.bring_into_sight(cursor)


def _unbroken(words: str) -> str:
    return words.replace(" ", "\u00a0")


def _lines(text: str) -> str:
    """A text as a document holds it: one kind of line break, and no NUL."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "\ufffd")


def _width(text: str) -> int:
    """How many positions of a document a text takes: UTF-16 units."""
    return len(_lines(text).encode("utf-16-le", "surrogatepass")) // 2
