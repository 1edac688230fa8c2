"""The window's frame: navigation, menus, drops, errors in place, closing, settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QTimer, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QKeySequence
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication, QLabel, QLineEdit, QWidget
from pytestqt.qtbot import QtBot

from kdstudio.errors import KnownError
from kdstudio.project import NewPrompt
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages import PAGES
from kdstudio.ui.session import Session
from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.banner import ErrorBanner
from tests.gui.conftest import Click


@pytest.mark.parametrize("key", [entry.key for entry in PAGES])
def test_every_page_opens_from_the_navigation(window: MainWindow, click: Click, key: str) -> None:
    click(f"nav_{key}")
    assert window.stack.currentWidget() is window.page(key)
    assert window.navigation.buttons[key].isChecked()


@pytest.mark.parametrize(("number", "key"), [(number, entry.key) for number, entry in enumerate(PAGES, start=1)])
def test_every_page_has_a_shortcut(window: MainWindow, number: int, key: str) -> None:
    assert window.menus.actions[f"go_{key}"].shortcut() == QKeySequence(f"Ctrl+{number}")
    window.menus.actions[f"go_{key}"].trigger()
    assert window.stack.currentWidget() is window.page(key)


def test_everything_that_can_be_clicked_has_an_accessible_name(window: MainWindow) -> None:
    for entry in PAGES:
        window.show_page(entry.key)
    nameless = [
        child.objectName() or type(child).__name__
        for child in window.findChildren(QWidget)
        if (isinstance(child, QAbstractButton) and child.focusPolicy() != Qt.FocusPolicy.NoFocus)
        or (isinstance(child, QLineEdit) and not child.objectName().startswith("qt_"))
        if not child.isHidden()
        if not child.accessibleName() and not (isinstance(child, QAbstractButton) and child.text().strip())
    ]
    assert nameless == [], " ".join(nameless)


def test_theme_switches_from_the_view_menu_and_is_remembered(window: MainWindow) -> None:
    window.menus.actions["theme_dark"].trigger()
    assert theme().tokens.name == "dark"
    assert Session().settings.theme == "dark"


def test_status_bar_counts_rows(window: MainWindow, qtbot: QtBot) -> None:
    assert window.session.project is not None
    window.session.project.rows.add_prompts(
        NewPrompt(messages=({"role": "user", "content": f"prompt {number}"},)) for number in range(5000)
    )
    window.session.rows_changed.emit()
    qtbot.waitUntil(lambda: "5\u202f000 prompts" in window.status.rows.text())


def test_undo_and_redo_reach_the_projects_history(window: MainWindow, qtbot: QtBot) -> None:
    project = window.session.project
    assert project is not None
    project.rows.add_prompts([NewPrompt(messages=({"role": "user", "content": "a"},))])
    number = next(iter(project.rows.prompts())).id
    before = project.rows.prompt(number).status
    project.rows.set_status("prompt", [number], "rejected")
    with qtbot.waitSignal(window.session.rows_changed):
        QTest.keyClick(window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert project.rows.prompt(number).status == before
    with qtbot.waitSignal(window.session.rows_changed):
        QTest.keyClick(window, Qt.Key.Key_Y, Qt.KeyboardModifier.ControlModifier)
    assert project.rows.prompt(number).status == "rejected"
    with qtbot.waitSignal(window.session.said) as said:
        QTest.keyClick(window, Qt.Key.Key_Y, Qt.KeyboardModifier.ControlModifier)
    assert said.args[0] == "Nothing to redo"


# ------------------------------------------------------------------------------------------------------- projects
def test_a_second_start_says_who_holds_the_project(window: MainWindow, qtbot: QtBot, click: Click) -> None:
    assert window.session.project is not None
    second = MainWindow(Session())
    qtbot.addWidget(second, before_close_func=lambda shown: shown.leave())
    second.show()
    second.open_project(window.session.project.folder)
    qtbot.waitUntil(second.banner.isVisible, timeout=5000)
    assert "already open" in second.banner.title.text()
    assert str(os.getpid()) in second.banner.detail.text()
    assert second.session.project is None
    click("window_banner_dismiss")
    assert second.banner.isHidden()


def test_opening_what_is_no_project_keeps_the_one_that_is_open(
    window: MainWindow, tmp_path: Path, qtbot: QtBot
) -> None:
    before = window.session.project
    window.open_project(tmp_path)
    qtbot.waitUntil(window.banner.isVisible, timeout=5000)
    assert window.banner.title.text() == "This is not a project"
    assert window.session.project is before


def test_exchanging_projects(window: MainWindow, tmp_path: Path, qtbot: QtBot) -> None:
    assert window.session.project is not None
    first = window.session.project.folder
    with qtbot.waitSignal(window.session.project_changed):
        window.create_project(tmp_path / "Other.kdstudio")
    assert "Other" in window.windowTitle()
    with qtbot.waitSignal(window.session.project_changed):
        window.open_project(first)
    assert window.session.settings.recent_projects[0] == str(first)


def test_without_a_project_every_page_still_opens(session: Session, qtbot: QtBot) -> None:
    window = MainWindow(session)
    qtbot.addWidget(window, before_close_func=lambda shown: shown.leave())
    window.show()
    for entry in PAGES:
        window.show_page(entry.key)
        qtbot.wait(10)
    assert window.status.rows.text() == "No project open"


# ---------------------------------------------------------------------------------------------------------- drops
def drop(window: MainWindow, *paths: Path) -> bool:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    buttons, modifiers = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    enter = QDragEnterEvent(QPointF(400, 300), Qt.DropAction.CopyAction, data, buttons, modifiers)
    QApplication.sendEvent(window, enter)
    if enter.isAccepted():
        event = QDropEvent(QPointF(400, 300), Qt.DropAction.CopyAction, data, buttons, modifiers)
        QApplication.sendEvent(window, event)
    return enter.isAccepted()


@pytest.mark.parametrize(
    ("name", "key"), [("model.gguf", "teachers"), ("rows.jsonl", "data"), ("rows.csv", "data"), ("rows.txt", "data")]
)
def test_dropped_files_go_to_their_page(window: MainWindow, tmp_path: Path, name: str, key: str) -> None:
    path = tmp_path / name
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    assert drop(window, path)
    assert window.stack.currentWidget() is window.page(key)


def test_other_files_are_not_taken(window: MainWindow, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"png")
    assert not drop(window, path)


def test_a_dropped_project_opens(session: Session, tmp_path: Path, qtbot: QtBot) -> None:
    from kdstudio.project import Project

    Project.create(tmp_path / "Dropped.kdstudio").close()
    window = MainWindow(session)
    qtbot.addWidget(window, before_close_func=lambda shown: shown.leave())
    with qtbot.waitSignal(session.project_changed):
        assert drop(window, tmp_path / "Dropped.kdstudio")
    assert session.project is not None


def test_a_dropped_file_without_a_project_says_so(session: Session, tmp_path: Path, qtbot: QtBot) -> None:
    window = MainWindow(session)
    qtbot.addWidget(window, before_close_func=lambda shown: shown.leave())
    window.show()
    assert drop(window, tmp_path / "rows.jsonl")
    assert window.banner.title.text() == "No project is open"


# ----------------------------------------------------------------------------------------------- errors and sheets
def test_banner_shows_the_three_fields_and_an_action(qtbot: QtBot, click: Click) -> None:
    banner, acted = ErrorBanner("banner"), []
    qtbot.addWidget(banner)
    banner.show()
    banner.show_error(KnownError("Title <b>", "Detail", "Hint"))
    texts = [child.text() for child in banner.findChildren(QLabel) if child.isVisibleTo(banner)]
    assert "Title <b>" in texts  # shown as text, not read as HTML
    assert {"Detail", "Hint"} <= set(texts)
    banner.show_message("There is more", tone="warn", action="Show", on_action=lambda: acted.append(1))
    click("banner_action")
    assert acted == [1]
    assert banner.isHidden()


@pytest.mark.parametrize("name", ["shortcuts", "about"])
def test_sheets_open_and_close(window: MainWindow, click: Click, qtbot: QtBot, name: str) -> None:
    window.menus.actions[name].trigger()
    click(f"{name}_close")
    qtbot.waitUntil(lambda: QApplication.activeModalWidget() is None)


def test_toasts_go_by_themselves_and_stack(window: MainWindow, qtbot: QtBot, click: Click) -> None:
    for number in range(5):
        window.session.say(f"Finished {number}")
    shown = [child for child in window.findChildren(QWidget, "toast") if child.isVisible()]
    assert len(shown) == 3
    assert len({child.y() for child in shown}) == 3
    click("toast_dismiss")
    qtbot.waitUntil(lambda: len([one for one in window.findChildren(QWidget, "toast") if one.isVisible()]) == 2)


def test_a_toast_covers_no_job(window: MainWindow, qtbot: QtBot) -> None:
    window.toggle_jobs()
    qtbot.waitUntil(window.jobs.isVisible)
    QApplication.processEvents()
    window.session.say("Finished")
    toast = window.findChild(QWidget, "toast")
    assert toast is not None
    top_of_jobs = window.jobs.mapTo(window, QPoint(0, 0)).y()
    assert toast.geometry().bottom() <= top_of_jobs


def test_the_banner_stands_free_and_takes_no_room_when_hidden(window: MainWindow, qtbot: QtBot) -> None:
    top = window.stack.y()
    window.banner.show_message("Something happened")
    qtbot.waitUntil(lambda: window.banner.x() > window.navigation.width())
    window.banner.dismiss()
    qtbot.waitUntil(lambda: window.stack.y() == top)


def test_layout_is_kept(window: MainWindow, qtbot: QtBot) -> None:
    window.resize(1111, 700)
    window.toggle_jobs()
    window._keep_layout()
    other = MainWindow(Session())
    qtbot.addWidget(other, before_close_func=lambda shown: shown.leave())
    other.show()
    assert other.height() == 700  # the width is cut to the offscreen screen
    assert other.dock.isVisible()
    other.menus.actions["reset_layout"].trigger()
    assert not other.dock.isVisible()


# ------------------------------------------------------------------------------------------------- a real process
START = """
import json, os, sys, time
import psutil
from PySide6.QtCore import QTimer
from kdstudio.ui.app import start
app, window = start(sys.argv[1:])
while not window.painted:
    app.processEvents()
