"""Leads rounds from within a program that goes on with other things, such as the window.

Each part is a job in a session of its own: it outlives the program. Whoever opens the project next leads on from there.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdstudio.errors import KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.supervisor import BROKEN, Supervisor
from kdstudio.project import Project
from kdstudio.rounds.chain import Chain, Part, RoundsStoppedError
from kdstudio.rounds.plan import Plan
from kdstudio.rounds.wish import Wish, write_wish

_LOOK_SECONDS = 0.1


class _LeftError(Exception):
    """The project is being closed."""


@dataclass
class Leader:
    """One chain. `lead` takes as long as the rounds do; somebody else polls the supervisor meanwhile.

    `found`: they were under way when the project was opened. A part that broke since then waits for a person.
    """

    project: Project
    supervisor: Supervisor
    plan: Plan
    secrets: Mapping[str, str]
    reason: str = ""
    found: bool = False
    _left: threading.Event = field(default_factory=threading.Event)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _run: str = ""

    def lead(self) -> dict[str, Any] | None:
        """Go through the rounds; returns what came of them, None if they were left or stopped.

        Raises `KnownError` when a part failed; what is said then is kept with the plan.
        """
        write_wish(self.plan.folder, Wish(go=True, reason=self.reason))
        try:
            result = Chain(self.project, self.plan, self._finish, tuple(self.secrets), self.reason).run()
        except _LeftError:
            return None
        except RoundsStoppedError:
            write_wish(self.plan.folder, Wish(reason=self.reason))
            return None
        except KnownError as error:
            write_wish(self.plan.folder, Wish(reason=self.reason, error=error.as_dict()))
            raise
        write_wish(self.plan.folder, Wish(reason=self.reason))
        return result

    @property
    def is_left(self) -> bool:
        """Whether the project is being closed."""
        return self._left.is_set()

    def leave(self) -> None:
        """Lead no further, and leave the part that is under way to itself: the project is being closed."""
        self._left.set()

    def stop(self) -> None:
        """Stop the part that is under way, keeping what it did, and begin no other."""
        self._stopping.set()
        if self._run:
            self.supervisor.stop(self._run)

    def _finish(self, run_id: str, number: int, part: Part) -> None:
        """Bring a run to its end; raises its error if it failed."""
        found, self.found = self.found, False
        if found or self._left.is_set():
            self._wait(run_id)
        state = self.project.runs.get(run_id).state
        if state == "finished":
            return
        launched = run_files.read_status(self.project.runs_folder / run_id).pid > 0
        if self._stopping.is_set() or (found and launched and state in BROKEN):
            if not launched:
                self.project.runs.set_state(run_id, "stopped")
            raise RoundsStoppedError("The rounds were stopped", f"In round {number}: {part}.")
        self._run = run_id
        try:
            self._resume(run_id)
            self._wait(run_id)
        finally:
            self._run = ""
        run = self.project.runs.get(run_id)
        if run.state in ("failed", "interrupted"):
            raise KnownError(*(str(run.error.get(key, "")) for key in ("title", "detail", "hint")))

    def _resume(self, run_id: str) -> None:
        try:
            self.supervisor.resume(run_id, secrets=dict(self.secrets))
        except KnownError:
            if self.project.runs.get(run_id).state != "finished":  # else it ended well while nobody looked
                raise
        if self._stopping.is_set():
            self.supervisor.stop(run_id)

    def _wait(self, run_id: str) -> None:
        while run_id in self.supervisor.active():
            if self._left.wait(_LOOK_SECONDS):
                raise _LeftError
        if self._left.is_set():
            raise _LeftError
