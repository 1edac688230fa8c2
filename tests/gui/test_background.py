"""Background tasks: results and errors arrive in the window's thread, or not at all."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

import pytest
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from kdstudio.errors import KnownError
from kdstudio.ui.job_bridge import background, forgive_background, wait_for_background


def test_result_arrives_in_the_windows_thread(qtbot: QtBot, qapp: QApplication) -> None:
    seen: list[tuple[object, str]] = []
    task = background(threading.get_ident)
    task.done.connect(lambda result: seen.append((result, threading.current_thread().name)))
    with qtbot.waitSignal(task.finished):
        pass
    assert seen[0][0] != threading.get_ident()
    assert seen[0][1] == "MainThread"


def test_known_errors_arrive_as_they_are(qtbot: QtBot, qapp: QApplication) -> None:
    def act() -> None:
        raise KnownError("No", "because", "do that")

    task = background(act)
    with qtbot.waitSignal(task.failed) as caught:
        pass
    assert caught.args[0].as_dict() == {"title": "No", "detail": "because", "hint": "do that"}


def test_bugs_reach_the_crash_hook_and_the_caller(
    qtbot: QtBot, qapp: QApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: list[type[BaseException]] = []

    def hook(kind: type[BaseException], _error: BaseException, _trace: TracebackType | None) -> None:
        caught.append(kind)

    monkeypatch.setattr(sys, "excepthook", hook)
    task = background(lambda: 1 // 0)
    with qtbot.waitSignal(task.failed) as failed:
        pass
    assert caught == [ZeroDivisionError]
    assert isinstance(failed.args[0], KnownError)


def test_nothing_reaches_a_deleted_page(qtbot: QtBot, qapp: QApplication) -> None:
    gate, seen = threading.Event(), list[object]()
    page = QWidget()
    task = background(gate.wait, 5.0, owner=page)
    task.done.connect(seen.append)
    page.deleteLater()
    qtbot.wait(20)
    gate.set()
    assert wait_for_background()
    qtbot.wait(20)
    assert seen == []


def test_cancelled_and_forgiven_tasks_are_silent(qtbot: QtBot, qapp: QApplication) -> None:
    gate, seen = threading.Event(), list[object]()

    def late() -> None:
        gate.wait(5.0)
        raise RuntimeError("the project is closed")

    cancelled, forgiven = background(late), background(late)
    for task in (cancelled, forgiven):
        task.failed.connect(seen.append)
    cancelled.cancel()
    forgive_background()
    gate.set()
    with qtbot.waitSignal(forgiven.finished):
        pass
    assert wait_for_background()
    assert seen == []


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None is immortal there (PEP 683)")
def test_signals_cannot_use_up_the_references_of_none() -> None:
    for singleton in (None, True, False, NotImplemented):
        assert sys.getrefcount(singleton) > 1 << 27
