"""The whole way in the window, with real clicks and keys: from an empty project to talking with one's own student."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt, QTimer
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QDialog, QFileDialog, QPushButton, QSpinBox, QWidget
from pytestqt.qtbot import QtBot

from kdstudio.project import Project
from kdstudio.ui.job_bridge import JobBridge, wait_for_background
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.chat import ChatPage
from kdstudio.ui.pages.data import DataPage
from kdstudio.ui.pages.export import ExportPage
from kdstudio.ui.pages.train import TrainPage
from kdstudio.ui.session import Session
from tests.gui.conftest import Click, visible_widget
from tests.gui.waiting import wait_finished
from tests.tiny import tiny_gguf

SOON, LONG = 20_000, 180_000
PROMPTS = 12
STEPS, MANY_STEPS = 16, 400


class Way:
    """One window and the hands of the person before it."""

    def __init__(self, window: MainWindow, qtbot: QtBot, click: Click, monkeypatch: pytest.MonkeyPatch) -> None:
        self.window, self.qtbot, self.click, self.monkeypatch = window, qtbot, click, monkeypatch

    @property
    def project(self) -> Project:
        project = self.window.session.project
        assert project is not None
        return project

    def wait_click(self, name: str, milliseconds: int = SOON) -> QWidget:
        """Click a widget as soon as it is there and enabled."""

        def there() -> None:
            assert visible_widget(name).isEnabled()

        self.qtbot.waitUntil(there, timeout=milliseconds)
        return self.click(name)

    def choose_file(self, path: Path) -> None:
        """What the system's own file dialog, which no test can click, answers next."""
        self.monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_args, **_kwargs: (str(path), ""))

    def type_number(self, name: str, value: int) -> None:
        box = visible_widget(name)
        assert isinstance(box, QSpinBox)
        box.setFocus()
        box.selectAll()
        QTest.keyClicks(box, str(value))
        QTest.keyClick(box, Qt.Key.Key_Tab)
        assert box.value() == value


@pytest.fixture
def way(window: MainWindow, qtbot: QtBot, click: Click, monkeypatch: pytest.MonkeyPatch) -> Way:
    return Way(window, qtbot, click, monkeypatch)


@pytest.fixture
def sessions() -> Iterator[list[Session]]:
    """Sessions a test opens besides the first; closed at its end."""
    opened: list[Session] = []
    yield opened
    for session in opened:
        for bridge in session.findChildren(JobBridge):
            bridge.stop()
        session.close()
        wait_for_background(20.0)
        session.deleteLater()


def add_teacher(way: Way, path: Path) -> None:
    way.click("nav_teachers")
    way.choose_file(path)
    way.wait_click("teachers_choose")
    way.qtbot.waitUntil(lambda: len(way.project.teachers.list()) == 1, timeout=SOON)


