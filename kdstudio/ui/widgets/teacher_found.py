"""A model that was found on this machine, as a row: what it is, its card, and a button that adds it where it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from kdstudio.ui.widgets.buttons import button, tool_button
from kdstudio.ui.widgets.labels import ElidedLabel, label
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.teacher_words import size_words
from kdstudio.ui.widgets.wording import number

if TYPE_CHECKING:
    from kdstudio.models.discovery import DescribedModel


def found_words(described: DescribedModel) -> str:
    """`LM Studio · 98 MB · Q4_1 · context 8 192 · Apache 2.0`."""
    found, card = described.found, described.card
    parts = [found.source, size_words(found.bytes)]
    if card is not None:
        parts += [card.quantization, f"context {number(card.context)}" if card.context else ""]
        parts += [card.terms.name if card.terms.stated else "no licence stated"]
    return " · ".join(part for part in parts if part)


class FoundRow(QWidget):
    """`wanted(path, name)`: add it. `card_wanted(path, name)`: show what its file says."""

    wanted = Signal(object, str)
    card_wanted = Signal(object, str)

    def __init__(self, described: DescribedModel, *, added: bool) -> None:
        super().__init__()
        found = described.found
        names = QVBoxLayout()
        names.setSpacing(0)
        names.addWidget(ElidedLabel(found.name))
        names.addWidget(label(found_words(described), "small", wrap=True))
        trouble = described.problem
        if not trouble and found.bytes > psutil.virtual_memory().total:
            trouble = "More than this machine’s memory"
        if trouble:
            names.addWidget(
                label(trouble, "error" if described.problem else "warn", wrap=True, name="teachers_found_trouble")
            )
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 3, 4, 3)
        row.setSpacing(6)
        row.addLayout(names, 1)
        self.setToolTip(str(found.path))
        if described.problem:
            return
        about = tool_button(
            "info",
            f"What the file of {found.name} says",
            name="teachers_found_card",
            clicked=lambda: self.card_wanted.emit(found.path, found.name),
        )
        row.addWidget(about)
        if added:
            row.addWidget(Pill("added", "idle"))
            return
        # Ollama names its files by hash; the other names are made from the file's own.
        name = found.name if found.source == "Ollama" else ""
        self.add = button("Add", name="teachers_found_add", clicked=lambda: self.wanted.emit(found.path, name))
        self.add.setAccessibleName(f"Add {found.name}")
        row.addWidget(self.add)
