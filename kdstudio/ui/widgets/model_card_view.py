"""A model's card: what it is, how it is quantised, what it reads, its template, its licence. Nothing is loaded.

Every word comes from the file and is shown as plain text: nothing in it is followed, run or rendered.
"""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QGridLayout, QPlainTextEdit, QProgressBar, QScrollArea, QVBoxLayout, QWidget

from kdstudio.models.model_card import ModelCard, TypeShare, model_card
from kdstudio.ui.job_bridge import background
from kdstudio.ui.session import Session
from kdstudio.ui.style import mono_font
from kdstudio.ui.widgets.card import line
from kdstudio.ui.widgets.data_dialog import Sheet
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.teacher_words import size_words
from kdstudio.ui.widgets.wording import number, plural, short_number

_MOST_TYPES, _FEWEST_LINES, _MOST_LINES = 8, 2, 9
Facts = tuple[tuple[str, str], ...]


def model_facts(card: ModelCard) -> Facts:
    """What the network is; a name and words for each, without what the file leaves open."""
    layers = f"{card.layers} layers of {number(card.hidden)}" if card.layers else ""
    heads = f"{card.heads} heads" + (f", {card.kv_heads} for keys" if card.kv_heads not in (0, card.heads) else "")
    shape = ", ".join(part for part in (layers, heads if card.heads else "") if part)
    feed = f", feed-forward {number(card.feed_forward)}" if card.feed_forward and shape else ""
    size = f"{short_number(card.parameters)} parameters, {size_words(card.bytes)}" if card.parameters else ""
    facts = (
        ("Architecture", card.architecture),
        ("Size", size or size_words(card.bytes)),
        ("Shape", shape + feed),
        ("Context", plural(card.context, "token") if card.context else ""),
        ("Vocabulary", f"{plural(card.vocabulary, 'token')}{f' ({card.tokenizer})' if card.tokenizer else ''}"),
    )
    return _stated(facts)


def origin_facts(card: ModelCard) -> Facts:
    """Who made it, from what, for which languages."""
    bases = ", ".join(
        f"{base.name}{f' by {base.organization}' if base.organization else ''}" for base in card.base_models
    )
    facts = (
        ("Made by", ", ".join(part for part in (card.author, card.organization) if part)),
        ("Made from", bases),
        ("Languages", ", ".join(card.languages)),
        ("Trained on", ", ".join(card.datasets)),
        ("Tags", ", ".join(card.tags)),
        ("Address", card.url),
        ("About", card.description),
        ("Folder" if Path(card.path).is_dir() else "File", card.path),
    )
    return _stated(facts)


def licence_facts(card: ModelCard) -> Facts:
    """Its licence and what that says about training from it."""
    terms = card.terms
    return _stated((("Licence", terms.name), ("It says", terms.says), ("Read it at", card.license_link or terms.link)))


def template_words(card: ModelCard) -> str:
    """What is to be known about its chat template."""
    if card.template_too_long:
        return "It has a chat template, longer than is read from a file: it cannot be used."
    if not card.template:
        return "It has no chat template: it is a base model that continues text."
    if card.template_known:
        return "Its chat template is one that we know by heart."
    return "Its chat template is its own: it runs in a closed-off process with a time limit."


def _stated(facts: Facts) -> Facts:
    return tuple((name, words) for name, words in facts if words)


