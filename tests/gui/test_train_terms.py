"""Training on rows with restricted terms: shown before it starts, and not started without a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from kdstudio.models.spec import TeacherSpec
from kdstudio.models.terms_summary import REASON, RESTRICTED_NAMES
from kdstudio.project import NewPrompt, NewResponse, Project
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.train import TrainPage
from kdstudio.ui.session import ACTIVE_STATES
from tests.gui.conftest import Click
from tests.tiny import tiny_gguf

SOON, LONG = 20_000, 120_000


@pytest.fixture
def project(window: MainWindow, tmp_path: Path) -> Project:
    found = window.session.project
    assert found is not None
    found.teachers.add(TeacherSpec("tiny", "gguf", path=str(tiny_gguf(tmp_path / "tiny.gguf"))))
    found.rows.add_prompts(NewPrompt([{"role": "user", "content": f"thing {n}"}]) for n in range(12))
    found.rows.add_responses(
        NewResponse(n + 1, f"a story of {n}", teacher="gpt", status="accepted", terms="openai" if n < 5 else "mit")
        for n in range(12)
    )
    window.session.rows_changed.emit()
    window.session.teachers_changed.emit()
    return found


def opened(window: MainWindow) -> TrainPage:
    window.show_page("train")
    page = window.page("train")
    assert isinstance(page, TrainPage)
    return page


def test_restricted_terms_are_shown_and_ask_for_a_reason(
    window: MainWindow, project: Project, click: Click, qtbot: QtBot
) -> None:
    page = opened(window)
    qtbot.waitUntil(page.terms.isVisible, timeout=SOON)
    assert "5 rows by gpt" in page.terms.words.text()
    assert "https://" in page.terms.words.text()
    click("train_start")
    qtbot.waitUntil(page.banner.isVisible, timeout=SOON)
    assert page.banner.title.text() == "These rows have terms of use"
    assert not project.runs.list("train")
    qtbot.waitUntil(page.start.isEnabled, timeout=SOON)
    QTest.keyClicks(page.terms.reason, "Our contract allows it.")
    click("train_start")
    qtbot.waitUntil(lambda: bool(project.runs.list("train")), timeout=SOON)
    run = project.runs.list("train")[0]
    assert run.parameters[REASON] == "Our contract allows it."
    assert run.parameters[RESTRICTED_NAMES] == ["openai"]
    page.session.stop(run.id)
    qtbot.waitUntil(lambda: project.runs.get(run.id).state not in ACTIVE_STATES, timeout=LONG)


def test_free_terms_ask_for_nothing(window: MainWindow, project: Project, qtbot: QtBot) -> None:
    page = opened(window)
    qtbot.waitUntil(page.terms.isVisible, timeout=SOON)
    project.rows.set_status("response", range(1, 6), "rejected")
    window.session.rows_changed.emit()
    qtbot.waitUntil(lambda: not page.terms.isVisible(), timeout=SOON)
