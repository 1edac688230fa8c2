"""The rounds as lines: what was asked, made and learnt in each, the held-out figure before and after, and its runs."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from kdstudio.catalogue.rounds import LOWER_IS_BETTER
from kdstudio.jobs.supervisor import ACTIVE
from kdstudio.rounds.chain import Part
from kdstudio.rounds.standing import RoundStanding, Standing
from kdstudio.rounds.verdict import verdict_of
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.labels import ElidedLabel, label, set_role
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.wording import number, progress_words

FIGURES = {
    "student_nll": "NLL",
    "forward_kl": "Forward KL",
    "reverse_kl": "Reverse KL",
    "top1_agreement": "Same first choice",
    "exact_match": "Equal answers",
    "rouge_l": "ROUGE-L",
    "accuracy": "Tasks solved",
}
"""What is watched, in a heading's words."""
_SHARES = ("accuracy", "top1_agreement", "exact_match")
_DOING: dict[Part, str] = {
    "elicit": "asking",
    "train": "training",
    "start": "measuring the start",
    "evaluate": "measuring",
}
_COLUMNS = ("Round", "Asked", "Made", "Trained on", "Held out: before → after", "State", "")
_TIPS = (
    "",
    "Rows that the student was asked about",
    "Rows that came out of the recipe: the others fell, and the funnel says why",
    "Rows that this round’s student was trained on",
    "",
    "",
    "",
)


def figure_words(figure: str, value: float | None) -> str:
    """`1.7312`; a share as `62 %`; a dash where it was not measured."""
    if value is None:
        return "–"
    return f"{value * 100:.0f} %" if figure in _SHARES else f"{value:.4f}"


class _Line(QWidget):
    """The cells of one round; they stand in the grid of `RoundsLines`."""

    rows_wanted = Signal()
    part_wanted = Signal(str)

    def __init__(self, number_: int, parent: QWidget) -> None:
        super().__init__(parent)
        self.hide()
        name = f"round_{number_}"
        self.title = label(str(number_) if number_ else "Start", "heading", name=name)
        self.asked, self.made, self.learnt = (label("", name=f"{name}_{word}") for word in ("asked", "made", "learnt"))
        self.figure = label("", name=f"{name}_figure")
        self.pill = Pill("waiting")
        self.pill.setObjectName(f"{name}_state")
        self.words = ElidedLabel("", "small")
        self.words.setObjectName(f"{name}_words")
        state = self.state = QWidget(parent)
        row = QHBoxLayout(state)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self.pill)
        row.addWidget(self.words, 1)
        self.links = QWidget(parent)
        links = QHBoxLayout(self.links)
        links.setContentsMargins(0, 0, 0, 0)
        links.setSpacing(10)
        self.rows = button("Rows", kind="link", name=f"{name}_rows", tip="The rows that this round made")
        self.train = button("Training", kind="link", name=f"{name}_train", tip="The training run of this round")
        self.evaluate = button("Measure", kind="link", name=f"{name}_evaluate", tip="The measurement of this round")
        self.rows.clicked.connect(lambda _checked=False: self.rows_wanted.emit())
        self.train.clicked.connect(lambda _checked=False: self.part_wanted.emit("train"))
        self.evaluate.clicked.connect(lambda _checked=False: self.part_wanted.emit("evaluate"))
        for link in (self.rows, self.train, self.evaluate):
            links.addWidget(link)
            link.hide()
        links.addStretch(1)

    def cells(self) -> tuple[QWidget, ...]:
        """What stands in the columns, from the left."""
        return self.title, self.asked, self.made, self.learnt, self.figure, self.state, self.links

    def show_start(self, figure: str, value: float | None, *, measured: bool) -> None:
        """The student before any round."""
        for cell, text in ((self.asked, ""), (self.made, ""), (self.learnt, "")):
            cell.setText(text)
        self.figure.setText(figure_words(figure, value))
        self.pill.hide()
        self.words.setText("as it begins" if measured else "made in round 1")

    def show_round(self, standing: RoundStanding | None, figure: str, *, over: bool, best: bool) -> None:
        """A round; None for one that has not begun."""
        counts = (standing.asked, standing.made, standing.learnt) if standing is not None else (None, None, None)
        for cell, count in zip((self.asked, self.made, self.learnt), counts, strict=True):
            cell.setText("–" if count is None else number(count))
        self._show_figure(standing, figure)
        runs = standing.runs if standing is not None else {}
        self.rows.setVisible("elicit" in runs)
        self.train.setVisible("train" in runs)
        self.evaluate.setVisible("evaluate" in runs)
        if standing is None:
            self.pill.set_word("not begun" if over else "waiting")
            self.words.setText("")
        elif standing.finished:
            self.pill.set_word("best" if best else "done", "good" if best else "idle")
            self.words.setText("the best student so far" if best and not over else "")
        else:
            self._show_current(standing, over=over)

    def _show_current(self, standing: RoundStanding, *, over: bool) -> None:
        part, run = standing.current
        state = run.state
        if state == "finished":  # the next part is about to be entered, unless the rounds ended here
            ended = over and standing.made == 0
            self.pill.set_word("no rows" if ended else "stopped" if over else "running", "warn" if over else "busy")
            self.words.setText("nothing to train on" if ended else "")
            return
        self.pill.set_word(state)
        told = progress_words(run.progress, over=state not in ACTIVE)
        self.words.setText(f"{_DOING[part]}: {told}" if told else _DOING[part])

    def _show_figure(self, standing: RoundStanding | None, figure: str) -> None:
        before = standing.before if standing is not None else None
        after = standing.after if standing is not None else None
        measured = before is not None or after is not None
        self.figure.setText(f"{figure_words(figure, before)} → {figure_words(figure, after)}" if measured else "–")
        role = "body"
        if before is not None and after is not None and before != after:
            better = (after < before) == LOWER_IS_BETTER[figure]
            role = "good" if better else "warn"
            self.figure.setText(f"{self.figure.text()}  {'better' if better else 'worse'}")
        set_role(self.figure, role=role)


