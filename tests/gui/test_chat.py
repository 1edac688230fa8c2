"""The chat page: streaming side by side, stop and clear, errors in place, safe rendering."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from kdstudio.models.spec import TeacherSpec
from kdstudio.project import NewPrompt
from kdstudio.ui.chat_process import ChatProcess
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.chat import ChatPage
from kdstudio.ui.widgets.chat_turn import ChatTurn
from kdstudio.ui.widgets.markdown_view import MarkdownView
from tests.gui.conftest import Click
from tests.tiny import tiny_gguf

PEER = [sys.executable, str(Path(__file__).with_name("chat_peer.py"))]


@pytest.fixture
def page(window: MainWindow, tmp_path: Path, qtbot: QtBot) -> ChatPage:
    project = window.session.project
    assert project is not None
    (project.exports_folder / "student-Q8_0.gguf").write_bytes(b"GGUF")
    project.teachers.add(TeacherSpec("Big teacher", "gguf", path=str(tmp_path / "teacher.gguf")))
    system = {"role": "system", "content": "Write one short sentence."}
    project.rows.add_prompts(
        NewPrompt(messages=(system, {"role": "user", "content": words}), tags=tags)
        for words, tags in (("a train", ("train",)), ("a quiet whale", ("held_out",)), ("a blue lamp", ("held_out",)))
    )
    window.show_page("chat")
    shown = window.page("chat")
    assert isinstance(shown, ChatPage)
    shown.server._command = PEER
    qtbot.waitUntil(lambda: shown.pickers["teacher"].model_chosen() is not None)
    return shown


def say(page: ChatPage, qtbot: QtBot, text: str) -> ChatTurn:
    """Type a message, press Enter, and wait until it stands in the transcript."""
    before = len(page._turns)
    QTest.keyClicks(page.message, text)
    QTest.keyClick(page.message, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: len(page._turns) == before + 1)
    return page._turns[-1]


def settle(turn: ChatTurn, qtbot: QtBot) -> ChatTurn:
    """Wait until every answer of a turn ended."""
    qtbot.waitUntil(lambda: all(card.finished for card in turn.answers.values()), timeout=9000)
    return turn


def ask(page: ChatPage, qtbot: QtBot, text: str) -> ChatTurn:
    return settle(say(page, qtbot, text), qtbot)


def test_pickers_offer_the_newest_export_and_the_teacher(page: ChatPage) -> None:
    assert page.pickers["student"].currentText() == "student-Q8_0.gguf"
    assert page.pickers["teacher"].currentText() == "Big teacher"
    assert page.system.text() == "Write one short sentence."


def test_enter_sends_and_both_answer_side_by_side(page: ChatPage, qtbot: QtBot) -> None:
    turn = ask(page, qtbot, "a quiet whale")
    assert turn.answers["student"].text() == "student heard 2: a quiet whale"
    assert turn.answers["teacher"].text() == "teacher heard 2: a quiet whale"
    assert "12.5 tokens/s" in turn.answers["student"].words.text()
    left, right = (turn.answers[role] for role in ("student", "teacher"))
    assert left.x() < right.x()
    assert abs(left.width() - right.width()) <= 1
    assert page.message.toPlainText() == ""


def test_each_model_gets_its_own_conversation(page: ChatPage, qtbot: QtBot) -> None:
    turn = ask(page, qtbot, "one")
    turn = ask(page, qtbot, "two")
    assert turn.answers["teacher"].text() == "teacher heard 4: two"
    messages = page._messages("student", "three")
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert messages[2]["content"] == "student heard 2: one"


def test_shift_enter_breaks_the_line_and_empty_is_not_sent(page: ChatPage) -> None:
    QTest.keyClick(page.message, Qt.Key.Key_Return)
    assert page._turns == []
    QTest.keyClicks(page.message, "a")
    QTest.keyClick(page.message, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    QTest.keyClicks(page.message, "b")
    assert page.message.toPlainText() == "a\nb"
    assert page._turns == []


def test_suggestions_come_from_unseen_prompts(page: ChatPage, qtbot: QtBot, click: Click) -> None:
    qtbot.waitUntil(lambda: page.findChild(QWidget, "chat_suggestion_0") is not None)
    click("chat_suggestion_0")
    qtbot.waitUntil(lambda: len(page._turns) == 1)
    settle(page._turns[0], qtbot)
    assert page._turns[0].said == "a quiet whale"


def test_stop_keeps_what_was_said(page: ChatPage, qtbot: QtBot, click: Click) -> None:
    turn = say(page, qtbot, "slow")
    qtbot.waitUntil(lambda: "word" in turn.answers["student"].view.toPlainText(), timeout=9000)
    assert not page.send_button.isVisible()
    click("chat_stop")
    settle(turn, qtbot)
    card = turn.answers["student"]
    assert card.text().startswith("word")
    assert card.pill.word == "stopped"
    assert page.send_button.isVisible()


def test_an_answer_cut_at_the_limit_says_so(page: ChatPage, qtbot: QtBot) -> None:
    turn = ask(page, qtbot, "long")
    assert turn.answers["student"].pill.word == "cut at the limit"


def test_errors_stand_where_the_answer_would(page: ChatPage, qtbot: QtBot) -> None:
    turn = ask(page, qtbot, "fail")
    for card in turn.answers.values():
        assert card.error.isVisible()
        assert card.error.text() == "The model refused. no. Ask something else."


def test_noise_on_the_pipe_is_ignored(page: ChatPage, qtbot: QtBot) -> None:
    turn = ask(page, qtbot, "noise")
    assert turn.answers["student"].text() == "student heard 2: noise"


def test_a_crash_is_said_and_the_next_message_starts_anew(page: ChatPage, qtbot: QtBot) -> None:
    turn = ask(page, qtbot, "crash")
    text = turn.answers["student"].error.text()
    assert "ended unexpectedly" in text
    assert "sk-abcdefgh12345678" not in text
    turn = ask(page, qtbot, "again")
    assert turn.answers["student"].text() == "student heard 2: again"


def test_a_program_that_is_missing_is_said(page: ChatPage, qtbot: QtBot) -> None:
    page.server._command = ["/nowhere/python"]
    turn = ask(page, qtbot, "hello")
    assert "could not start" in turn.answers["teacher"].error.text()


def test_clear_forgets_and_choosing_none_leaves_one(page: ChatPage, qtbot: QtBot, click: Click) -> None:
    turn = ask(page, qtbot, "one")
    click("chat_clear")
    assert page._turns == []
    assert page.stack.currentIndex() == 0
    combo = page.pickers["teacher"]
    combo.setCurrentIndex(combo.findText("None"))
    combo.activated.emit(combo.currentIndex())
    turn = ask(page, qtbot, "two")
    assert list(turn.answers) == ["student"]
    assert turn.answers["student"].text() == "student heard 2: two"


def test_open_in_chat_chooses_the_export(page: ChatPage, window: MainWindow, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    window.session.go("chat", student=str(other))
    assert page.pickers["student"].currentText() == "other.gguf"


def test_talking_to_the_student_ticks_homes_last_step(page: ChatPage, window: MainWindow, qtbot: QtBot) -> None:
    assert not window.session.remembers("chatted")
    ask(page, qtbot, "one")
    assert window.session.remembers("chatted")


def test_without_a_model_the_page_says_what_to_do(window: MainWindow, qtbot: QtBot) -> None:
    window.show_page("chat")
    page = window.page("chat")
    assert isinstance(page, ChatPage)
    qtbot.waitUntil(lambda: "choose a GGUF file" in page.empty.sentence.text())
    assert page.empty.action.isVisible()
    assert not page.send_button.isEnabled()


def test_leaving_a_server_that_hangs_ends_it(qtbot: QtBot) -> None:
    process = ChatProcess(command=[sys.executable, "-c", "import time; time.sleep(60)"])
    process.start([{"id": "student", "gguf": "x"}], {})
    child = process._process
    assert child is not None
    qtbot.waitUntil(lambda: child.processId() > 0)
    process.stop()
    assert not process.running
    process.deleteLater()


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="the extra `local` is not installed")
def test_real_models_answer_side_by_side(window: MainWindow, tmp_path: Path, qtbot: QtBot) -> None:
    project = window.session.project
    assert project is not None
    tiny_gguf(project.exports_folder / "student.gguf", seed=1)
    project.teachers.add(TeacherSpec("Tiny teacher", "gguf", path=str(tiny_gguf(tmp_path / "teacher.gguf", seed=2))))
    window.show_page("chat")
    page = window.page("chat")
    assert isinstance(page, ChatPage)
    qtbot.waitUntil(lambda: page.pickers["teacher"].model_chosen() is not None)
    page.limit.setValue(16)
    turn = say(page, qtbot, "hello")
    qtbot.waitUntil(lambda: all(card.finished for card in turn.answers.values()), timeout=60_000)
    for card in turn.answers.values():
        assert not card.error.isVisible(), card.error.text()
        assert "tokens/s" in card.words.text()


HOSTILE = """<b>bold</b> <script>alert(1)</script> <img src="file:///etc/passwd">

![picture](http://example.org/pixel.png)

```python
print("hello")
```

| metric | value |
|---|---|
| tokens | 38 |
"""


def test_answers_are_rendered_safely(qtbot: QtBot) -> None:
    view = MarkdownView(grow=True)
    qtbot.addWidget(view)
    view.set_markdown(HOSTILE)
    shown = view.toPlainText()
    assert "<script>alert(1)</script>" in shown
    assert 'src="file:///etc/passwd"' in shown
    assert 'print("hello")' in shown
    assert view.document().resource(2, "http://example.org/pixel.png") is None