def import_prompts(way: Way, path: Path) -> None:
    lines = [{"messages": [{"role": "user", "content": f"write a story about fox {n}"}]} for n in range(PROMPTS)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    way.click("nav_data")
    way.choose_file(path)
    opener = visible_widget("data_empty_action") if not visible("data_import") else visible_widget("data_import")
    way.click(opener)
    way.wait_click("import_path_browse")
    way.wait_click("import_start")
    way.qtbot.waitUntil(lambda: way.project.rows.counts().get(("prompt", "pending")) == PROMPTS, timeout=SOON)
    close_sheets(way)


def visible(name: str) -> bool:
    return any(
        child.isVisible() and child.isEnabled()
        for window in QApplication.topLevelWidgets()
        for child in window.findChildren(QWidget, name)
    )


def close_sheets(way: Way) -> None:
    """Close what is still open over the page, as Escape does."""
    way.qtbot.wait(200)
    for dialog in way.window.findChildren(QDialog):
        if dialog.isVisible():
            QTest.keyClick(dialog, Qt.Key.Key_Escape)


def generate(way: Way) -> None:
    """Out of the gallery by keys, a trial on three rows, its forecast, then all rows."""
    way.wait_click("data_generate")
    way.qtbot.waitUntil(lambda: visible("recipe_card_answer"), timeout=SOON)
    search = visible_widget("gallery_search")
    QTest.keyClicks(search, "Llama-GPT4")
    QTest.keyClick(search, Qt.Key.Key_Return)
    way.wait_click("generate_try")
    way.wait_click("generate_start", LONG)
    trial = way.project.runs.list("elicit")[0]
    assert trial.parameters["trial"] == 3
    assert trial.result["would_write"] == 3
    assert not any(kind == "response" for kind, _ in way.project.rows.counts()), "a trial writes nothing"
    way.qtbot.waitUntil(lambda: len(way.project.runs.list("elicit")) == 2, timeout=SOON)
    wait_finished(way.project, way.project.runs.list("elicit")[0].id, way.qtbot)
    close_sheets(way)


def accept(way: Way) -> None:
    """The first row with the A key, what is left with one click."""
    page = way.window.page("data")
    assert isinstance(page, DataPage)
    way.window.show_page("data", {"kind": "response", "status": ""})
    way.qtbot.waitUntil(lambda: page.query.kind == "response" and page.table.rows.rowCount() > 0, timeout=SOON)
    way.qtbot.waitUntil(lambda: page.table.rows.row(0) is not None, timeout=SOON)
    page.table.setFocus()
    page.table.go_to(0)
    QTest.keyClick(page.table, Qt.Key.Key_A)
    way.qtbot.waitUntil(lambda: way.project.rows.counts().get(("response", "accepted"), 0) >= 1, timeout=SOON)
    way.wait_click("data_accept_all")
    answers = sum(count for (kind, _), count in way.project.rows.counts().items() if kind == "response")
    way.qtbot.waitUntil(lambda: way.project.rows.counts().get(("response", "accepted")) == answers, timeout=SOON)


def set_up_training(way: Way, steps: int) -> TrainPage:
    way.click("nav_train")
    page = way.window.page("train")
    assert isinstance(page, TrainPage)
    way.qtbot.waitUntil(lambda: page.setup.student.values()["layer_count"] == 2, timeout=SOON)
    way.type_number("train_run_steps", steps)
    way.type_number("train_run_rows_per_batch", 4)
    return page


def train(way: Way) -> str:
    page = set_up_training(way, STEPS)
    way.click("train_start")
    loss = page.run.plots["loss"]
    way.qtbot.waitUntil(lambda: page.stack.currentWidget() is page.run, timeout=SOON)
    way.qtbot.waitUntil(lambda: loss.drawn("loss") >= 2, timeout=LONG)
    if page.run.pause.isVisible():  # a fast machine may be done before anybody can press it
        way.click("train_pause")
    over = ("paused", "finished")
    way.qtbot.waitUntil(lambda: way.project.runs.get(page.run.run_id).state in over, timeout=SOON)
    if way.project.runs.get(page.run.run_id).state == "paused":
        way.wait_click("train_resume")
    wait_finished(way.project, page.run.run_id, way.qtbot)
    way.qtbot.waitUntil(lambda: loss.drawn("loss") == STEPS, timeout=SOON)
    return page.run.run_id


def export_and_chat(way: Way) -> None:
    way.wait_click("train_export")
    page = way.window.page("export")
    assert isinstance(page, ExportPage)
    way.click("export_start")
    way.qtbot.waitUntil(lambda: visible("export_chat_Q8_0"), timeout=LONG)
    opened = page.findChild(QPushButton, "export_chat_Q8_0")
    assert opened is not None
    way.click(opened)
    chat = way.window.page("chat")
    assert isinstance(chat, ChatPage)
    way.qtbot.waitUntil(lambda: chat.pickers["student"].model_chosen() is not None, timeout=SOON)
    pieces: list[str] = []
    QTest.keyClicks(chat.message, "write a story about fox")
    QTest.keyClick(chat.message, Qt.Key.Key_Return)
    way.qtbot.waitUntil(lambda: len(chat._turns) == 1, timeout=SOON)
    answer = chat._turns[0].answers["student"]
    timer = QTimer(chat, interval=2)
    timer.timeout.connect(lambda: pieces.append(answer.text()))
    timer.start()
    way.qtbot.waitUntil(lambda: answer.finished, timeout=LONG)
    timer.stop()
    assert answer.text(), "the student says something"
    assert any(0 < len(piece) < len(answer.text()) for piece in pieces), "it came in pieces"


def close_and_keep_running(way: Way) -> tuple[Path, str]:
    """Start a long training, close the window while it runs, answer "keep running"."""
    way.click("nav_train")
    page = way.window.page("train")
    assert isinstance(page, TrainPage)
    way.wait_click("train_new")
    set_up_training(way, MANY_STEPS)
    way.click("train_start")
    way.qtbot.waitUntil(lambda: len(way.project.runs.list("train")) == 2, timeout=SOON)
    run_id = way.project.runs.list("train")[0].id
    way.qtbot.waitUntil(lambda: page.run.run_id == run_id and page.run.plots["loss"].count("loss") > 2, timeout=LONG)
    folder = way.project.folder
    QTimer.singleShot(300, lambda: way.click("close_keep"))
    assert way.window.close()
    assert way.window.session.project is None
    return folder, run_id


def test_the_whole_way(way: Way, sessions: list[Session], qtbot: QtBot, tmp_path: Path) -> None:
    add_teacher(way, tiny_gguf(tmp_path / "teacher.gguf"))
    import_prompts(way, tmp_path / "prompts.jsonl")
    generate(way)
    accept(way)
    train(way)
    export_and_chat(way)
    folder, run_id = close_and_keep_running(way)
    session = Session()
    sessions.append(session)
    with qtbot.waitSignal(session.project_changed, timeout=SOON):
        session.open_project(folder)
    window = MainWindow(session)
    qtbot.addWidget(window, before_close_func=lambda shown: shown.leave())
    window.show()
    qtbot.waitExposed(window)
    window.show_page("train")
    page = window.page("train")
    assert isinstance(page, TrainPage)
    if page.run.run_id != run_id:  # it ended before anybody looked
        window.show_page("train", {"run": run_id})
    project = session.project
    assert project is not None
    wait_finished(project, run_id, qtbot)
    qtbot.waitUntil(lambda: page.run.plots["loss"].drawn("loss") == MANY_STEPS, timeout=SOON)
    assert project.runs.metrics(run_id, "loss")[0] == list(range(1, MANY_STEPS + 1))
