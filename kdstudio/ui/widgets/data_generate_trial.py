"""The trial's page: a job that asks three rows and writes nothing, followed while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFormLayout, QVBoxLayout, QWidget

from kdstudio.catalogue.columns import StepFlow
from kdstudio.errors import BadInput, KnownError
from kdstudio.registry import Parameter
from kdstudio.ui.session import ACTIVE_STATES, Session
from kdstudio.ui.trial_record import TrialRecord, foretell
from kdstudio.ui.widgets.fields import Number
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.recipe_trial import TrialView


class TrialPage(QWidget):
    """`ended()`: the trial is over and can be judged; `failed(KnownError)`: it broke."""

    ended = Signal()
    failed = Signal(object)

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.run_id = ""
        self._source = "prompts"
        self._hosted = False
        self._over = True
        self._early: dict[str, list[Any]] = {}
        self.view = TrialView()
        self.ceiling = Number(Parameter("ceiling", "float", 0.0, "Stop before more than this is spent.", 0.0, 1e6))
        self.ceiling.setObjectName("generate_ceiling")
        self.ceiling.setAccessibleName("Ceiling in US dollars")
        self.ceiling.setSpecialValueText("No ceiling")
        self.ceiling.setToolTip("The run stops before more US dollars than this are spent; 0 for no ceiling.")
        self._limits = QWidget()
        form = QFormLayout(self._limits)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow(label("Spend at most, $", "dim"), self.ceiling)
        self.view.forecast.add(self._limits)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.view)
        session.events.connect(self._heard)
        session.run_changed.connect(self._moved)

    @property
    def record(self) -> TrialRecord:
        """What the trial's journal said so far."""
        return self.view.record

    def limits(self) -> dict[str, Any]:
        """`ceiling` of the job, where one is set."""
        return {"ceiling": self.ceiling.value()} if self._hosted and self.ceiling.value() else {}

    # -------------------------------------------------------------------------------------------------- running
    def begin(
        self,
        title: str,
        parameters: dict[str, Any],
        key_names: tuple[str, ...],
        flows: Sequence[StepFlow],
        *,
        hosted: bool,
    ) -> None:
        """Start the trial and follow it."""
        self.stop()
        self.run_id, self._over, self._hosted, self._early = "", False, hosted, {}
        self._source = str(parameters["recipe"]["input"]["source"])
        self._limits.setVisible(hosted)
        self.view.begin(flows)
        task = self.session.start("elicit", parameters, title=title, key_names=key_names, anew=True)
        task.done.connect(self._begun)
        task.failed.connect(self._broke)

    def stop(self) -> None:
        """Stop a trial that still runs."""
        if self.run_id and not self._over:
            self.session.stop(self.run_id)
        self._over = True

    def _begun(self, run_id: object) -> None:
        self.run_id = str(run_id)
        if self._over:  # the person went back before it began
            self.session.stop(self.run_id)
            return
        self._heard(self.run_id, self._early.pop(self.run_id, []))
        self._early = {}
        self._moved(self.run_id)

    def _heard(self, run_id: str, lines: list[Any]) -> None:
        if self._over:
            return
        if not self.run_id:  # its number is not known yet
            self._early.setdefault(run_id, []).extend(lines)
            return
        if run_id == self.run_id:
            for line in lines:
                self.record.add(line.event)
            self.view.follow({root: self._text_of(root) for root in self.record.roots()})

    def _moved(self, run_id: str) -> None:
        project = self.session.project
        if self._over or project is None or not self.run_id or run_id != self.run_id:
            return
        run = project.runs.get(run_id)
        if run.state in ACTIVE_STATES:
            return
        self._over = True
        if run.state == "finished":
            self.view.finished()
            self.ended.emit()
            return
        self.record.failure = run.error or {"title": "The trial was stopped", "detail": "", "hint": ""}
        self._broke(KnownError(*(str(self.record.failure.get(key, "")) for key in ("title", "detail", "hint"))))

    def _broke(self, error: KnownError) -> None:
        self._over = True
        self.record.failure = error.as_dict()
        self.view.finished()
        self.failed.emit(error)

    def show_forecast(self, rows: int, *, more: bool) -> None:
        """What all rows will take."""
        self.view.forecast.show_forecast(foretell(self.record, rows, hosted=self._hosted), more=more)

    def _text_of(self, root: str) -> str:
        """The row's own text; one look-up by its primary key."""
        project, number = self.session.project, root[1:] if root[:1].isalpha() else root
        if project is None or not number.isdigit():
            return ""
        try:
            match self._source:
                case "prompts":
                    return project.rows.prompt(int(number)).text
                case "responses":
                    return project.rows.response(int(number)).text
        except BadInput:
            return ""
        return f"{'document' if self._source == 'documents' else 'number'} {number}"
