"""Where threads meet Qt: background tasks for anything over 50 ms, and the thread that watches the journals.

`background` runs a plain function in a worker thread and brings its result back as a signal in the window's thread.
`JobBridge` polls the supervisor about ten times a second and turns new events into signals.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import shiboken6
from PySide6.QtCore import QCoreApplication, QObject, QThread, Signal

from kdstudio.errors import KnownError

if TYPE_CHECKING:
    from kdstudio.jobs.supervisor import Supervisor
    from kdstudio.project import Project

POLL_SECONDS = 0.1
_WORKERS = 4


class Task(QObject):
    """One background call. Exactly one of `done(result)` and `failed(KnownError)` is sent, then `finished`."""

    done = Signal(object)
    failed = Signal(object)
    finished = Signal()

    def __init__(self, owner: QObject | None) -> None:
        super().__init__()
        self._owner = owner
        self.cancelled = False
        self.forgiven = False

    def cancel(self) -> None:
        """Send no result. The function itself runs to its end; what it does must be safe to ignore."""
        self.cancelled = True

    def deliver(self, result: object, error: BaseException | None) -> None:
        """Send the outcome, unless it was cancelled or the widget that asked for it is gone."""
        if self.cancelled or (self._owner is not None and not shiboken6.isValid(self._owner)):
            return
        if error is None:
            self.done.emit(result)
        elif self.forgiven:
            pass  # its project was closed under it; nobody waits for the answer
        else:
            self.failed.emit(_in_words(error))
        self.finished.emit()


def _in_words(error: BaseException) -> KnownError:
    """What a person is told; a fault of ours also goes to the crash report."""
    if isinstance(error, KnownError):
        return error
    sys.excepthook(type(error), error, error.__traceback__)
    said = f"{type(error).__name__}: {error}"
    return KnownError("Something unexpected happened", said, "Nothing was lost. Please report it.")


class _Mailbox(QObject):
    """Lives in the window's thread; workers post to it, so that every signal of a task is sent from that thread."""

    posted = Signal(int, object, object)

    def __init__(self) -> None:
        super().__init__(QCoreApplication.instance())
        self.running: dict[int, Task] = {}
        self.futures: set[Future[None]] = set()
        self.numbers = itertools.count(1)
        self.pool = ThreadPoolExecutor(_WORKERS, "kdstudio-background")
        self.queue = ThreadPoolExecutor(1, "kdstudio-in-order")
        self.posted.connect(self._deliver)

    def run(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], owner: QObject | None, *, in_order: bool
    ) -> Task:
        task, number = Task(owner), next(self.numbers)
        self.running[number] = task
        future = (self.queue if in_order else self.pool).submit(self._call, number, function, arguments)
        self.futures.add(future)
        future.add_done_callback(self.futures.discard)
        return task

    def _call(self, number: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        result: object = None
        failure: BaseException | None = None
        try:
            result = function(*arguments)
        except BaseException as error:  # noqa: BLE001 - it is re-raised in the window's thread, where a person sees it
            failure = error
        if shiboken6.isValid(self):
            self.posted.emit(number, result, failure)

    def _deliver(self, number: int, result: object, error: BaseException | None) -> None:
        task = self.running.pop(number, None)
        if task is not None:
            task.deliver(result, error)


_mailbox: list[_Mailbox] = []


def background(
    function: Callable[..., Any], *arguments: Any, owner: QObject | None = None, in_order: bool = False
) -> Task:
    """Run `function(*arguments)` in a worker thread and return its task at once.

    Connect `done` and `failed` right after. With an `owner` (a page, a dialog) nothing is sent once it is deleted.
    The function must not touch widgets. Calls with `in_order` run one after the other as they were asked for: changes
    of rows and their undoing, so that Ctrl+Z never takes back another change than the last.
    """
    if not _mailbox or not shiboken6.isValid(_mailbox[0]):
        _mailbox[:] = [_Mailbox()]
    return _mailbox[0].run(function, arguments, owner, in_order=in_order)


def forgive_background() -> None:
    """What runs now may fail without a word: its project is being closed."""
    for task in _mailbox[0].running.values() if _mailbox else ():
        task.forgiven = True


def wait_for_background(seconds: float = 10.0) -> bool:
    """Wait until no background function runs any more, for closing and for tests; whether all ended in time."""
    futures = set(_mailbox[0].futures) if _mailbox else set()
    return not wait(futures, seconds).not_done


class JobBridge(QThread):
    """Polls the supervisor of one open project and says what changed.

    `events(run_id, lines)` carries new journal lines (at most ten times a second a run), `run_changed(run_id)` a new
    state or progress, `rows_changed` that rows came in, `troubled(KnownError)` that the project could not be written.
    """

    events = Signal(str, list)
    run_changed = Signal(str)
    rows_changed = Signal()
    troubled = Signal(object)

    def __init__(self, project: Project, supervisor: Supervisor, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("job_bridge")
        self._project = project
        self._supervisor = supervisor
        self._asked = threading.Event()
        self._states: dict[str, str] = {}

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._asked.set()
        self.wait()

    def run(self) -> None:
        """The thread: poll, send, sleep; back off while the disk or the database refuses."""
        pause, troubled = POLL_SECONDS, False
        while not self._asked.wait(pause):
            begun = time.monotonic()
            try:
                self._poll_once()
                troubled, pause = False, max(POLL_SECONDS, time.monotonic() - begun)
            except Exception as error:  # noqa: BLE001 - this thread must outlive our own faults too
                if not troubled:
                    self.troubled.emit(_in_words(error))
                troubled, pause = True, 2.0

    def _poll_once(self) -> None:
        from kdstudio.jobs.events import Row

        before = set(self._supervisor.active())
        gathered: dict[str, list[Any]] = {}
        for run_id, line in self._supervisor.poll():
            gathered.setdefault(run_id, []).append(line)
        changed = set(gathered)
        for run_id in before | set(self._supervisor.active()) | changed:
            state = self._project.runs.get(run_id).state
            if self._states.get(run_id) != state:
                self._states[run_id] = state
                changed.add(run_id)
        if any(isinstance(line.event, Row) for lines in gathered.values() for line in lines):
            self.rows_changed.emit()
        for run_id, lines in gathered.items():
            self.events.emit(run_id, lines)
        for run_id in sorted(changed):
            self.run_changed.emit(run_id)
