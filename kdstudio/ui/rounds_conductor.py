"""Leads the open project's rounds in a thread, one chain at a time, and goes on with them when a project is opened."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal

from kdstudio.errors import BadInput, KnownError

if TYPE_CHECKING:
    from kdstudio.rounds.leading import Leader
    from kdstudio.rounds.plan import Plan
    from kdstudio.ui.session import Session

_CLOSE_SECONDS = 10.0


class RoundsConductor(QObject):
    """`moved(plan_id)`: rounds began, ended, were stopped or failed. The session tells of their parts, the jobs."""

    moved = Signal(str)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session = session
        self._leader: Leader | None = None
        self._thread: threading.Thread | None = None
        session.project_changed.connect(self._go_on)
        session.project_closing.connect(self._leave)

    @property
    def leading(self) -> str:
        """The id of the plan whose rounds are led now; "" if none are."""
        running = self._leader is not None and self._thread is not None and self._thread.is_alive()
        return self._leader.plan.id if running and self._leader is not None else ""

    def start(self, plan: Plan, reason: str = "", *, found: bool = False) -> None:
        """Begin a plan's rounds, or go on with them; returns at once.

        Raises `BadInput` while others are under way, `KnownError` without a project or a key. `found`: they were under
        way when the project was opened.
        """
        from kdstudio.rounds.leading import Leader
        from kdstudio.ui.session import found_secrets

        project, supervisor = self._session.project, self._session.supervisor
        if project is None or supervisor is None:
            raise KnownError("No project is open", "Rounds belong to a project.", "Open or create one on Home.")
        if self.leading:
            hint = "Wait until they end, or stop them first."
            raise BadInput("Other rounds are under way", "A project goes through one chain of rounds at a time.", hint)
        names = [str((spec or {}).get("key_name") or "") for spec in (plan.teacher, plan.judge)]
        secrets = found_secrets(dict.fromkeys(name for name in names if name))
        self._leader = Leader(project, supervisor, plan, secrets, reason, found)
        self._thread = threading.Thread(target=self._lead, args=(self._leader,), name="rounds", daemon=True)
        self._thread.start()
        self.moved.emit(plan.id)

    def stop(self, plan_id: str) -> None:
        """Stop the rounds of a plan, keeping what was done; they can go on later."""
        if self._leader is not None and self.leading == plan_id:
            threading.Thread(target=self._leader.stop, name="rounds-stop", daemon=True).start()

    def _lead(self, leader: Leader) -> None:
        """Body of the thread. What goes wrong is kept with the plan, in words; a fault of ours is reported, too."""
        try:
            leader.lead()
        except KnownError:
            pass
        except Exception as error:  # noqa: BLE001 - nobody above this thread would hear of it
            if not leader.is_left:
                sys.excepthook(type(error), error, error.__traceback__)
        if self._thread is threading.current_thread():
            self._thread = None
        if not leader.is_left:
            self.moved.emit(leader.plan.id)

    def _go_on(self) -> None:
        """A project was opened: lead on from where its rounds were left."""
        from kdstudio.rounds.standing import plans_under_way

        project = self._session.project
        if project is None:
            return
        for plan in plans_under_way(project)[:1]:
            try:
                self.start(plan, found=True)
            except KnownError as error:
                self._session.troubled.emit(error)

    def _leave(self) -> None:
        if self._leader is not None:
            self._leader.leave()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)
        self._leader = self._thread = None
