"""A conversation as the inspector previews it: who speaks, and what, as safe markdown."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QScrollArea, QVBoxLayout, QWidget

from kdstudio.ui.widgets.data_detail import Turn
from kdstudio.ui.widgets.labels import ElidedLabel, label
from kdstudio.ui.widgets.markdown_view import MarkdownView
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.wording import number

SHOWN_CHARACTERS = 12_000
"""Of each message; the Edit tab shows the whole of a longer one at once."""
RENDERED_CHARACTERS = 6_000
"""Of all messages together, the last first: rendering takes up to 8 ms for 1 000 characters; the rest is plain text."""
_ROLES = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool", "reasoning": "Reasoning"}
_ROLES |= {"reference": "Reference answer", "chosen": "Chosen", "rejected": "Rejected"}


class TurnView(QWidget):
    """One message."""

    def __init__(self) -> None:
        super().__init__()
        self.who = ElidedLabel("", "heading")
        self.pill = Pill("")
        self.text = MarkdownView(grow=True, name="data_turn_text")
        self.more: QLabel = label("", "small", wrap=True)
        head = QHBoxLayout()
        head.setSpacing(8)
        head.setContentsMargins(2, 0, 0, 0)
        head.addWidget(self.who, 1)
        head.addWidget(self.pill)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addLayout(head)
        column.addWidget(self.text)
        column.addWidget(self.more)

    def show_turn(self, turn: Turn, *, rendered: bool = True) -> None:
        """Show a message, as markdown if it is to be rendered; a long one is cut, and says so."""
        self.who.setText(_ROLES.get(turn.who, turn.who))
        self.pill.set_word(turn.note, "warn" if turn.note.startswith("cut") else None)
        self.pill.setVisible(bool(turn.note))
        self.text.setAccessibleName(f"{turn.who} says")
        if turn.text and rendered:
            self.text.set_markdown(turn.text[:SHOWN_CHARACTERS])
        else:
            self.text.set_plain(turn.text[:SHOWN_CHARACTERS] or "(empty)")
        cut = len(turn.text) > SHOWN_CHARACTERS
        self.more.setText(
            f"{number(SHOWN_CHARACTERS)} of {number(len(turn.text))} characters; the Edit and Raw JSON tabs have more."
            if cut
            else ""
        )
        self.more.setVisible(cut)


class ConversationView(QScrollArea):
    """The messages of one row, one below the other. Views are kept and filled anew, so that J and K stay quick."""

    def __init__(self, name: str = "data_preview", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setAccessibleName("Preview of the row")
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        inner = QWidget()
        inner.setProperty("role", "scrolled")
        self._column = QVBoxLayout(inner)
        self._column.setContentsMargins(12, 10, 10, 10)
        self._column.setSpacing(12)
        self._column.addStretch(1)
        self.setWidget(inner)
        self.turns: list[TurnView] = []

    def show_turns(self, turns: tuple[Turn, ...]) -> None:
        """Show these messages from the top."""
        while len(self.turns) < len(turns):
            made = TurnView()
            self.turns.append(made)
            self._column.insertWidget(self._column.count() - 1, made)
        left = RENDERED_CHARACTERS
        for view, turn in reversed(list(zip(self.turns, turns, strict=False))):
            rendered = len(turn.text) <= left
            left -= len(turn.text) if rendered else 0
            view.show_turn(turn, rendered=rendered)
        for place, view in enumerate(self.turns):
            view.setVisible(place < len(turns))
        self.verticalScrollBar().setValue(0)
