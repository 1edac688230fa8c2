"""The longest gaps of the window's event loop over a large project, action by action.

Runs in a process of its own, as the window does: `python -m tests.benchmarks.gaps PROJECT`. Prints one JSON object an
action: `work`, `gap`, `queued` and `idle` in milliseconds. `queued` is how long of the gap the window's thread was
ready but got no core, and `idle` the longest gap of a process that only sleeps, in the same stretch of time: what the
machine's other work costs anybody.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from PySide6.QtCore import QEventLoop, Qt, QTimer, SignalInstance
from PySide6.QtTest import QTest

from kdstudio.ui.app import make_application
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.data import DataPage
from kdstudio.ui.session import Session

_SLEEPER = """
import select, sys, time
last, worst = time.perf_counter(), 0.0
while True:
    asked = select.select([sys.stdin], [], [], 0.002)[0]
    now = time.perf_counter()
    last, worst = now, max(worst, now - last)
    if asked and not sys.stdin.readline():
        break
    if asked:
        print(worst, flush=True)
        worst = 0.0
"""
_SCHEDULED = Path("/proc/thread-self/schedstat")
_BEAT_MILLISECONDS = 2
_AFTERWARDS_MILLISECONDS = 150
_PATIENCE_MILLISECONDS = 120_000
Act = Callable[[], SignalInstance | None]


class Pulse:
    """Beats in the event loop and in a sleeping process beside it."""

    def __init__(self) -> None:
        self._beats: list[tuple[float, float]] = []
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(lambda: self._beats.append(_moment()))
        self._timer.start(_BEAT_MILLISECONDS)
        self._sleeper = subprocess.Popen(
            [sys.executable, "-c", _SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, work: str, act: Act) -> None:
        """Do something, wait for the signal that says it is done and for the paint after it, and print the gaps."""
        self._idle_gap()
        self._beats[:] = [_moment()]
        done = act()
        if done is not None:
            wait(_PATIENCE_MILLISECONDS, done)
        wait(_AFTERWARDS_MILLISECONDS)
        pairs = itertools.pairwise([*self._beats, _moment()])
        gap, queued = max((later[0] - sooner[0], later[1] - sooner[1]) for sooner, later in pairs)
        found = {"gap": gap, "queued": queued, "idle": self._idle_gap()}
        print(json.dumps({"work": work, **{name: 1e3 * seconds for name, seconds in found.items()}}), flush=True)

    def stop(self) -> None:
        """End the timer and the sleeping process."""
        self._timer.stop()
        self._sleeper.communicate()

    def _idle_gap(self) -> float:
        """The sleeper's longest gap in seconds since it was last asked."""
        sent, told = self._sleeper.stdin, self._sleeper.stdout
        assert sent is not None
        assert told is not None
        sent.write("\n")
        sent.flush()
        return float(told.readline())


def _moment() -> tuple[float, float]:
    """Now, and how long this thread has waited for a core so far, in seconds; 0 where the system does not say."""
    try:
        waited = int(_SCHEDULED.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        waited = 0.0
    return time.perf_counter(), waited


def wait(milliseconds: int, done: SignalInstance | None = None) -> None:
    """Run the event loop so long, or until a signal comes. Raises `TimeoutError` if that does not."""
    loop, timer = QEventLoop(), QTimer(singleShot=True)
    timer.timeout.connect(lambda: loop.exit(1))
    timer.start(milliseconds)
    if done is not None:
        done.connect(loop.quit)
    late = loop.exec()
    if done is not None:
        done.disconnect(loop.quit)
        if late:
            raise TimeoutError(f"not done after {milliseconds / 1e3:g} s")


class Reviewer:
    """What a person does on the Data page; each method returns the signal that says that it is done."""

    def __init__(self, session: Session, page: DataPage) -> None:
        self.session, self.page = session, page

    def search(self, text: str) -> SignalInstance:
        """Type a search and press Enter."""
        self.page.filter.show_filter(text, "")
        self.page.filter.search.returnPressed.emit()
        return self.page.feed.found

    def narrow(self, status: str) -> SignalInstance:
        """Show only one status."""
        self.page.filter.show_filter("", status)
        self.page.filter.changed.emit()
        return self.page.feed.found

    def sort(self, field: str) -> SignalInstance:
        """Press a heading."""
        fields = [column.field for column in self.page.table.rows.columns]
        self.page.table.horizontalHeader().sectionClicked.emit(fields.index(field))
        return self.page.feed.found

    def decide_all(self, status: str) -> SignalInstance:
        """Press "Accept all" or "Reject all"."""
        self.page.footer.all_decided.emit(status)
        return self.page.feed.found

    def choose_all(self) -> SignalInstance:
        """Ctrl+A, then A."""
        self.page.table.selectAll()
        QTest.keyClick(self.page.table, Qt.Key.Key_A)
        return self.page.feed.found

    def undo(self) -> SignalInstance:
        """Ctrl+Z."""
        self.session.undo()
        return self.page.feed.found

    def edit(self) -> SignalInstance:
        """Change a row's text."""
        self.page.actions_.edit("response", 1, "a text that was edited by hand")
        return self.page.feed.found

    def jump(self) -> None:
        """Go to any place, two hundred times."""
        chance = random.Random(0)
        for _ in range(200):
            self.page.table.go_to(chance.randrange(len(self.page.table.rows.ids)))
            wait(10)


def actions(person: Reviewer) -> Iterator[tuple[str, Act]]:
    """Each action with its name, in an order in which each finds what it needs."""
    yield "200 jumps", person.jump
    for field in ("prompt", "response", "tokens", "status", "id"):
        yield f"sort by {field}", partial(person.sort, field)
    for text in ("once", "whale", "whale clock", "777777", "nowhere", ""):
        yield f"search {text!r}", partial(person.search, text)
    yield "accept all", partial(person.decide_all, "accepted")
    yield "undo", person.undo
    yield "reject all", partial(person.decide_all, "rejected")
    yield "filter by status", partial(person.narrow, "rejected")
    yield "filter by none", partial(person.narrow, "")
    yield "choose all, accept", person.choose_all
    yield "edit", person.edit


def main(project: Path) -> None:
    """Open the project in a window without a screen, act on its answers, and print each longest gap."""
    application = make_application([])
    session = Session()
    window = MainWindow(session)
    window.resize(1280, 820)
    window.show()
    pulse = Pulse()
    wait(500)
    session.open_project(project)
    wait(_PATIENCE_MILLISECONDS, session.project_changed)
    wait(500)

    def open_table() -> SignalInstance:
        window.show_page("data")
        return shown().feed.found

    def shown() -> DataPage:
        page = window.page("data")
        assert isinstance(page, DataPage)
        return page

    pulse.measure("open the table", open_table)
    for work, act in actions(Reviewer(session, shown())):
        pulse.measure(work, act)
    pulse.stop()
    window.leave()
    session.close()
    application.processEvents()


if __name__ == "__main__":
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    main(Path(sys.argv[1]))
