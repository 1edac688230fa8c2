"""What a run will take, foretold from its trial: rows, questions, tokens, time, and money with its interval."""

from __future__ import annotations

from PySide6.QtWidgets import QGridLayout, QWidget

from kdstudio.ui.trial_record import Interval, RunForecast
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.wording import THIN_SPACE, duration, number, short_number

_WIDTH = 262


def dollars(value: float) -> str:
    """`$12.30`, `$0.0042`."""
    return f"${value:,.2f}".replace(",", THIN_SPACE) if value >= 1 or not value else f"${value:.2g}"


def money(interval: Interval | None) -> str:
    """The mean and its interval, or what is said in place of it."""
    if interval is None:
        return "price not known"
    if not interval.high:
        return "nothing: it runs here"
    return f"{dollars(interval.mean)}  ({dollars(interval.low)} to {dollars(interval.high)})"


class ForecastCard(Card):
    """Shows a `RunForecast`; figures are labels named `forecast_rows`, `forecast_tokens` and so on."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Forecast", name="generate_forecast", parent=parent)
        self.setFixedWidth(_WIDTH)
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(10)
        self._grid.setVerticalSpacing(5)
        self._grid.setColumnStretch(1, 1)
        self.body.addLayout(self._grid)
        self.figures = {name: label("–", name=f"forecast_{name}", wrap=True, selectable=True) for name in _NAMES}
        for row, (name, words) in enumerate(_NAMES.items()):
            self._grid.addWidget(label(words, "dim"), row, 0)
            self._grid.addWidget(self.figures[name], row, 1)
        self.note = label("", "small", wrap=True, name="forecast_note")
        self.add(self.note)
        self.waiting()

    def waiting(self) -> None:
        """Before the trial has ended."""
        for figure in self.figures.values():
            figure.setText("–")
        self.note.setText("Three rows are asked first. Nothing is written into the project.")

    def show_forecast(self, forecast: RunForecast, *, more: bool = False) -> None:
        """Show the figures; `more` says that there are more rows than were counted."""
        tokens = forecast.tokens
        spread = f"  ({short_number(tokens.low)} to {short_number(tokens.high)})" if tokens.high > tokens.mean else ""
        words = {
            "rows": f"{'more than ' if more else ''}{number(forecast.rows)}",
            "questions": f"about {number(forecast.questions)}",
            "tokens": f"{short_number(tokens.mean)}{spread}",
            "time": f"about {duration(forecast.seconds)}",
            "money": money(forecast.dollars),
        }
        for name, text in words.items():
            self.figures[name].setText(text)
        if forecast.tried < 2:
            said = f"From {forecast.tried} row: too few for an interval."
        else:
            paid = forecast.dollars is not None and forecast.dollars.high > 0
            interval = "; in brackets the 95 % interval" if spread or paid else ""
            said = f"From {forecast.tried} rows{interval}. Their answers are not asked for again."
        if forecast.dollars is None:
            said += " Set the teacher’s price on the Teachers page to see the cost."
        self.note.setText(said)


_NAMES = {"rows": "Rows", "questions": "Questions", "tokens": "Tokens", "time": "Time", "money": "Money"}
