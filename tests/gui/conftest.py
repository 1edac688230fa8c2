"""The window without a screen: every test has its own home, and leaves no thread, process or Qt warning behind."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["KDSTUDIO_THREADS"] = os.environ.get("KDSTUDIO_THREADS", "1")

import pytest
from PySide6.QtCore import Qt, QThread
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from kdstudio.ui.app import make_application
from kdstudio.ui.job_bridge import JobBridge, wait_for_background
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.session import Session
from kdstudio.ui.theme import theme

Click = Callable[[QWidget | str], QWidget]
_OFFSCREEN = "This plugin does not support"  # the offscreen plug-in about itself


@pytest.fixture(scope="session")
def qapp() -> QApplication:
    return make_application([])


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("KDSTUDIO_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def leaves_nothing_behind(qapp: QApplication, own_home: Path, qtlog: object) -> Iterator[None]:
    theme().set_choice("light")
    yield
    assert wait_for_background(20.0), "a background function is still running"
    qapp.processEvents()
    alive = [thread for thread in qapp.findChildren(QThread) if thread.isRunning()]
    assert not alive, f"threads left: {alive}"
    said = [record.message for record in qtlog.records if record.type_name in ("QtWarningMsg", "QtCriticalMsg")]  # type: ignore[attr-defined]
    said = [message for message in said if not message.startswith(_OFFSCREEN)]
    assert not said, f"Qt said: {said}"


@pytest.fixture
def session(qapp: QApplication) -> Iterator[Session]:
    made = Session()
    yield made
    made.close()
    for bridge in made.findChildren(JobBridge):
        bridge.stop()
    wait_for_background(20.0)
    made.deleteLater()


@pytest.fixture
def project_session(session: Session, tmp_path: Path, qtbot: QtBot) -> Session:
    with qtbot.waitSignal(session.project_changed, timeout=10_000):
        session.create_project(tmp_path / "Test.kdstudio")
    return session


@pytest.fixture
def window(project_session: Session, qtbot: QtBot) -> MainWindow:
    made = MainWindow(project_session)
    qtbot.addWidget(made, before_close_func=lambda shown: shown.leave())
    made.show()
    qtbot.waitExposed(made)
    return made


def visible_widget(name: str) -> QWidget:
    """The visible widget with that object name, in any window. Nothing is collected while the list is made."""
    gc.collect()
    gc.disable()
    try:
        windows = [window for window in QApplication.topLevelWidgets() if window.isVisible()]
        found = [child for window in windows for child in (window, *window.findChildren(QWidget, name))]
    finally:
        gc.enable()
    visible = [child for child in found if child.objectName() == name and child.isVisible()]
    assert visible, f"nothing visible is called {name!r}"
    return visible[-1]


@pytest.fixture
def click(qapp: QApplication) -> Click:
    """Click a widget, or the visible one with that object name, with a real mouse press in its middle."""

    def act(target: QWidget | str) -> QWidget:
        if isinstance(target, str):
            target = visible_widget(target)
        assert target.isEnabled(), f"{target.objectName()} cannot be clicked: it is disabled"
        QTest.mouseClick(target, Qt.MouseButton.LeftButton)
        return target

    return act
