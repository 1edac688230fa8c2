"""Try it: a real question to a real teacher in a child process, streamed, stopped, coloured, and what goes wrong."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from kdstudio import secrets
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.teachers import TeachersPage
from kdstudio.ui.widgets.teacher_try import TryPanel
from tests.gui.conftest import Click
from tests.loopback import Loopback, closed_port
from tests.support.huge_gguf import huge_gguf
from tests.tiny import tiny_model

SECOND = 10_000
CHILD = 60_000


@pytest.fixture
def page(window: MainWindow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TeachersPage:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    window.show_page("teachers")
    shown = window.page("teachers")
    assert isinstance(shown, TeachersPage)
    return shown


@pytest.fixture
def project(window: MainWindow) -> Project:
    assert window.session.project is not None
    return window.session.project


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback(models=("small",), key="right-key") as running:
        yield running


def opened(page: TeachersPage, project: Project, spec: TeacherSpec, click: Click, qtbot: QtBot) -> TryPanel:
    """The trial of a teacher that is added for it."""
    project.teachers.add(spec)
    page.session.teachers_changed.emit()
    qtbot.waitUntil(lambda: spec.name in page.cards and page.cards[spec.name].isVisible(), timeout=SECOND)
    click(page.cards[spec.name].try_it)
    panel = page.cards[spec.name].panel
    assert panel is not None
    return panel


def ask(panel: TryPanel, words: str) -> None:
    panel.question.selectAll()
    QTest.keyClicks(panel.question, words)
    QTest.keyClick(panel.question, Qt.Key.Key_Return)


def gguf_spec(tmp_path: Path) -> TeacherSpec:
    path = tmp_path / "tiny.gguf"
    shutil.copy(tiny_model(), path)
    return TeacherSpec("Tiny", "gguf", path=str(path))


def endpoint(url: str, key: str = "try-key") -> TeacherSpec:
    options = {"price": {"input": 1000.0, "output": 1000.0}}
    return TeacherSpec("Api", "openai", url=url, model="small", key_name=key, options=options)


def test_a_file_answers_in_colour_and_its_process_ends_with_the_panel(
    page: TeachersPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    panel = opened(page, project, gguf_spec(tmp_path), click, qtbot)
    ask(panel, "the quick brown fox")
    assert panel.busy
    assert panel.figures.text() == "opening it…"
    qtbot.waitUntil(panel.pill.isVisible, timeout=CHILD)
    tokens = panel.answer.tokens
    assert tokens
    assert panel.answer.view.toPlainText() == "".join(token.text for token in tokens)
    assert all(len(token.alternatives) == 8 for token in tokens)
    assert "tokens/s" in panel.figures.text()
    assert panel.answer.legend.isVisible()
    QTest.keyClick(panel.answer.view, Qt.Key.Key_End)
    assert panel.answer.current == len(tokens) - 1
    children = psutil.Process().children(recursive=True)
    assert any("chat-server" in " ".join(child.cmdline()) for child in children)
    click(page.cards["Tiny"].try_it)
    assert page.cards["Tiny"].panel is None
    assert not any("chat-server" in " ".join(one.cmdline()) for one in psutil.Process().children(recursive=True))


def test_an_empty_question_is_said_in_place(
    page: TeachersPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    panel = opened(page, project, gguf_spec(tmp_path), click, qtbot)
    click(panel.ask_button)
    assert panel.fault.isVisible()
    assert panel.fault.text() == "Type a question first."
    assert not panel.server.running
    QTest.keyClicks(panel.question, "x")
    assert not panel.fault.isVisible()
    QTest.keyClick(panel.question, Qt.Key.Key_Escape)
    assert page.cards["Tiny"].panel is None


def test_an_endpoint_streams_can_be_stopped_and_says_that_it_gives_no_log_probs(
    page: TeachersPage, project: Project, server: Loopback, click: Click, qtbot: QtBot
) -> None:
    server.answer = lambda _prompt: " ".join(f"word{number}" for number in range(200))
    server.piece_seconds = 0.03
    secrets.store("try-key", "right-key", "session")
    panel = opened(page, project, endpoint(server.url), click, qtbot)
    ask(panel, "Count.")
    qtbot.waitUntil(lambda: "word3" in panel.answer.view.toPlainText(), timeout=CHILD)
    assert panel.stop_button.isVisible()
    click(panel.stop_button)
    qtbot.waitUntil(lambda: not panel.busy, timeout=SECOND)
    assert panel.pill.word == "stopped"
    assert "word3" in panel.answer.view.toPlainText()
    assert "word199" not in panel.answer.view.toPlainText()
    server.answer, server.piece_seconds = lambda _prompt: "Yes.", 0.0
    ask(panel, "And now?")
    qtbot.waitUntil(lambda: panel.pill.word == "answered", timeout=CHILD)
    assert panel.answer.view.toPlainText() == "Yes."
    assert "sent no log-probs" in panel.without.text()
    assert "$" in panel.figures.text()
    qtbot.waitUntil(lambda: " spent" in page.cards["Api"].money.text(), timeout=SECOND)
    assert not page.cards["Api"].money.text().startswith("$0.00")
    assert page.cards["Api"].panel is panel
    secrets.forget("try-key")


class _Sure(BaseHTTPRequestHandler):
    """An endpoint that does not stream, and sends log-probs."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["logprobs"]
        assert asked["top_logprobs"] == 8
        other = {"token": "No", "logprob": -3.0, "bytes": None}
        said = [{"token": text, "logprob": nats, "bytes": None} for text, nats in (("Yes", -0.05), (".", -2.5))]
        content = [{**said[0], "top_logprobs": [said[0], other]}, {**said[1], "top_logprobs": [said[1]]}]
        message = {"role": "assistant", "content": "Yes."}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": content}}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        body = {"id": "x", "object": "chat.completion", "created": 1, "model": "small", "choices": [choice]}
        data = json.dumps({**body, "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_arguments: object) -> None:
        pass


def test_an_endpoint_with_log_probs_is_coloured(
    page: TeachersPage, project: Project, click: Click, qtbot: QtBot
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sure)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    panel = opened(page, project, endpoint(f"http://127.0.0.1:{server.server_address[1]}/v1", key=""), click, qtbot)
    ask(panel, "Sure?")
    qtbot.waitUntil(panel.pill.isVisible, timeout=CHILD)
    assert [(one.text, one.log_prob) for one in panel.answer.tokens] == [("Yes", -0.05), (".", -2.5)]
    panel.answer.choose(0)
    assert "“No” −3.00 nats (5.0 %)" in panel.answer.others.text().replace("\u00a0", " ")
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_trial_outlives_a_test_of_its_teacher(
    page: TeachersPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"default": "Hello from the script."}))
    panel = opened(page, project, TeacherSpec("Script", "scripted", path=str(script)), click, qtbot)
    ask(panel, "Hi")
    qtbot.waitUntil(panel.pill.isVisible, timeout=CHILD)
    card = page.cards["Script"]
    click(card.test)
    qtbot.waitUntil(lambda: page.cards["Script"] is not card, timeout=CHILD)
    assert page.cards["Script"].panel is panel
    assert page.cards["Script"].try_it.text() == "Close"
    assert page.cards["Script"].speed.text().endswith("measured just now")
    assert panel.answer.view.toPlainText() == "Hello from the script."
    QTest.keyClick(panel.question, Qt.Key.Key_Escape)
    assert page.cards["Script"].panel is None


