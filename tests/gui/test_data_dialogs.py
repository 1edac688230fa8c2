"""Importing and exporting from the Data page, with real files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import pytest
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QDialog
from pytestqt.qtbot import QtBot

from kdstudio.project import NewPrompt, Project
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.data import DataPage
from kdstudio.ui.widgets.data_export import ExportDialog, formats_for
from kdstudio.ui.widgets.data_import import ImportDialog
from tests.gui.conftest import Click

DialogT = TypeVar("DialogT", bound=QDialog)
SECOND = 10_000


@pytest.fixture
def page(window: MainWindow) -> DataPage:
    window.show_page("data")
    shown = window.page("data")
    assert isinstance(shown, DataPage)
    return shown


@pytest.fixture
def project(window: MainWindow) -> Project:
    assert window.session.project is not None
    return window.session.project


def sheet(kind: type[DialogT]) -> DialogT:
    """The dialog of that kind that is open."""
    found = [one for one in QApplication.topLevelWidgets() if isinstance(one, kind) and one.isVisible()]
    assert found, f"no {kind.__name__} is open"
    return found[-1]


def closed(qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: QApplication.activeModalWidget() is None, timeout=SECOND)


# ------------------------------------------------------------------------------------------------------ importing
def test_a_dropped_file_is_previewed_and_imported(
    page: DataPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    path = tmp_path / "chats.jsonl"
    turns = [[("user", f"question {i}"), ("assistant", f"answer {i}")] for i in range(12)]
    path.write_text("\n".join(json.dumps({"messages": [{"role": r, "content": c} for r, c in turn]}) for turn in turns))
    page.take_files([path])
    dialog = sheet(ImportDialog)
    qtbot.waitUntil(dialog.start.isEnabled, timeout=SECOND)
    assert dialog.preview.what.text().startswith("OpenAI messages (JSONL) · UTF-8")
    assert dialog.preview.table.rowCount() == 8
    cell = dialog.preview.table.item(0, 1)
    assert cell is not None
    assert cell.text() == "answer 0"
    assert project.rows.counts() == {}, "nothing is added before the person says so"
    click("import_start")
    closed(qtbot)
    assert project.rows.counts()["response", "pending"] == 12
    qtbot.waitUntil(lambda: page.query.kind == "response" and page.table.rows.rowCount() == 12, timeout=SECOND)


def test_rejected_lines_are_counted_and_kept(
    page: DataPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{broken\n{"prompt": "", "completion": "c"}\n')
    click("data_import")
    dialog = sheet(ImportDialog)
    QTest.keyClicks(dialog.picker.edit, str(path))
    qtbot.waitUntil(dialog.start.isEnabled, timeout=SECOND)
    click("import_start")
    qtbot.waitUntil(dialog.banner.isVisible, timeout=SECOND)
    assert dialog.banner.title.text() == "1 prompt and 1 response imported"
    assert dialog.banner.detail.text().startswith("2 records could not be read")
    rejects = Path(dialog.banner.hint.text())
    assert [json.loads(line)["line"] for line in rejects.read_text().splitlines()] == [2, 3]
    click("import_sheet_cancel")
    closed(qtbot)


def test_unknown_columns_are_mapped_by_hand(
    page: DataPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    path = tmp_path / "fragen.csv"
    path.write_text("frage,antwort\nWas ist zwei und zwei?,Vier\n", "utf-8")
    page.import_file(path)
    dialog = sheet(ImportDialog)
    qtbot.waitUntil(dialog.preview.note.isVisible, timeout=SECOND)
    assert not dialog.start.isEnabled()
    dialog.preview.columns["prompt"].set_value("frage")
    dialog.preview.columns["completion"].set_value("antwort")
    qtbot.waitUntil(dialog.start.isEnabled, timeout=SECOND)
    click("import_start")
    closed(qtbot)
    assert project.rows.response(1).text == "Vier"
    assert project.rows.prompt(1).text == "Was ist zwei und zwei?"


@pytest.mark.parametrize(
    ("name", "content"),
    [("gone.jsonl", None), ("empty.jsonl", b""), ("picture.jsonl", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" * 20)],
)
def test_bad_files_are_explained_in_place(
    page: DataPage, tmp_path: Path, name: str, content: bytes | None, click: Click, qtbot: QtBot
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    page.import_file(path)
    dialog = sheet(ImportDialog)
    qtbot.waitUntil(dialog.banner.isVisible, timeout=SECOND)
    assert dialog.banner.title.text()
    assert not dialog.start.isEnabled()
    click("import_sheet_cancel")
    closed(qtbot)


def test_a_running_import_can_be_given_up(
    page: DataPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text("".join(f'{{"prompt": "question {i}"}}\n' for i in range(60_000)))
    page.import_file(path)
    dialog = sheet(ImportDialog)
    qtbot.waitUntil(dialog.start.isEnabled, timeout=SECOND)
    click("import_start")
    click("import_sheet_cancel")
    qtbot.waitUntil(dialog.banner.isVisible, timeout=60_000)
    assert dialog.banner.title.text() == "The import was cancelled"
    assert project.rows.counts() == {}
    click("import_sheet_cancel")
    closed(qtbot)


# ------------------------------------------------------------------------------------------------------ exporting
def test_rows_are_exported_in_a_fitting_format(
    page: DataPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    from kdstudio.project import NewResponse

    project.rows.add_prompts([NewPrompt([{"role": "user", "content": "hello"}])])
    project.rows.add_responses([NewResponse(1, "hi", status="accepted"), NewResponse(1, "no", status="rejected")])
    page.session.rows_changed.emit()
    page.show_kind("response")
    qtbot.waitUntil(page.toolbar.exporting.isEnabled, timeout=SECOND)
    click("data_export")
    dialog = sheet(ExportDialog)
    assert dialog.count.text().startswith("1 response to write")
    out = tmp_path / "out.jsonl"
    dialog.path.set_path(out)
    dialog.format.set_value("prompt_completion")
    click("export_start")
    qtbot.waitUntil(dialog.banner.isVisible, timeout=SECOND)
    assert dialog.banner.title.text() == "1 row written"
    record = json.loads(out.read_text())
    assert (record["prompt"], record["completion"]) == ("hello", "hi")
    dialog.status.set_value("pending")
    assert not dialog.start.isEnabled()
    click("export_sheet_cancel")
    closed(qtbot)


def test_only_fitting_formats_are_offered() -> None:
    assert formats_for("preference") == ("preference", "csv")
    assert "preference" not in formats_for("response")


def test_a_place_that_cannot_be_written_is_said(
    page: DataPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    project.rows.add_prompts([NewPrompt([{"role": "user", "content": "hello"}])])
    page.session.rows_changed.emit()
    (tmp_path / "a file").write_text("")
    dialog = ExportDialog(page.session, "prompt")
    qtbot.addWidget(dialog)
    dialog.show()
    dialog.path.set_path(tmp_path / "a file" / "out.jsonl")
    click("export_start")
    qtbot.waitUntil(dialog.banner.isVisible, timeout=SECOND)
    assert dialog.start.isEnabled()
