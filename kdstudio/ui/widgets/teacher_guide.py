"""What a newcomer asks before choosing a teacher: what each kind can teach, and which students can learn from it."""

from __future__ import annotations

from typing import Literal

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QWidget

from kdstudio.ui.icons import pixmap
from kdstudio.ui.session import Session
from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.card import Card, line
from kdstudio.ui.widgets.labels import label

Answer = Literal["yes", "no", "it depends"]
_ICONS: dict[Answer, tuple[str, str]] = {
    "yes": ("check", "good"),
    "no": ("minus", "dim"),
    "it depends": ("info", "dim"),
}
KINDS = ("A local GGUF file", "An endpoint")
ROWS: tuple[tuple[str, tuple[Answer, str], tuple[Answer, str]], ...] = (
    ("Answers your prompts", ("yes", ""), ("yes", "")),
    ("A student imitates its answers", ("yes", ""), ("yes", "")),
    ("A student matches its probabilities", ("yes", ""), ("no", "it gives text alone")),
    ("A student starts from its weights", ("yes", "Llama, Mistral, Qwen"), ("no", "")),
    ("Your prompts stay on this machine", ("yes", ""), ("it depends", "only if it runs here")),
    ("You may share the student", ("it depends", "as its licence says"), ("it depends", "as the provider’s terms say")),
)
PAIR = (
    "A student cut from its teacher shares its vocabulary: every way of learning is open to it. One of another family "
    "learns from the teacher’s text, or by objectives made for two vocabularies. The Train page says which fit."
)


class GuideCell(QWidget):
    """A mark and, where a mark alone would be too short an answer, a few words."""

    def __init__(self, answer: Answer, words: str, question: str) -> None:
        super().__init__()
        self._answer: Answer = answer
        self._mark = QLabel()
        self.setAccessibleName(f"{question}: {words or answer}")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        row.addWidget(self._mark, 0, Qt.AlignmentFlag.AlignTop)
        said = label(words, "small", wrap=True)
        said.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        row.addWidget(said, 1)
        theme().changed.connect(self._draw)
        self._draw()

    def _draw(self) -> None:
        name, token = _ICONS[self._answer]
        self._mark.setPixmap(pixmap(name, token, 15, self.devicePixelRatioF()))


class TeacherGuide(Card):
    """A quiet table. `ways_on`: whether there is a teacher to go on with, to its questions or to a student."""

    def __init__(self, session: Session, *, ways_on: bool) -> None:
        super().__init__("What a teacher can teach", name="teachers_guide")
        self._session = session
        grid = QGridLayout()
        grid.setHorizontalSpacing(18)
        grid.setVerticalSpacing(7)
        for column, stretch in enumerate((5, 4, 4)):
            grid.setColumnStretch(column, stretch)
        for column, kind in enumerate(KINDS, start=1):
            grid.addWidget(label(kind, "small"), 0, column)
        for place, (question, *answers) in enumerate(ROWS, start=1):
            grid.addWidget(label(question, wrap=True), place, 0)
            for column, (answer, words) in enumerate(answers, start=1):
                grid.addWidget(GuideCell(answer, words, f"{question}, {KINDS[column - 1]}"), place, column)
        self.body.addLayout(grid)
        self.add(line())
        self.add(label(PAIR, "small", wrap=True, name="teachers_guide_pair"))
        if ways_on:
            self.body.addLayout(self._ways_on())

    def _ways_on(self) -> QHBoxLayout:
        ask = button("Ask a teacher", icon="sparkles", name="teachers_guide_ask", clicked=self._ask)
        train = button("Train a student", icon="line-chart", name="teachers_guide_train", clicked=self._train)
        ask.setToolTip("Choose a recipe and let a teacher answer the project’s prompts")
        train.setToolTip("Set up a run with the answers that you accepted")
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(ask)
        row.addWidget(train)
        row.addStretch(1)
        return row

    def _ask(self) -> None:
        self._session.go("data", generating=True)

    def _train(self) -> None:
        self._session.go("train", new=True)
