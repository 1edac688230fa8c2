"""Starting, tailing and stopping jobs, without Qt: what the window and the command line share.

The supervisor holds no truth of its own. It reads journals, hands new lines to the project, and derives a run's
state from the journal, the process and the heartbeat; a second supervisor started later arrives at the same.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

from kdstudio.errors import KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs import launchers
from kdstudio.jobs.events import Failed, Finished, Line, Started, State, now
from kdstudio.jobs.journal import JournalReader
from kdstudio.project import Project, Run

ACTIVE = ("starting", "running", "paused", "stopping", "not responding")
CONTINUABLE = ("elicit", "signals", "train")
BROKEN = ("interrupted", "stopped", "failed")
_TERMINATE_AFTER, _KILL_AFTER, _ACKNOWLEDGED_KILL_AFTER = 10.0, 20.0, 180.0
_START_SECONDS, _GRACE_SECONDS = 30.0, 10.0


@dataclass
class _Watched:
    """What the supervisor remembers of a run between two polls."""

    reader: JournalReader
    launched: float
    process: subprocess.Popen[bytes] | None = None
    ended: bool = False
    acknowledged: bool = False
    stop_asked: float | None = None
    terminated: bool = False
    secrets: dict[str, str] = field(default_factory=dict)


class Supervisor:
    """Runs the jobs of one open project. Every method is safe from any thread."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._watched: dict[str, _Watched] = {}
        self._lock = threading.RLock()
        self.attach()

    def start(
        self,
        kind: str,
        parameters: dict[str, Any],
        *,
        title: str = "",
        secrets: dict[str, str] | None = None,
        attached: bool = False,
        anew: bool = False,
    ) -> str:
        """Start a job and return its run's id.

        The same work that is already running is attached to, and a broken one is continued, unless `anew`: never two
        writers, never a row twice. `attached` jobs end with this process.
        """
        with self._lock:
            same = None if anew else self._same_work(kind, parameters)
            same = same and self._settled(same.id)
            if same is not None and same.state in ACTIVE:
                self._watch(same.id)
                return same.id
            if same is not None and same.state in BROKEN and kind in CONTINUABLE:
                return self._launch(same.id, secrets or {}, attached=attached)
            run_id = self._project.runs.add(kind, title or kind, parameters)
            job = run_files.JobFile(kind, parameters, now(), title or kind, tuple(secrets or ()))
            run_files.write_job(self._project.runs_folder / run_id, job)
            return self._launch(run_id, secrets or {}, attached=attached)

    def resume(self, run_id: str, *, secrets: dict[str, str] | None = None, attached: bool = False) -> str:
        """Let a paused run go on, or continue a broken one in a new process."""
        with self._lock:
            run = self._settled(run_id)
            folder = self._project.runs_folder / run.id
            if run_files.process_of(folder) is not None:
                run_files.request(folder, "run")
                self._watch(run.id)
                return run.id
            if run.state == "finished":
                raise KnownError("This run is finished", f"{run.title} ended well.", "Start a new run instead.")
            return self._launch(run.id, secrets or {}, attached=attached)

    def pause(self, run_id: str) -> None:
        """Ask a run to pause; it keeps its memory and goes on at `resume`."""
        run_files.request(self._project.runs_folder / run_id, "pause")

    def stop(self, run_id: str) -> None:
        """Ask a run to stop; what was done is kept. Without an answer: terminated after 10 s, killed after 20 s."""
        with self._lock:
            run_files.request(self._project.runs_folder / run_id, "stop")
            watched = self._watch(run_id)
            watched.stop_asked = watched.stop_asked or time.monotonic()

    def poll(self) -> list[tuple[str, Line]]:
        """Ingest what the journals of all watched runs gained; returns the new lines, and settles states."""
        with self._lock:
            news: list[tuple[str, Line]] = []
            for run_id, watched in list(self._watched.items()):
                alive = self._alive(run_id, watched)  # asked before reading: a last line is never missed
                news.extend((run_id, line) for line in self._ingest(run_id, watched))
                self._judge(run_id, watched, alive=alive)
            return news

    def _ingest(self, run_id: str, watched: _Watched) -> list[Line]:
        """Take in what the journal gained, and derive the run's state; returns what is new."""
        news: list[Line] = []
        while lines := watched.reader.read():
            fresh = self._project.runs.ingest(run_id, lines)
            self._settle(run_id, watched, fresh)
            news.extend(fresh)
        return news

    def _settled(self, run_id: str) -> Run:
        """A run as its journal leaves it: it may have ended while the project could not take it in (a full disk)."""
        run = self._project.runs.get(run_id)
        if run.state in ACTIVE and not self._alive(run_id, watched := self._watch(run_id)):
            self._ingest(run_id, watched)
            self._judge(run_id, watched, alive=False)
        return self._project.runs.get(run_id)

    def attach(self) -> list[str]:
        """Watch every run that this project believes to be active, whoever started it; returns their ids."""
        with self._lock:
            active = [run.id for run in self._project.runs.list() if run.state in ACTIVE]
            for run_id in active:
                self._watch(run_id)
            return active

    def runs(self) -> list[Run]:
        """All runs of the project, newest first."""
        return self._project.runs.list()

    def active(self) -> list[str]:
        """Ids of the runs that are not over."""
        with self._lock:
            return list(self._watched)

    def wait(self, run_id: str, *, seconds: float = 3600.0) -> Run:
        """Poll until a run is over, or `seconds` passed; returns it as it then stands."""
        deadline = time.monotonic() + seconds
        while run_id in self._watched and time.monotonic() < deadline:
            self.poll()
            time.sleep(0.05)
        return self._project.runs.get(run_id)

    def _same_work(self, kind: str, parameters: dict[str, Any]) -> Run | None:
        wanted = _work_hash(kind, parameters)
        for run in self._project.runs.list(kind):
            broken = run.state in BROKEN and kind in CONTINUABLE
            if (run.state in ACTIVE or broken) and self._work_of(run.id) == wanted:
                return run
        return None

    def _work_of(self, run_id: str) -> str:
        with suppress(KnownError):
            job = run_files.read_job(self._project.runs_folder / run_id)
            return _work_hash(job.kind, job.parameters)
        return ""

    def _launch(self, run_id: str, secrets: dict[str, str], *, attached: bool) -> str:
        folder = self._project.runs_folder / run_id
        run_files.request(folder, "run")
        self._watched.pop(run_id, None)
        watched = self._watch(run_id)
        watched.process = launchers.launch(folder, secrets, attached=attached)
        watched.launched = time.time()
        self._project.runs.set_state(run_id, "starting")
        return run_id

    def _watch(self, run_id: str) -> _Watched:
        if run_id not in self._watched:
            folder = self._project.runs_folder / run_id
            self._watched[run_id] = _Watched(JournalReader(folder), launched=time.time())
        return self._watched[run_id]

    def _alive(self, run_id: str, watched: _Watched) -> bool:
        if watched.process is not None:
            return watched.process.poll() is None
        return run_files.process_of(self._project.runs_folder / run_id) is not None

    def _settle(self, run_id: str, watched: _Watched, lines: list[Line]) -> None:
        """Derive the run's state from new journal lines."""
        for line in lines:
            match line.event:
                case Started():
                    watched.ended = watched.acknowledged = False
                    self._project.runs.set_state(run_id, "running")
                case State(state=state):
                    watched.acknowledged = watched.acknowledged or state == "stopping"
                    self._project.runs.set_state(run_id, state)
                case Finished() as finished:
                    watched.ended = True
                    state = "stopped" if finished.stopped else "finished"
                    self._project.runs.set_state(run_id, state, result=finished.result)
                case Failed() as failed:
                    watched.ended = True
                    error = {
                        "title": failed.title,
                        "detail": failed.detail,
                        "hint": failed.hint,
                        "log": failed.log_tail,
                        "bad_input": failed.bad_input,
                    }
                    self._project.runs.set_state(run_id, "failed", error=error)

    def _judge(self, run_id: str, watched: _Watched, *, alive: bool) -> None:
        """Derive from process and heartbeat what the journal cannot say."""
        if not alive:
            state = self._project.runs.get(run_id).state
            if state == "starting" and watched.process is None and time.time() - watched.launched < _GRACE_SECONDS:
                return  # another process started it a moment ago; its child may not have said its number yet
            # A run found at start may have ended while nobody watched: its journal was just read to the end.
            if state in ACTIVE and not watched.ended:
                self._interrupted(run_id, watched)
            del self._watched[run_id]
            return
        folder = self._project.runs_folder / run_id
        state = self._project.runs.get(run_id).state
        silent = run_files.heartbeat_age(folder) > run_files.NOT_RESPONDING_SECONDS
        if silent and state == "running" and time.time() - watched.launched > _START_SECONDS:
            self._project.runs.set_state(run_id, "not responding")
        elif not silent and state == "not responding":
            self._project.runs.set_state(run_id, "running")
        self._press(run_id, watched)

    def _press(self, run_id: str, watched: _Watched) -> None:
        """Escalate a stop that is not obeyed. An acknowledged one gets time to write its checkpoint."""
        if watched.stop_asked is None or watched.ended:
            return
        waited = time.monotonic() - watched.stop_asked
        process = run_files.process_of(self._project.runs_folder / run_id)
        if process is None:
            return
        with suppress(psutil.Error):
            if waited > (_ACKNOWLEDGED_KILL_AFTER if watched.acknowledged else _KILL_AFTER):
                process.kill()
            elif waited > _TERMINATE_AFTER and not watched.terminated:
                watched.terminated = True
                process.terminate()

    def _interrupted(self, run_id: str, watched: _Watched) -> None:
        code = watched.process.returncode if watched.process is not None else None
        killed = code is not None and code < 0
        detail = f"Its process ended without a word{f' (signal {-code})' if killed and code else ''}."
        hint = "Resume it: it continues at the last checkpoint." if killed else "Open its log, or resume it."
        error = {
            "title": "The job was interrupted",
            "detail": detail,
            "hint": hint,
            "log": run_files.log_tail(self._project.runs_folder / run_id),
        }
        self._project.runs.set_state(run_id, "interrupted", error=error)


def _work_hash(kind: str, parameters: dict[str, Any]) -> str:
    canonical = json.dumps([kind, run_files.plain(parameters)], sort_keys=True, default=str)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()
