"""What a run says on the way: how documents were read, which rows a step was not for, what could not be used."""

from __future__ import annotations

import json
from pathlib import Path

from PySide6.QtWidgets import QLabel, QWidget
from pytestqt.qtbot import QtBot

from kdstudio.jobs.events import Traced
from kdstudio.models.spec import TeacherSpec
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.data import DataPage
from kdstudio.ui.widgets.recipe_trial import TrialView
from tests.gui.conftest import Click, visible_widget
from tests.gui.test_generate import JOB, SECOND, opened
from tests.unit.elicitation.document_files import encrypted_pdf

RECIPE = """version = 1
[recipe]
id = "read"
title = "Read"
family = "curation"
[input]
source = "documents"
[parameters.documents]
type = "files"
default = '{documents}'
help = "x"
[[step]]
type = "prompt"
start = ""
user = "What is {{{{ title }}}} about?"
[[step]]
type = "sample"
[[step]]
type = "prompt"
when = "'whales' in text"
text = "{{{{ answer }}}} Whales!"
into = "answer"
[[step]]
type = "emit"
kind = "prompt"
text = "answer"
"""


def test_notes_of_documents_stand_below_the_funnel(
    window: MainWindow, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "a.txt").write_bytes("très bien".encode("latin-1"))
    (documents / "b.pdf").write_bytes(encrypted_pdf("secret", "nobody knows"))
    (documents / "c.md").write_text("Of whales.")
    project = window.session.project
    assert project is not None
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"default": "What of {prompt}"}))
    project.teachers.add(TeacherSpec("Script", "scripted", path=str(script)))
    (project.folder / "recipes").mkdir()
    (project.folder / "recipes" / "read.toml").write_text(RECIPE.format(documents=documents))
    window.session.rows_changed.emit()
    window.show_page("data")
    page = window.page("data")
    assert isinstance(page, DataPage)
    dialog = opened(page, click, qtbot)
    dialog.gallery.choose_family("mine")
    click("recipe_card_read")
    qtbot.waitUntil(dialog.try_.isEnabled, timeout=SECOND)
    assert visible_widget("generate_prompt_2_when").value() == "'whales' in text"  # type: ignore[attr-defined]
    click("generate_skip")
    qtbot.waitUntil(lambda: page.funnel.pill.word == "finished", timeout=JOB)
    qtbot.waitUntil(lambda: "Latin-1" in page.funnel.said.text(), timeout=SECOND)
    qtbot.waitUntil(lambda: [step["type"] for step in page.funnel.view.steps][:1] == ["input"], timeout=SECOND)
    qtbot.waitUntil(lambda: page.funnel.view.steps[3].get("passed_by") == 1, timeout=SECOND)
    qtbot.waitUntil(lambda: _texts(page.funnel, "funnel_by_3") == ["1 passed by"], timeout=SECOND)
    assert "b.pdf" in page.funnel.view.lines[0].buttons[0].text()


def test_a_trial_shows_them_and_which_steps_were_passed_by(qtbot: QtBot) -> None:
    view = TrialView()
    qtbot.addWidget(view)
    view.begin(())
    for trace in (Traced("d1", -1, "input", {"notes": "scanned"}), Traced("d1", 0, "prompt", {}, by=True)):
        view.record.add(trace)
    view.follow({})
    assert [(block.place[1], block.pill.word) for block in view.blocks] == [(-1, "passed"), (0, "passed by")]


def _texts(funnel: QWidget, name: str) -> list[str]:
    """What the visible labels of that name say: the funnel makes its lines anew as the run goes on."""
    return [label.text() for label in funnel.findChildren(QLabel, name) if label.isVisible()]