class RoundsLines(QWidget):
    """`rows_wanted(round)`, `part_wanted(round, part)`: a link was clicked."""

    rows_wanted = Signal(int)
    part_wanted = Signal(int, str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.lines: list[_Line] = []
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(18)
        self._grid.setVerticalSpacing(7)
        self._grid.setColumnStretch(5, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(self._grid)
        column.addStretch(1)
        self.heads: list[QLabel] = []
        for place, (words, tip) in enumerate(zip(_COLUMNS, _TIPS, strict=True)):
            head = label(words, "dim")
            head.setToolTip(tip)
            self._grid.addWidget(head, 0, place)
            self.heads.append(head)

    def show_standing(self, standing: Standing, *, leading: bool) -> None:
        """One line for the start, and one for each round that is done, under way or to come."""
        recipe = standing.plan.recipe
        figure = recipe.stop.figure
        self.heads[4].setText(f"{FIGURES[figure]}: before → after")
        better = "lower" if LOWER_IS_BETTER[figure] else "higher"
        self.heads[4].setToolTip(f"On the held-out prompts; {better} is better.")
        self._make(1 + recipe.rounds.count)
        self.lines[0].show_start(figure, standing.start, measured=standing.plan.start is not None)
        best, over = best_round(standing), not (leading or standing.active)
        by_number = {item.number: item for item in standing.rounds}
        for number_, line in enumerate(self.lines[1:], start=1):
            line.show_round(by_number.get(number_), figure, over=over, best=number_ == best)

    def _make(self, count: int) -> None:
        while len(self.lines) > count:
            line = self.lines.pop()
            for cell in (*line.cells(), line):
                cell.hide()
                cell.deleteLater()
        while len(self.lines) < count:
            number_ = len(self.lines)
            line = _Line(number_, self)
            for place, cell in enumerate(line.cells()):
                self._grid.addWidget(cell, number_ + 1, place, Qt.AlignmentFlag.AlignVCenter)
            line.rows_wanted.connect(lambda at=number_: self.rows_wanted.emit(at))
            line.part_wanted.connect(lambda part, at=number_: self.part_wanted.emit(at, part))
            self.lines.append(line)


def best_round(standing: Standing) -> int:
    """The number of the round with the best figure so far; 0 where the start is best or nothing is measured."""
    done = [item.after for item in standing.rounds if item.after is not None]
    if not done:
        return 0
    start = [] if standing.start is None else [standing.start]
    stop = standing.plan.recipe.stop
    return verdict_of(stop.figure, [*start, *done], stop.tolerance).best + (standing.start is None)