class ModelCardView(QWidget):
    """The card as a column of plain facts."""

    def __init__(self, card: ModelCard, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "scrolled")
        self.card = card
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 8, 0)
        self._column.setSpacing(10)
        self._facts(model_facts(card), "model")
        self._part("Quantised by tensors")
        self._column.addLayout(self._types(card.types))
        self._part("Licence")
        self._facts(licence_facts(card), "licence")
        self._part("Chat template")
        self._column.addWidget(label(template_words(card), wrap=True, name="model_card_template_words"))
        if card.template:
            self._column.addWidget(_code(card.template))
        self._part("Where it comes from")
        self._facts(origin_facts(card), "origin")
        self._column.addStretch(1)

    def _part(self, heading: str) -> None:
        self._column.addWidget(line())
        self._column.addWidget(label(heading, "heading"))

    def _facts(self, facts: Facts, part: str) -> None:
        grid = QGridLayout()
        grid.setHorizontalSpacing(16)
        grid.setVerticalSpacing(5)
        grid.setColumnMinimumWidth(0, 84)
        grid.setColumnStretch(1, 1)
        for place, (name, words) in enumerate(facts):
            grid.addWidget(label(name, "dim"), place, 0, Qt.AlignmentFlag.AlignTop)
            said = label(words, wrap=True, name=f"model_card_{part}_{place}", selectable=True)
            said.setAccessibleName(f"{name}: {words}")
            grid.addWidget(said, place, 1)
        self._column.addLayout(grid)

    def _types(self, types: tuple[TypeShare, ...]) -> QGridLayout:
        """One line for each number format: its share of the numbers as a bar and in words."""
        card, grid = self.card, QGridLayout()
        grid.setHorizontalSpacing(16)
        grid.setVerticalSpacing(5)
        grid.setColumnMinimumWidth(0, 84)
        grid.setColumnStretch(1, 1)
        summary = (
            f"{card.quantization}, {card.bits_per_weight:g} bits a weight on average" if types else "It has no weights."
        )
        grid.addWidget(label(summary, wrap=True, name="model_card_bits"), 0, 0, 1, 3)
        for place, share in enumerate(types[:_MOST_TYPES], start=1):
            part = share.parameters / max(card.parameters, 1)
            bar = QProgressBar()
            bar.setTextVisible(False)
            bar.setRange(0, 1000)
            bar.setValue(round(1000 * part))
            words = f"{plural(share.tensors, 'tensor')}, {100 * part:.1f} % of the numbers, {size_words(share.bytes)}"
            bar.setAccessibleName(f"{share.type}: {words}")
            grid.addWidget(label(share.type, "mono"), place, 0)
            grid.addWidget(bar, place, 1)
            grid.addWidget(label(words, "small"), place, 2)
        return grid


def _code(text: str) -> QPlainTextEdit:
    view = QPlainTextEdit(text)
    view.setObjectName("model_card_template")
    view.setAccessibleName("Chat template")
    view.setReadOnly(True)
    view.setTabChangesFocus(True)
    view.setFont(mono_font(9.0))
    shown = sum(1 + len(part) // 76 for part in text.split("\n"))
    lines = min(_MOST_LINES, max(_FEWEST_LINES, shown))
    view.setFixedHeight(lines * view.fontMetrics().lineSpacing() + 24)
    return view


class ModelCardSheet(Sheet):
    """Opens at once and fills as soon as the file's header, or the folder's, was read."""

    def __init__(self, session: Session, path: Path, title: str, parent: QWidget | None = None) -> None:
        what = "folder" if path.is_dir() else "file"
        super().__init__(
            session, "model_card_sheet", title, f"What the {what} says of itself. Nothing was loaded.", parent
        )
        self.view: ModelCardView | None = None
        self._area = QScrollArea()
        self._area.setWidgetResizable(True)
        self._area.setFrameShape(QFrame.Shape.NoFrame)
        self._area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._area.setWidget(label("Reading its header…", "dim", name="model_card_reading"))
        self.body.addWidget(self._area, 1)
        self.add_cancel("Close")
        self.resize(620, 600)
        task = background(model_card, path, owner=self)
        task.done.connect(self._show)
        task.failed.connect(self._failed)

    def _show(self, card: ModelCard) -> None:
        self.view = ModelCardView(card)
        self._area.setWidget(self.view)

    def _failed(self, error: object) -> None:
        self._area.hide()
        self.show_error(error)  # type: ignore[arg-type]
