"""A student's rounds as they go on: a line each, the held-out figure, stop and go on, and why they ended."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QFrame, QHBoxLayout, QScrollArea, QStackedWidget, QVBoxLayout, QWidget

from kdstudio.errors import KnownError
from kdstudio.rounds.standing import Standing, read_standings
from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.recipe_offer import ROUNDS
from kdstudio.ui.session import Session
from kdstudio.ui.theme import Tone
from kdstudio.ui.widgets.banner import ErrorBanner
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.empty_state import EmptyState
from kdstudio.ui.widgets.fields import Choice, Paragraph
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.live_plot import LivePlot
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.rounds_lines import FIGURES, RoundsLines, best_round, figure_words
from kdstudio.ui.widgets.train_figures import Figures
from kdstudio.ui.widgets.wording import ago, duration, number

_READ_MILLISECONDS = 200
_CHAINS_WIDTH = 420
_EMPTY = (
    "A student can learn from itself, in rounds: it is asked, what is good of its answers trains it, prompts that are "
    "held out tell whether it got better, and it begins again."
)
_FIGURES = {
    "round": ("Round", "The round that is under way or was the last one, of the most there can be."),
    "start": ("At the start", "The held-out figure of the student before any round."),
    "best": ("Best so far", "The best held-out figure, and the round whose student has it."),
    "held_out": ("Held-out prompts", "They are neither asked nor trained on in any round."),
    "left": ("Time left, at most", "If all remaining rounds take as long as the finished ones."),
}
_TERMS = "These rows have terms of use"


class RoundsView(QWidget):
    """Shows one plan's rounds, live or over. `head`: which, their state and what can be done with them."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.plan_id = ""
        self.standing: Standing | None = None
        self._all: dict[str, Standing] = {}
        self._reading: Task | None = None
        self.chains = Choice(())
        self.chains.setObjectName("rounds_chains")
        self.chains.setAccessibleName("Rounds to show")
        self.chains.setSizeAdjustPolicy(Choice.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.chains.setMinimumContentsLength(8)
        self.chains.setMaximumWidth(_CHAINS_WIDTH)
        self.pill = Pill("")
        self.pill.setObjectName("rounds_state")
        self.stop = button("Stop", icon="stop", name="rounds_stop", clicked=self._stop)
        self.go_on = button("Continue", icon="play", kind="primary", name="rounds_continue", clicked=self._continue)
        self.evaluate = button("Evaluate", icon="scale", name="rounds_evaluate", clicked=lambda: self._go("evaluate"))
        self.export = button("Export", icon="package", name="rounds_export", clicked=lambda: self._go("export"))
        self.new = button("New rounds…", icon="plus", kind="ghost", name="rounds_new", clicked=self._new)
        self.banner = ErrorBanner("rounds_banner")
        self.reason = Paragraph(2)
        self.reason.setObjectName("rounds_reason")
        self.reason.setAccessibleName("Why you may train on these rows")
        self.reason.setPlaceholderText("Why you may train on these rows: kept with the run and on the model’s card")
        self.figures = Figures("rounds_figures", _FIGURES)
        self.plot = LivePlot("rounds_plot", "Held-out figure", axis="round")
        self.plot.add_line("figure", "on the held-out prompts", colour=1, points=True)
        self.lines = RoundsLines()
        self.empty = EmptyState("refresh", _EMPTY, "Choose how…", self._new, name="rounds_empty")
        self.stack = QStackedWidget()
        self.head = QWidget()
        self._build()
        self._timer = QTimer(self, singleShot=True, interval=_READ_MILLISECONDS)
        self._timer.timeout.connect(self.refresh)
        self.chains.activated.connect(lambda _index: self.show_rounds(self.chains.value()))
        self.lines.rows_wanted.connect(self._show_rows)
        self.lines.part_wanted.connect(self._show_part)
        session.run_changed.connect(self._wake)
        session.rounds.moved.connect(self._wake)
        session.project_changed.connect(self._project_changed)

    def _build(self) -> None:
        head = QHBoxLayout(self.head)
        head.setContentsMargins(0, 0, 0, 0)
        head.setSpacing(8)
        head.addWidget(self.chains, 4)
        head.addWidget(self.pill)
        head.addStretch(1)
        for control in (self.new, self.stop, self.evaluate, self.export, self.go_on):
            head.addWidget(control)
        plot = Card(margin=12)
        plot.body.addWidget(self.plot, 1)
        table = Card("Rounds", margin=12)
        table.add(
            label("Rows shows what a round made and why the rest fell; Training and Measure show its runs.", "small")
        )
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        self.lines.setProperty("role", "scrolled")
        area.setWidget(self.lines)
        table.body.addWidget(area, 1)
        shown = QWidget()
        column = QVBoxLayout(shown)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(10)
        for part, stretch in ((self.banner, 0), (self.reason, 0), (self.figures, 0), (table, 3), (plot, 2)):
            column.addWidget(part, stretch)
        self.reason.hide()
        self.stack.addWidget(shown)
        self.stack.addWidget(self.empty)
        self.stack.setCurrentWidget(self.empty)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.stack)

    # ------------------------------------------------------------------------------------------------- reading
    def show_rounds(self, plan_id: str) -> None:
        """Show the rounds of a plan."""
        self.plan_id = plan_id
        self.banner.dismiss()
        self.reason.set_value("")
        if plan_id in self._all:
            self._show(self._all[plan_id])
        self.refresh()

    def refresh(self) -> None:
        """Read all rounds of the project again, in the background."""
        project = self.session.project
        if project is None:
            self._read([])
            return
        if self._reading is not None:
            self._timer.start()
            return
        self._reading = background(read_standings, project, owner=self)
        self._reading.done.connect(self._read)
        self._reading.failed.connect(self.banner.show_error)
        self._reading.finished.connect(self._read_once)

    def _read_once(self) -> None:
        self._reading = None

    def _wake(self, _run_or_plan: str) -> None:
        if self.isVisible() and not self._timer.isActive():
            self._timer.start()

    def _project_changed(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        self.plan_id, self._all = "", {}
        self.refresh()

    def _read(self, found: list[Standing]) -> None:
        self._all = {standing.plan.id: standing for standing in found}
        if self.plan_id not in self._all:
            self.plan_id = self.session.rounds.leading or next(iter(self._all), "")
        self.stack.setCurrentIndex(0 if self._all else 1)
        for part in (self.chains, self.pill, self.stop, self.new, self.evaluate, self.export, self.go_on):
            part.setVisible(bool(self._all))
        self.chains.blockSignals(True)
        self.chains.clear()
        for plan_id, standing in self._all.items():
            words = f"{standing.plan.recipe.recipe.title} · {self._state(standing)}"
            self.chains.addItem(f"{words} · {ago(standing.begun)}" if standing.begun else words, plan_id)
        self.chains.set_value(self.plan_id)
        self.chains.blockSignals(False)
        if self.plan_id in self._all:
            self._show(self._all[self.plan_id])

    # ------------------------------------------------------------------------------------------------- showing
    def _state(self, standing: Standing) -> str:
        return "running" if self._leading(standing) and standing.result is None else standing.state

    def _leading(self, standing: Standing) -> bool:
        return self.session.rounds.leading == standing.plan.id

    def _show(self, standing: Standing) -> None:
        self.standing = standing
        state, over = self._state(standing), standing.result is not None
        self.pill.set_word(state)
        self.stop.setVisible(state == "running")
        self.go_on.setVisible(state not in ("running", "finished"))
        best = str((standing.result or {}).get("run") or "")
        for one in (self.evaluate, self.export):
            one.setVisible(bool(best))
        self.lines.show_standing(standing, leading=self._leading(standing))
        self._show_figures(standing)
        self._show_plot(standing)
        self._say(standing, state)
        self.reason.setVisible(not over and state == "failed" and standing.wish.error.get("title") == _TERMS)

    def _show_figures(self, standing: Standing) -> None:
        recipe, values = standing.plan.recipe, self._values(standing)
        figure = recipe.stop.figure
        place = len(standing.rounds)
        self.figures.show_figure("round", f"{place} of {recipe.rounds.count}" if place else "")
        self.figures.show_figure("start", figure_words(figure, standing.start))
        self.figures.show_figure("held_out", number(len(standing.plan.held_out)))
        left = standing.seconds_left()
        self.figures.show_figure("left", duration(left) if left is not None and self._leading(standing) else "")
        best = best_round(standing)
        told = figure_words(figure, values.get(best)) if values else "–"
        self.figures.show_figure("best", f"{told} {f'in round {best}' if best else 'at the start'}" if values else "")

    def _values(self, standing: Standing) -> dict[int, float]:
        """Held-out figures by round, 0 for the start."""
        found = {} if standing.start is None else {0: standing.start}
        return found | {item.number: item.after for item in standing.rounds if item.after is not None}

    def _show_plot(self, standing: Standing) -> None:
        values, recipe = self._values(standing), standing.plan.recipe
        self.plot.set_caption(FIGURES[recipe.stop.figure])
        self.plot.set_places({0: "start", **{float(at): str(at) for at in range(1, recipe.rounds.count + 1)}})
        self.plot.set_line("figure", [float(at) for at in values], list(values.values()))

    def _say(self, standing: Standing, state: str) -> None:
        """Why they ended, failed or wait, in words."""
        result = standing.result
        if result is not None:
            best = result.get("best_round")
            detail = (
                f"The best student is that of round {best}: it can be evaluated and exported." if best else _NOTHING
            )
            whole = len(standing.rounds) == standing.plan.recipe.rounds.count and standing.rounds[-1].finished
            tone: Tone = "warn" if not best else "good" if whole else "idle"
            self.banner.show_message(str(result["ended"]), detail, tone=tone)
        elif state == "failed" and standing.wish.error:
            self.banner.show_error(dict(standing.wish.error))
        elif state in ("stopped", "interrupted", "failed"):
            where = f"In round {standing.rounds[-1].number}." if standing.rounds else "Before the first round."
            hint = "What was done is kept. Continue goes on there, and asks nothing twice."
            self.banner.show_message(f"The rounds were {'stopped' if state == 'stopped' else state}", where, hint)
        else:
            self.banner.hide()

    # ------------------------------------------------------------------------------------------------- acting
    def _stop(self) -> None:
        self.stop.setEnabled(False)
        self.session.rounds.stop(self.plan_id)
        QTimer.singleShot(1000, self, lambda: self.stop.setEnabled(True))

    def _continue(self) -> None:
        if self.standing is None:
            return
        try:
            reason = self.reason.value().strip() or self.standing.wish.reason
            self.session.rounds.start(self.standing.plan, reason)
        except KnownError as error:
            self.banner.show_error(error)
            return
        self.refresh()

    def _new(self) -> None:
        self.session.go("data", generating=True, family=ROUNDS)

    def _go(self, page: str) -> None:
        self.session.go(page, run=str((self.standing.result or {}).get("run") if self.standing is not None else ""))

    def _run_id(self, number_: int, part: Any) -> str:
        rounds = self.standing.rounds if self.standing is not None else ()
        found = next((item.runs.get(part) for item in rounds if item.number == number_), None)
        return found.id if found is not None else ""

    def _show_rows(self, number_: int) -> None:
        if self.standing is not None:
            steps = self.standing.plan.elicitation.step
            kind = "preference" if any(getattr(step, "kind", "") == "preference" for step in steps) else "response"
            run_id = self._run_id(number_, "elicit")
            self.session.go("data", kind=kind, search=f"run:{run_id}", funnel=run_id)

    def _show_part(self, number_: int, part: str) -> None:
        page = "train" if part == "train" else "evaluate"
        self.session.go(page, run=self._run_id(number_, "train"))


_NOTHING = "No round made a better student than the one it began with."
