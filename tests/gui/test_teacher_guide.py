"""What the Teachers page tells a newcomer: what each kind can teach, its terms, what fits this machine, the ways on."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot

from kdstudio.models.discovery import DescribedModel, FoundModel
from kdstudio.models.spec import TeacherSpec
from kdstudio.project.teachers import StoredTeacher
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.teachers import TeachersPage
from kdstudio.ui.widgets.teacher_found import FoundRow
from kdstudio.ui.widgets.teacher_guide import ROWS, GuideCell, TeacherGuide
from kdstudio.ui.widgets.teacher_words import Mark, abilities_of
from tests.gui.conftest import Click, visible_widget

SECOND = 10_000


@pytest.fixture
def page(window: MainWindow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TeachersPage:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    window.show_page("teachers")
    shown = window.page("teachers")
    assert isinstance(shown, TeachersPage)
    return shown


def test_the_guide_is_there_before_the_first_teacher_and_leads_on_after_it(
    page: TeachersPage, window: MainWindow, click: Click, qtbot: QtBot
) -> None:
    qtbot.waitUntil(lambda: not page.guide.isVisible(), timeout=SECOND)  # the teachers are read in the background
    assert isinstance(visible_widget("teachers_guide"), TeacherGuide)
    project = window.session.project
    assert project is not None
    project.teachers.add(TeacherSpec("api", "openai", url="http://localhost:1/v1", model="m"))
    page.session.teachers_changed.emit()
    qtbot.waitUntil(page.guide.isVisible, timeout=SECOND)
    click("teachers_guide_train")
    assert window.stack.currentWidget() is window.page("train")
    window.show_page("teachers")
    click("teachers_guide_ask")
    assert window.stack.currentWidget() is window.page("data")
    visible_widget("generate_sheet").close()


def test_each_answer_of_the_guide_can_be_heard(page: TeachersPage) -> None:
    cells = page.guide.findChildren(GuideCell)
    assert len(cells) == 2 * len(ROWS)
    assert cells[5].accessibleName() == "A student matches its probabilities, An endpoint: it gives text alone"


@pytest.mark.parametrize(
    ("licence", "mark", "words"),
    [
        ("apache-2.0", "good", "Apache 2.0: you may train students"),
        ("cc-by-nc-4.0", "warn", "CC BY-NC 4.0: not for commercial use; students inherit that."),
        ("", "idle", "Terms not stated: read them before you share a student"),
        ("other", "warn", "other: read the model's terms before you train from it or share what you trained."),
    ],
)
def test_the_terms_of_a_teacher_are_among_what_it_can_do(licence: str, mark: Mark, words: str) -> None:
    stored = StoredTeacher(TeacherSpec("N", "gguf", path="/x"), {"license": licence}, "")
    terms = abilities_of(stored)[-1]
    assert (terms.mark, terms.words) == (mark, words)
    assert terms.more


def test_a_model_that_passes_this_machines_memory_is_said(qtbot: QtBot) -> None:
    for size, said in ((1 << 20, False), (1 << 50, True)):
        row = FoundRow(DescribedModel(FoundModel(Path("/x/a.gguf"), "a", size, "Ollama"), None), added=False)
        qtbot.addWidget(row)
        assert any("memory" in one.text() for one in row.findChildren(QLabel)) == said