def test_a_refused_a_missing_and_a_mended_key(
    page: TeachersPage, project: Project, server: Loopback, click: Click, qtbot: QtBot
) -> None:
    panel = opened(page, project, endpoint(server.url), click, qtbot)
    ask(panel, "Hello?")
    qtbot.waitUntil(panel.banner.isVisible, timeout=CHILD)
    assert panel.banner.title.text() == "The key is missing"
    secrets.store("try-key", "wrong-key", "session")
    ask(panel, "Hello?")
    qtbot.waitUntil(
        lambda: "key" in panel.banner.title.text() and "missing" not in panel.banner.title.text(), timeout=CHILD
    )
    assert "refused" in panel.banner.title.text()
    assert "wrong-key" not in panel.banner.detail.text()
    secrets.store("try-key", "right-key", "session")
    ask(panel, "Hello?")
    qtbot.waitUntil(panel.pill.isVisible, timeout=CHILD)
    assert not panel.banner.isVisible()
    secrets.forget("try-key")


def test_nobody_there(page: TeachersPage, project: Project, click: Click, qtbot: QtBot) -> None:
    panel = opened(page, project, endpoint(f"http://127.0.0.1:{closed_port()}/v1", key=""), click, qtbot)
    ask(panel, "Hello?")
    qtbot.waitUntil(panel.banner.isVisible, timeout=CHILD)
    assert panel.banner.title.text() == "The endpoint cannot be reached"
    assert not panel.busy


def test_a_model_that_is_larger_than_the_memory(
    page: TeachersPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    path = huge_gguf(tmp_path / "huge.gguf", 4 * psutil.virtual_memory().total)
    panel = opened(page, project, TeacherSpec("Huge", "gguf", path=str(path)), click, qtbot)
    ask(panel, "Hello?")
    qtbot.waitUntil(panel.banner.isVisible, timeout=CHILD)
    assert panel.banner.title.text() == "There is not enough memory for this teacher"
    assert "GiB" in panel.banner.detail.text() or "GB" in panel.banner.detail.text()
    assert not panel.server.running


def test_one_teacher_is_held_at_a_time_and_a_script_says_why_it_has_no_colours(
    page: TeachersPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"default": "Hello from the script."}))
    first = opened(page, project, gguf_spec(tmp_path), click, qtbot)
    assert first.isVisible()
    panel = opened(page, project, TeacherSpec("Script", "scripted", path=str(script)), click, qtbot)
    assert page.cards["Tiny"].panel is None
    ask(panel, "Hi")
    qtbot.waitUntil(panel.pill.isVisible, timeout=CHILD)
    assert panel.answer.view.toPlainText() == "Hello from the script."
    assert panel.without.text().startswith("A script gives no log-probs")
    page.session.close()
    qtbot.waitUntil(lambda: not page.cards, timeout=SECOND)
