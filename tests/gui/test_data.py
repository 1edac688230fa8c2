"""The Data page on a real project: reviewing by keys and clicks, searching, editing, copying, undo."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLineEdit, QPlainTextEdit
from pytestqt.qtbot import QtBot

from kdstudio.project import NewPreference, NewPrompt, NewResponse, Project
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.data import DataPage
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.data_inspector import PREVIEW, PROVENANCE, RAW
from tests.gui.conftest import Click

SECOND = 10_000


def fill(project: Project) -> None:
    words = ("fox", "whale", "clock")
    project.rows.add_prompts(
        NewPrompt(
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": f"Tell of a {words[i % 3]} ({i})"},
            ],
            tags=["held_out"] if i % 5 == 0 else ["train"],
            source="prompts.jsonl",
        )
        for i in range(30)
    )
    project.rows.add_responses(
        NewResponse(i + 1, f"Once a {words[i % 3]}.\nThe end {i}.", teacher="My teacher", tokens=10 + i, run="", seed=i)
        for i in range(24)
    )
    project.rows.add_preferences([NewPreference(1, ["better", "worse"], [1.0, 0.0], source="pairs.jsonl")])


@pytest.fixture
def page(window: MainWindow, qtbot: QtBot) -> DataPage:
    project = window.session.project
    assert project is not None
    fill(project)
    window.show_page("data")
    shown = window.page("data")
    assert isinstance(shown, DataPage)
    qtbot.waitUntil(lambda: shown.table.rows.rowCount() == 24, timeout=SECOND)
    qtbot.waitUntil(lambda: shown.table.rows.row(0) is not None, timeout=SECOND)
    shown.table.setFocus()
    return shown


def press(page: DataPage, key: Qt.Key, held: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier) -> None:
    QTest.keyClick(page.table, key, held)


def status_of(page: DataPage, row_id: int) -> str:
    project = page.session.project
    assert project is not None
    return project.rows.response(row_id).status


def wait_status(page: DataPage, qtbot: QtBot, row_id: int, status: str) -> None:
    qtbot.waitUntil(lambda: status_of(page, row_id) == status, timeout=SECOND)


def settle(page: DataPage, qtbot: QtBot) -> None:
    """Wait until the table shows what the project holds."""
    qtbot.waitUntil(lambda: page.feed._running is None and not page.feed._timer.isActive(), timeout=SECOND)
    qtbot.wait(30)
    qtbot.waitUntil(lambda: page.feed._running is None and not page.feed._timer.isActive(), timeout=SECOND)


# ------------------------------------------------------------------------------------------------------ reviewing
def test_keys_accept_reject_and_go_on(page: DataPage, qtbot: QtBot) -> None:
    page.table.go_to(0)
    press(page, Qt.Key.Key_A)
    assert page.table.current_place() == 1
    row = page.table.rows.row(0)
    assert row is not None
    assert row.status == "accepted", "shown at once"
    press(page, Qt.Key.Key_R)
    press(page, Qt.Key.Key_J)
    press(page, Qt.Key.Key_A)
    press(page, Qt.Key.Key_K)
    assert page.table.current_place() == 3
    for row_id, status in ((1, "accepted"), (2, "rejected"), (3, "pending"), (4, "accepted")):
        wait_status(page, qtbot, row_id, status)
    settle(page, qtbot)
    assert [page.table.rows.cell(place, 5) for place in range(4)] == ["accepted", "rejected", "pending", "accepted"]


def test_undo_and_redo_from_the_keyboard(page: DataPage, window: MainWindow, qtbot: QtBot) -> None:
    page.table.go_to(0)
    press(page, Qt.Key.Key_A)
    press(page, Qt.Key.Key_A)
    undone = qtbot.waitSignal(window.session.said, check_params_cb=lambda text, _tone: text.startswith("Undone"))
    with undone:
        window.menus.actions["undo"].trigger()
    assert status_of(page, 2) == "pending"
    assert status_of(page, 1) == "accepted", "undo takes back the last change, whatever is still being written"
    window.menus.actions["redo"].trigger()
    wait_status(page, qtbot, 2, "accepted")
    settle(page, qtbot)
    assert page.table.rows.cell(1, 5) == "accepted"


def test_a_choice_is_decided_as_one_action(page: DataPage, window: MainWindow, click: Click, qtbot: QtBot) -> None:
    page.table.go_to(2)
    for _ in range(3):
        press(page, Qt.Key.Key_Down, Qt.KeyboardModifier.ShiftModifier)
    assert page.inspector.accept.text() == "Accept 4"
    click("data_accept")
    assert page.table.current_place() == 6
    for row_id in (3, 4, 5, 6):
        wait_status(page, qtbot, row_id, "accepted")
    window.menus.actions["undo"].trigger()
    for row_id in (3, 4, 5, 6):
        wait_status(page, qtbot, row_id, "pending")


def test_everything_shown_is_accepted(page: DataPage, click: Click, qtbot: QtBot) -> None:
    page.filter.search.setFocus()
    QTest.keyClicks(page.filter.search, "whale")
    qtbot.waitUntil(lambda: page.table.rows.rowCount() == 8, timeout=SECOND)
    assert page.footer.accept_all.text() == "Accept all 8 shown"
    click("data_accept_all")
    project = page.session.project
    assert project is not None
    qtbot.waitUntil(lambda: project.rows.counts().get(("response", "accepted")) == 8, timeout=SECOND)
    assert {status_of(page, row_id) for row_id in (2, 5, 8)} == {"accepted"}
    assert status_of(page, 1) == "pending"


def test_a_reason_is_kept_with_the_rejection(page: DataPage, click: Click, qtbot: QtBot) -> None:
    page.table.go_to(0)
    press(page, Qt.Key.Key_R, Qt.KeyboardModifier.ShiftModifier)
    sheet = QApplication.activeModalWidget()
    assert sheet is not None
    line = sheet.findChild(QLineEdit, "data_reason")
    assert line is not None
    QTest.keyClicks(line, "off topic")
    QTest.keyClick(line, Qt.Key.Key_Return)
    wait_status(page, qtbot, 1, "rejected")
    project = page.session.project
    assert project is not None
    assert project.rows.response(1).reason == "off topic"
    press(page, Qt.Key.Key_R, Qt.KeyboardModifier.ShiftModifier)
    click("data_reason_too_long")
    qtbot.waitUntil(lambda: project.rows.response(2).reason == "Too long", timeout=SECOND)


def test_rows_leave_a_filter_and_the_next_is_current(page: DataPage, qtbot: QtBot) -> None:
    page.filter.status.set_value("pending")
    settle(page, qtbot)
    page.table.setFocus()
    page.table.go_to(0)
    for _ in range(3):
        press(page, Qt.Key.Key_A)
    qtbot.waitUntil(lambda: page.table.rows.rowCount() == 21, timeout=SECOND)
    assert page.table.current_id() == 4
    assert page.footer.words.text() == "21 of 24 shown"


def test_letters_act_only_in_the_table(page: DataPage, qtbot: QtBot) -> None:
    page.table.go_to(0)
    page.filter.search.setFocus()
    QTest.keyClicks(page.filter.search, "ar")
    qtbot.wait(50)
    assert status_of(page, 1) == "pending"
    assert page.filter.search.text() == "ar"


# ------------------------------------------------------------------------------------------------------ searching
def test_search_by_shortcut_tags_and_words(page: DataPage, qtbot: QtBot) -> None:
    QTest.keyClick(page, Qt.Key.Key_F, Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(page.filter.search.hasFocus, timeout=SECOND)
    QTest.keyClicks(page.filter.search, 'tag:held_out teacher:"My teacher"')
    QTest.keyClick(page.filter.search, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: page.table.rows.rowCount() == 5, timeout=SECOND)
    assert page.table.hasFocus(), "Enter goes on to the rows"
    page.filter.search.setText("status:nonsense")
    page.filter.changed.emit()
    assert "no status 'nonsense'" in page.footer.fault.text()


def test_nothing_found_offers_the_way_back(page: DataPage, click: Click, qtbot: QtBot) -> None:
    page.filter.search.setText("zzzz")
    page.filter.changed.emit()
    qtbot.waitUntil(lambda: page.stack.currentIndex() == 1, timeout=SECOND)
    assert page.empty.sentence.text() == "No responses match this filter."
    click("data_empty_action")
    qtbot.waitUntil(lambda: page.table.rows.rowCount() == 24, timeout=SECOND)


def test_kinds_switch_with_their_counts(page: DataPage, click: Click, qtbot: QtBot) -> None:
    assert [page.toolbar.kinds.buttons[kind].text() for kind in ("prompt", "response", "preference")] == [
        "Prompts 30",
        "Responses 24",
        "Preferences 1",
    ]
    click("data_kind_prompt")
    qtbot.waitUntil(lambda: page.table.rows.rowCount() == 30, timeout=SECOND)
    assert page.table.rows.headerData(2, Qt.Orientation.Horizontal) == "First answer"
    click("data_kind_preference")
    qtbot.waitUntil(lambda: page.table.rows.rowCount() == 1, timeout=SECOND)
    page.table.go_to(0)
    inspector = page.inspector
    qtbot.waitUntil(lambda: inspector.detail is not None and inspector.detail.kind == "preference", timeout=SECOND)
    assert not page.inspector.edit.isEnabled()
    assert [view.who.text() for view in page.inspector.preview.turns if view.isVisibleTo(page)][-2:] == [
        "Chosen",
        "Rejected",
    ]


# --------------------------------------------------------------------------------------------- inspector and edits
def wait_detail(page: DataPage, qtbot: QtBot, row_id: int) -> None:
    qtbot.waitUntil(
        lambda: page.inspector.detail is not None and page.inspector.detail.row_id == row_id, timeout=SECOND
    )


def test_the_inspector_follows_the_current_row(page: DataPage, qtbot: QtBot) -> None:
    page.table.go_to(4)
    wait_detail(page, qtbot, 5)
    inspector = page.inspector
    shown = [view.text.text() for view in inspector.preview.turns if view.isVisibleTo(page)]
    assert shown == ["Be brief.", "Tell of a whale (4)", "Once a whale.\nThe end 4."]
    inspector.tabs.setCurrentIndex(RAW)
    assert '"My teacher"' in inspector.raw.toPlainText()
    inspector.tabs.setCurrentIndex(PROVENANCE)
    assert "My teacher" in inspector.facts.toPlainText()
    assert "Fingerprint" in inspector.facts.toPlainText()
    press(page, Qt.Key.Key_Space)
    assert inspector.tabs.currentIndex() == PREVIEW
    press(page, Qt.Key.Key_Space)
    assert inspector.isHidden()
    press(page, Qt.Key.Key_Space)
    assert inspector.isVisible()


def test_model_text_is_shown_and_never_run(page: DataPage, qtbot: QtBot) -> None:
    project = page.session.project
    assert project is not None
    evil = '<script>alert(1)</script> <img src="http://example.org/x.png"> ![](http://example.org/y.png)'
    project.rows.add_responses([NewResponse(1, evil, teacher="<b>T</b>", key="e", run="r")])
    page.session.rows_changed.emit()
    qtbot.waitUntil(lambda: page.table.rows.rowCount() == 25, timeout=SECOND)
    page.table.go_to(24)
    wait_detail(page, qtbot, 25)
    text = [view.text for view in page.inspector.preview.turns if view.isVisibleTo(page)][-1]
    assert "<script>alert(1)</script>" in text.toPlainText()
    page.inspector.tabs.setCurrentIndex(PROVENANCE)
    assert "<b>T</b>" in page.inspector.facts.toPlainText()


def test_editing_in_place(page: DataPage, qtbot: QtBot) -> None:
    page.table.go_to(3)
    press(page, Qt.Key.Key_E)
    editor = page.table.findChild(QPlainTextEdit, "row_cell_editor")
    assert editor is not None
    assert editor.toPlainText() == "Once a fox.\nThe end 3.", "the whole text, with its lines"
    editor.selectAll()
    QTest.keyClicks(editor, "A better")
    QTest.keyClick(editor, Qt.Key.Key_Return)
    QTest.keyClicks(editor, "ending.")
    QTest.keyClick(editor, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    project = page.session.project
    assert project is not None
    qtbot.waitUntil(lambda: project.rows.response(4).text == "A better\nending.", timeout=SECOND)
    assert "edited" in project.rows.response(4).source
    settle(page, qtbot)
    assert page.table.rows.cell(3, 2) == "A better ending."


def test_escape_gives_an_edit_up(page: DataPage, qtbot: QtBot) -> None:
    page.table.go_to(3)
    press(page, Qt.Key.Key_E)
    editor = page.table.findChild(QPlainTextEdit, "row_cell_editor")
    assert editor is not None
    QTest.keyClicks(editor, "nonsense")
    QTest.keyClick(editor, Qt.Key.Key_Escape)
    qtbot.wait(100)
    project = page.session.project
    assert project is not None
    assert project.rows.response(4).text == "Once a fox.\nThe end 3."


def test_leaving_a_row_saves_what_was_typed(page: DataPage, click: Click, qtbot: QtBot) -> None:
    page.table.go_to(0)
    wait_detail(page, qtbot, 1)
    click("data_edit")
    page.inspector.editor.selectAll()
    QTest.keyClicks(page.inspector.editor, "Typed and left.")
    assert page.inspector.edit_note.text().endswith("not saved")
    page.table.go_to(5)
    project = page.session.project
    assert project is not None
    qtbot.waitUntil(lambda: project.rows.response(1).text == "Typed and left.", timeout=SECOND)
    wait_detail(page, qtbot, 6)
    assert page.inspector.editor.toPlainText().startswith("Once a clock")


def test_the_editor_waits_for_its_row(page: DataPage, qtbot: QtBot) -> None:
    page.table.go_to(0)
    wait_detail(page, qtbot, 1)
    page.table.go_to(5)
    page.inspector.start_editing()
    assert page.inspector.editor.isReadOnly(), "it still holds the row before"
    wait_detail(page, qtbot, 6)
    assert not page.inspector.editor.isReadOnly()
    assert page.inspector.editor.toPlainText().startswith("Once a clock")


def test_an_empty_text_is_refused_in_place(page: DataPage, click: Click, qtbot: QtBot) -> None:
    page.table.go_to(0)
    wait_detail(page, qtbot, 1)
    click("data_edit")
    page.inspector.editor.selectAll()
    QTest.keyClick(page.inspector.editor, Qt.Key.Key_Delete)
    click("data_save")
    qtbot.waitUntil(page.banner.isVisible, timeout=SECOND)
    assert page.banner.title.text() == "The text is empty"


def test_copy_with_headings_is_a_table(page: DataPage, qtbot: QtBot) -> None:
    page.table.go_to(0)
    press(page, Qt.Key.Key_Down, Qt.KeyboardModifier.ShiftModifier)
    QApplication.clipboard().clear()
    press(page, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    qtbot.waitUntil(lambda: bool(QApplication.clipboard().text()), timeout=SECOND)
    rows = list(csv.reader(io.StringIO(QApplication.clipboard().text()), delimiter="\t"))
    assert rows[0][:3] == ["id", "prompt", "answer"]
    assert rows[1][:3] == ["1", "Tell of a fox (0)", "Once a fox.\nThe end 0."]
    assert len(rows) == 3


def test_the_context_menu_acts_on_the_choice(page: DataPage, qtbot: QtBot) -> None:
    from kdstudio.ui.widgets.data_menu import row_menu

    page.table.go_to(6)
    page.table.customContextMenuRequested.emit(QPoint(20, 20))
    shown = QApplication.activePopupWidget()
    assert shown is not None
    shown.close()
    menu = row_menu(page, 1, editable=True, act=page._key)
    next(action for action in menu.actions() if action.objectName() == "data_menu_reject").trigger()
    wait_status(page, qtbot, 7, "rejected")
    menu.deleteLater()


# ------------------------------------------------------------------------------------------------- the empty page
def test_the_page_without_rows_or_project(
    session: Session, project_session: Session, click: Click, qtbot: QtBot
) -> None:
    page = DataPage(project_session)
    qtbot.addWidget(page)
    page.show()
    qtbot.waitUntil(lambda: page.stack.currentIndex() == 1, timeout=SECOND)
    assert "No prompts yet" in page.empty.sentence.text()
    assert page.toolbar.generate.isEnabled(), "some recipes need no prompts"
    with qtbot.waitSignal(session.project_changed):
        session.close()
    assert not page.toolbar.generate.isEnabled()
    assert page.empty.action.text() == "Go to Home"
    wanted: list[str] = []
    session.page_wanted.connect(lambda key, _arguments: wanted.append(key))
    click("data_empty_action")
    assert wanted == ["home"]


def test_another_project_shows_its_own_rows(page: DataPage, window: MainWindow, tmp_path: Path, qtbot: QtBot) -> None:
    with Project.create(tmp_path / "Other") as other:
        other.rows.add_prompts([NewPrompt([{"role": "user", "content": "only one"}])])
    page.table.go_to(4)
    with qtbot.waitSignal(window.session.project_changed, timeout=SECOND):
        window.open_project(tmp_path / "Other.kdstudio")
    qtbot.waitUntil(lambda: page.table.rows.rowCount() == 1, timeout=SECOND)
    assert page.query.kind == "prompt"


def test_home_opens_the_pending_answers(page: DataPage, window: MainWindow, qtbot: QtBot) -> None:
    window.session.go("data", kind="response", status="pending")
    assert page.filter.status.value() == "pending"
    settle(page, qtbot)
    assert page.selection_words() == "24 responses · 1 selected"