seconds = time.time() - psutil.Process().create_time()
heavy = [name for name in ("torch", "transformers", "llama_cpp", "gguf", "openai", "pyqtgraph") if name in sys.modules]
end = time.time() + 20
while window.session.project is None and not window.banner.isVisible() and time.time() < end:
    app.processEvents()
said = window.banner.title.text()
print(json.dumps({"seconds": seconds, "heavy": heavy, "title": window.windowTitle(), "said": said}))
window.leave()
"""


def start_window(*arguments: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", START, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def test_start_is_light_and_opens_the_named_project(tmp_path: Path) -> None:
    from kdstudio.project import Project

    Project.create(tmp_path / "Named.kdstudio").close()
    answer = start_window(str(tmp_path / "Named.kdstudio"))
    assert answer["heavy"] == []
    assert answer["title"] == "Named – KD Studio"


def test_start_opens_the_last_project(tmp_path: Path) -> None:
    from kdstudio import settings
    from kdstudio.project import Project

    Project.create(tmp_path / "Last.kdstudio").close()
    settings.remember_project(tmp_path / "Last.kdstudio")
    assert start_window()["title"] == "Last – KD Studio"


def test_start_with_a_bad_path_says_so() -> None:
    assert start_window("/nowhere/Nothing.kdstudio")["said"] == "This is not a project"


def test_crash_report_is_shown_and_redacted(window: MainWindow, qtbot: QtBot, click: Click) -> None:
    from kdstudio.ui.crash import CrashDialog, CrashGuard

    guard = CrashGuard(window)
    try:
        raise RuntimeError("boom with sk-abcdefgh12345678")
    except RuntimeError as error:
        guard._hook(type(error), error, error.__traceback__)
    dialog = guard._open
    assert isinstance(dialog, CrashDialog)
    assert dialog.isVisible()
    assert "RuntimeError: boom" in dialog.text.toPlainText()
    assert "sk-abcdefgh12345678" not in dialog.text.toPlainText()
    click("crash_copy")
    assert "RuntimeError" in QApplication.clipboard().text()
    click("crash_continue")
    assert not dialog.isVisible()
    dialog.deleteLater()


def test_a_process_that_died_is_reported_at_the_next_start(own_home: Path) -> None:
    code = "import faulthandler; from kdstudio.ui import crash; crash.watch_for_faults(); faulthandler._sigsegv()"
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    from kdstudio.ui import crash

    found = crash.watch_for_faults()
    crash.end_watch()
    assert "Segmentation fault" in found
    assert crash.watch_for_faults() == ""
    crash.end_watch()


def test_closing_without_jobs_does_not_ask(window: MainWindow, qtbot: QtBot) -> None:
    asked: list[QWidget | None] = []
    QTimer.singleShot(50, window, lambda: asked.append(QApplication.activeModalWidget()))
    window.close()
    qtbot.wait(80)
    assert asked == [None]
    assert not window.isVisible()
