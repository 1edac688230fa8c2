"""What each round will take, before the first: rows, questions, tokens, what is trained, time, and money."""

from __future__ import annotations

from PySide6.QtWidgets import QGridLayout, QWidget

from kdstudio.errors import KnownError
from kdstudio.ui.rounds_forecast import RoundsForecast
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import label, set_role
from kdstudio.ui.widgets.wording import duration, number, plural, short_number

_FEW = 10
_NAMES = {
    "asked": "Asked",
    "answers": "Answers",
    "trained": "Trained on",
    "student": "Student",
    "time": "Time",
    "money": "Money",
    "measured": "Measured on",
}


class RoundsForecastCard(Card):
    """Shows a `RoundsForecast`, or why there is none; figures are labels named `rounds_forecast_asked` and so on."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("What a round takes", name="rounds_forecast", parent=parent)
        grid = QGridLayout()
        grid.setHorizontalSpacing(10)
        grid.setVerticalSpacing(5)
        grid.setColumnStretch(1, 1)
        self.body.addLayout(grid)
        self.figures = {name: label("–", name=f"rounds_forecast_{name}", wrap=True, selectable=True) for name in _NAMES}
        for row, (name, words) in enumerate(_NAMES.items()):
            grid.addWidget(label(words, "dim"), row, 0)
            grid.addWidget(self.figures[name], row, 1)
        self.note = label("Counting…", "small", wrap=True, name="rounds_forecast_note")
        self.add(self.note)

    def show_fault(self, error: KnownError) -> None:
        """Say what is in the way."""
        for figure in self.figures.values():
            figure.setText("–")
        self._say(" ".join(f"{part.rstrip('.')}." for part in (error.title, error.detail, error.hint) if part), "error")

    def show_forecast(self, found: RoundsForecast) -> None:
        """Show the figures of one round."""
        for name, text in _words(found).items():
            self.figures[name].setText(text)
        if found.asked.nothing:
            self._say(found.asked.nothing, "error")
            return
        count = found.plan.recipe.rounds.count
        said = (
            f"At most {plural(count, 'round')}. When the window is closed, the part under way goes on; the next one "
            "begins when the project is opened again."
        )
        few = len(found.plan.held_out)
        if few < _FEW:
            said = f"Only {plural(few, 'held-out prompt')}: chance alone may end the rounds. {said}"
        if found.continues:
            said = f"These very rounds were begun before, and go on where they stopped. {said}"
        self._say(said, "small")

    def _say(self, words: str, role: str) -> None:
        self.note.setText(words)
        set_role(self.note, role=role)


def _words(found: RoundsForecast) -> dict[str, str]:
    rounds = found.plan.recipe
    more = "more than " if found.asked.more else ""
    later = ", in later rounds more" if rounds.train.rows == "all" and rounds.rounds.count > 1 else ""
    share = "" if found.trained >= found.parameters else f" of {short_number(found.parameters)}"
    asking = f"about {duration(found.asking)}" if found.asking is not None else "timed in the first round"
    start = "the same each time" if rounds.rounds.start == "base" else "then the last round’s"
    hosted = f"{', '.join(found.hosted)} may cost money" if found.hosted else "nothing: it runs here"
    return {
        "asked": f"{more}{plural(found.asked.rows, found.asked.noun)}, {plural(found.questions, 'question')}",
        "answers": f"at most {number(found.tokens)} tokens",
        "trained": f"at most {plural(found.learnt, 'row')}{later}; {plural(found.steps, 'step')}",
        "student": f"{short_number(found.trained)}{share} weights, {start}",
        "time": f"asking {asking}; training about {duration(found.training)}",
        "money": hosted,
        "measured": f"{plural(len(found.plan.held_out), 'prompt')} held out from all rounds",
    }
