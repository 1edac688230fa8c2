"""One exchange in the chat: what the person said, and below it the models' answers side by side."""

from __future__ import annotations

import re
import time

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from kdstudio.errors import KnownError
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import ElidedLabel, label
from kdstudio.ui.widgets.markdown_view import MarkdownView
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.wording import plural, speed, told

_FLUSH_MILLISECONDS = 50
_MARKDOWN = re.compile(r"(^```|^#{1,6} |^\s*[-*+] |^\s*\d+\. |^\|.+\||\*\*[^*\n]+\*\*|`[^`\n]+`|^> )", re.MULTILINE)


class AnswerCard(Card):
    """A model's answer: grows while it streams, rendered as markdown at its end where it is markdown."""

    def __init__(self, role: str, model: str, *, loaded: bool) -> None:
        super().__init__("", name=f"answer_{role}", margin=12)
        self._waiting = ""
        self._text = ""
        self._pieces = 0
        self._first = 0.0
        self.finished = False
        self.words = label("thinking…" if loaded else "loading the model…", "small", name=f"answer_{role}_rate")
        self.pill = Pill("stopped", "idle")
        self.pill.hide()
        head = QHBoxLayout()
        head.setSpacing(8)
        head.addWidget(label(role.capitalize(), "heading"))
        head.addWidget(ElidedLabel(model, "small"), 1)
        head.addWidget(self.pill)
        head.addWidget(self.words)
        self.body.addLayout(head)
        self.view = MarkdownView(grow=True, name=f"answer_{role}_text")
        self.view.setAccessibleName(f"Answer of {model}")
        self.add(self.view)
        self.error: QLabel = label("", "error", wrap=True, name=f"answer_{role}_error", selectable=True)
        self.error.hide()
        self.add(self.error)
        self.body.addStretch(1)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_FLUSH_MILLISECONDS)
        self._timer.timeout.connect(self._flush)

    def text(self) -> str:
        """The answer so far."""
        return self._text

    def say(self, words: str) -> None:
        """What the model is doing before it says something."""
        if not self._pieces and not self.finished:
            self.words.setText(words)

    def add_piece(self, piece: str) -> None:
        """Take a streamed piece; it is shown at most twenty times a second."""
        if not self._pieces:
            self._first = time.monotonic()
            piece = piece.lstrip()
        self._pieces += 1
        self._text += piece
        self._waiting += piece
        if not self._timer.isActive():
            self._timer.start()

    def _flush(self) -> None:
        piece, self._waiting = self._waiting, ""
        if piece and not self.finished:
            self.view.append_plain(piece)
            passed = time.monotonic() - self._first
            if passed > 0.3:
                self.words.setText(f"{(self._pieces - 1) / passed:.0f} tokens/s")

    def finish(self, text: str, tokens: int, tokens_per_second: float, reason: str, *, stopped: bool) -> None:
        """Show the whole answer with its figures."""
        self.finished = True
        self._text = text.strip() or self._text
        if _MARKDOWN.search(self._text):
            self.view.set_markdown(self._text)
        else:
            self.view.set_plain(self._text)
        self.words.setText(f"{plural(tokens, 'token')} · {speed(tokens_per_second)}")
        if stopped or reason == "length":
            self.pill.set_word("stopped" if stopped else "cut at the limit", "idle" if stopped else "warn")
            self.pill.show()
        self.view.setVisible(bool(self._text))
        if not self._text and not stopped:
            self.error.setText("The model said nothing.")
            self.error.show()

    def fail(self, error: KnownError) -> None:
        """Show why there is no answer; what came before stays."""
        self.finished = True
        self.words.setText("")
        self.view.setVisible(bool(self._text))
        self.error.setText(told(error))
        self.error.show()


class ChatTurn(QWidget):
    """The person's message as a bubble at the right, answers below. `answers` is by role: student, teacher."""

    def __init__(self, said: str, models: dict[str, str], *, loaded: bool, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.said = said
        self.answers = {role: AnswerCard(role, model, loaded=loaded) for role, model in models.items()}
        bubble = QFrame()
        bubble.setProperty("role", "bubble")
        inner = QHBoxLayout(bubble)
        inner.setContentsMargins(12, 8, 12, 8)
        words = label(said, wrap=True, name="chat_said", selectable=True)
        words.setMinimumWidth(min(520, words.fontMetrics().horizontalAdvance(said.partition("\n")[0]) + 4))
        words.setMaximumWidth(640)
        inner.addWidget(words)
        top = QHBoxLayout()
        top.addStretch(1)
        top.addWidget(bubble, 0, Qt.AlignmentFlag.AlignRight)
        row = QHBoxLayout()
        row.setSpacing(12)
        for card in self.answers.values():
            row.addWidget(card, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 6)
        column.setSpacing(10)
        column.addLayout(top)
        column.addLayout(row)
