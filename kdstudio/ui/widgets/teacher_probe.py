"""Testing a teacher: a small job that asks it one thing, with the outcome brought back to who wanted to know."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from PySide6.QtCore import QObject, Signal

from kdstudio.errors import KnownError
from kdstudio.models.spec import TeacherSpec
from kdstudio.ui.session import ACTIVE_STATES, Session


class Probe(QObject):
    """One test at a time. `answered(result)` or `failed(KnownError)` ends it."""

    answered = Signal(dict)
    failed = Signal(object)

    def __init__(self, session: Session, parent: QObject) -> None:
        super().__init__(parent)
        self._session = session
        self._run_id = ""
        session.run_changed.connect(self._changed)

    def start(self, spec: TeacherSpec) -> None:
        """Ask the teacher to say hello."""
        self._run_id = ""
        names = (spec.key_name,) if spec.key_name else ()
        title = f"Test {spec.name or spec.model or 'the endpoint'}"
        task = self._session.start("probe", {"teacher": asdict(spec)}, title=title, key_names=names)
        task.done.connect(self._begun)
        task.failed.connect(self.failed)

    def _begun(self, run_id: str) -> None:
        self._run_id = run_id
        self._changed(run_id)

    def _changed(self, run_id: str) -> None:
        project = self._session.project
        if project is None or not self._run_id or run_id != self._run_id:
            return
        run = project.runs.get(run_id)
        if run.state in ACTIVE_STATES:
            return
        self._run_id = ""
        if run.state == "finished":
            self.answered.emit(run.result)
            return
        error: dict[str, Any] = run.error or {"title": "The test was stopped", "detail": "", "hint": "Test again."}
        self.failed.emit(KnownError(*(str(error.get(part, "")) for part in ("title", "detail", "hint"))))
