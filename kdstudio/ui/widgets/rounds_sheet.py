"""A recipe with rounds, set up: the form, what it will take, and the start."""

from __future__ import annotations

from PySide6.QtCore import QTimer, Signal
from PySide6.QtGui import QKeyEvent, Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

from kdstudio.errors import BadInput, KnownError
from kdstudio.recipe import RoundsRecipe
from kdstudio.rounds.plan import Plan
from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.recipe_offer import Offer, needs_of_rounds
from kdstudio.ui.rounds_forecast import RoundsForecast, foretell_rounds
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.data_dialog import Sheet
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.rounds_forecast_card import RoundsForecastCard
from kdstudio.ui.widgets.rounds_form import RoundsForm
from kdstudio.ui.widgets.train_terms import TermsCard

_COUNT_MILLISECONDS = 250
_SIZE, _SHARE, _SIDE_WIDTH = (1080, 760), 0.93, 310
_WORDS = (
    "In each round the student is asked, what is good of its answers trains it, and it is measured on prompts that are "
    "held out from all rounds. They end by themselves when it gets worse; the best student is kept."
)


class RoundsSheet(Sheet):
    """`started(plan_id)`: the rounds began. `left()`: back to the gallery."""

    started = Signal(str)
    left = Signal()

    def __init__(self, session: Session, recipe: RoundsRecipe, offer: Offer, parent: QWidget | None = None) -> None:
        super().__init__(session, "rounds_sheet", recipe.recipe.title, _WORDS, parent)
        self._foretelling: Task | None = None
        self._planning: Task | None = None
        self.form = RoundsForm(recipe, offer)
        self.forecast = RoundsForecastCard()
        self.terms = TermsCard()
        self._build(recipe, offer)
        self._timer = QTimer(self, singleShot=True, interval=_COUNT_MILLISECONDS)
        self._timer.timeout.connect(self._foretell)
        self.form.changed.connect(self._edited)
        room = parent.window().size() if parent is not None else self.size()
        self.resize(*(min(most, round(_SHARE * side)) for most, side in zip(_SIZE, room.toTuple(), strict=True)))
        self._edited()

    def _build(self, recipe: RoundsRecipe, offer: Offer) -> None:
        about = Card("What it does", name="rounds_about")
        head = recipe.recipe
        about.add(label(head.purpose, "small", wrap=True, name="rounds_purpose"))
        if missing := [need.words.capitalize() for need in needs_of_rounds(recipe, offer) if not need.met]:
            about.add(label("\n".join(missing), "warn", wrap=True, name="rounds_needs"))
        about.add(label("\n".join((", ".join(head.methods), *head.references)), "small", wrap=True, selectable=True))
        inner = QWidget()
        inner.setProperty("role", "scrolled")
        side = QVBoxLayout(inner)
        side.setContentsMargins(0, 0, 8, 0)
        side.setSpacing(10)
        for part in (self.forecast, self.terms, about):
            side.addWidget(part)
        side.addStretch(1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFixedWidth(_SIDE_WIDTH)
        area.setWidget(inner)
        row = QHBoxLayout()
        row.setSpacing(14)
        row.addWidget(self.form, 1)
        row.addWidget(area)
        self.body.addLayout(row, 1)
        self.back = button("Back", icon="arrow-left", kind="ghost", name="rounds_back", clicked=self.go_back)
        self.back.setAutoDefault(False)
        self.foot.insertWidget(0, self.back)
        self.add_cancel()
        start = button("Start the rounds", icon="play", kind="primary", name="rounds_start", clicked=self._start)
        self.start = self.add_button(start)

    def go_back(self) -> None:
        """To the gallery."""
        self.reject()
        self.left.emit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Escape goes back to the gallery."""
        if event.key() == Qt.Key.Key_Escape:
            self.go_back()
        else:
            super().keyPressEvent(event)

    # ------------------------------------------------------------------------------------------------- forecast
    def _edited(self) -> None:
        self.start.setEnabled(False)
        self._timer.start()

    def _foretell(self) -> None:
        project = self.session.project
        if project is None:
            return
        try:
            work = self.form.work()
        except KnownError as error:
            self.forecast.show_fault(error)
            return
        if self._foretelling is not None:
            self._foretelling.cancel()
        self._foretelling = background(foretell_rounds, project, work, owner=self)
        self._foretelling.done.connect(self._foretold)
        self._foretelling.failed.connect(self.forecast.show_fault)

    def _foretold(self, found: RoundsForecast) -> None:
        self.forecast.show_forecast(found)
        self.terms.show_summary(found.terms)
        self.start.setText("Go on with these rounds" if found.continues else "Start the rounds")
        self.start.setEnabled(not found.asked.nothing)

    # ------------------------------------------------------------------------------------------------- starting
    def _start(self) -> None:
        project = self.session.project
        if project is None:
            return
        self.banner.dismiss()
        if not self.terms.isHidden() and not self.terms.text().strip():
            hint = "Read the terms, and say why you may."
            self.show_error(BadInput("These rows have terms of use", "A reason is asked for before they train.", hint))
            self.terms.ask()
            return
        try:
            work = self.form.work()
        except KnownError as error:
            self.show_error(error)
            return
        self.start.setEnabled(False)
        self._planning = background(work.planned, project, owner=self)
        self._planning.done.connect(self._planned)
        self._planning.failed.connect(self._failed)

    def _planned(self, plan: Plan) -> None:
        try:
            self.session.rounds.start(plan, self.terms.text())
        except KnownError as error:
            self._failed(error)
            return
        self.accept()
        self.started.emit(plan.id)
        self.session.go("train", rounds=plan.id)

    def _failed(self, error: KnownError) -> None:
        self.start.setEnabled(True)
        self.show_error(error)
