"""Generate on the Data page: gallery, form, trial, forecast, start, funnel; with real clicks, keys and jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLineEdit, QPlainTextEdit, QSpinBox
from pytestqt.qtbot import QtBot

from kdstudio.models.spec import TeacherSpec
from kdstudio.project import NewPrompt, Project
from kdstudio.recipe import ElicitationRecipe, load_recipe, recipe_hash, shipped_recipes
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.data import DataPage
from kdstudio.ui.recipe_offer import Offer
from kdstudio.ui.widgets.data_generate import GenerateDialog
from kdstudio.ui.widgets.funnel_rows import FallenSheet
from kdstudio.ui.widgets.recipe_form import RecipeForm
from tests.gui.conftest import Click, visible_widget

SECOND = 10_000
JOB = 60_000
REFUSAL = "I cannot help with that."
EVOL = """version = 1
[recipe]
id = "evol"
title = "Harder and harder"
family = "expansion"
purpose = "Makes a prompt harder."
methods = ["Evol-Instruct", "WizardLM"]
references = ["https://arxiv.org/abs/2304.12244"]
needs = ["prompts", "judge"]
not_for = "advice to patients"
[parameters.depth]
type = "integer"
default = 2
minimum = 1
maximum = 5
help = "How much harder."
[[step]]
type = "prompt"
user = "Make it {{ depth }} times harder: {{ prompt }}"
[[step]]
type = "sample"
max_tokens = 7
[[step]]
type = "score"
column = "answer"
rubric = "helpfulness"
[[step]]
type = "emit"
text = "answer"
"""


@pytest.fixture
def page(window: MainWindow) -> DataPage:
    window.show_page("data")
    shown = window.page("data")
    assert isinstance(shown, DataPage)
    return shown


@pytest.fixture
def project(window: MainWindow, tmp_path: Path) -> Project:
    """Eight prompts, a teacher that refuses one of them, and two recipe files, of which one is broken."""
    found = window.session.project
    assert found is not None
    found.rows.add_prompts(
        NewPrompt([{"role": "user", "content": f"prompt {i}"}], tags=["a" if i < 4 else "b"]) for i in range(8)
    )
    add_teacher(found, tmp_path, "Script")
    folder = found.folder / "recipes"
    folder.mkdir()
    (folder / "evol.toml").write_text(EVOL)
    (folder / "broken.toml").write_text('version = 1\n[recipe]\nid = "x"\ntitle = "X"\nnonsense = 1\n')
    window.session.rows_changed.emit()
    return found


def add_teacher(project: Project, folder: Path, name: str) -> None:
    script = folder / f"{name}.json"
    rules = [{"match": "prompt 2", "text": REFUSAL, "finish_reason": "length"}]
    script.write_text(json.dumps({"default": "An answer to {prompt}.", "rules": rules}))
    project.teachers.add(TeacherSpec(name, "scripted", path=str(script)))


def opened(page: DataPage, click: Click, qtbot: QtBot) -> GenerateDialog:
    """The dialog, with its gallery filled."""
    qtbot.waitUntil(page.toolbar.generate.isEnabled, timeout=SECOND)
    click("data_generate")
    found = [one for one in QApplication.topLevelWidgets() if isinstance(one, GenerateDialog) and one.isVisible()]
    assert found
    dialog = found[-1]
    qtbot.waitUntil(lambda: bool(dialog.gallery.shown), timeout=SECOND)
    return dialog


def type_into(name: str, text: str) -> None:
    """Replace what a line, a paragraph or a number says, by keys."""
    field = visible_widget(name)
    assert isinstance(field, QLineEdit | QPlainTextEdit | QSpinBox)
    field.setFocus()
    field.selectAll()
    QTest.keyClicks(field, text)


def closed(qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: QApplication.activeModalWidget() is None, timeout=SECOND)


def titles(dialog: GenerateDialog) -> list[str]:
    return [card.offered.title for card in dialog.gallery.shown]


# -------------------------------------------------------------------------------------------------------- gallery
def test_the_gallery_is_searched_by_task_method_or_paper(
    page: DataPage, project: Project, click: Click, qtbot: QtBot
) -> None:
    dialog = opened(page, click, qtbot)
    everything = len(dialog.gallery.shown)
    for text in ("WizardLM", "evol instruct", "EvolInstruct", "2304.12244", "makes harder"):
        type_into("gallery_search", text)
        assert "Harder and harder" in titles(dialog), text
    QTest.keyClick(visible_widget("gallery_search"), Qt.Key.Key_Escape)
    assert len(dialog.gallery.shown) == everything
    dialog.gallery.choose_family("mine")
    assert titles(dialog) == ["Harder and harder", "broken.toml"]
    type_into("gallery_search", "no such thing at all")
    assert "No recipe in Mine matches “no such thing at all”" in visible_widget("gallery_empty_sentence").text()  # type: ignore[attr-defined]
    click("gallery_empty_action")
    assert len(dialog.gallery.shown) == everything
    QTest.keyClick(visible_widget("gallery_search"), Qt.Key.Key_Escape)
    closed(qtbot)


def test_a_card_says_what_is_needed_with_what_there_is(
    page: DataPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    dialog = opened(page, click, qtbot)
    card = dialog.gallery.shown[0]
    assert [need.words for need in card.needs] == ["8 prompts", "needs a judge: only itself"]
    assert card.cost == "2 questions a row"
    assert "advice to patients" in card.accessibleDescription()
    add_teacher(project, tmp_path, "Second")
    page.session.teachers_changed.emit()
    qtbot.waitUntil(lambda: all(need.met for need in dialog.gallery.shown[0].needs), timeout=SECOND)
    QTest.keyClick(visible_widget("gallery_search"), Qt.Key.Key_Escape)


def test_arrows_enter_and_escape_go_through_the_gallery(
    page: DataPage, project: Project, click: Click, qtbot: QtBot
) -> None:
    dialog = opened(page, click, qtbot)
    QTest.keyClick(visible_widget("gallery_search"), Qt.Key.Key_Down)
    cards = visible_widget("gallery_cards")
    assert cards.hasFocus()
    QTest.keyClick(cards, Qt.Key.Key_Right)
    assert dialog.gallery.current() is dialog.gallery.shown[1]
    QTest.keyClick(cards, Qt.Key.Key_Return)
    assert dialog.stack.currentWidget() is dialog.gallery, "the broken one does not open"
    assert "nonsense (line 5)" in dialog.banner.detail.text()
    QTest.keyClick(cards, Qt.Key.Key_Left)
    QTest.keyClick(cards, Qt.Key.Key_Return)
    assert dialog.stack.currentWidget() is dialog.form
    assert dialog.title.text() == "Harder and harder"
    QTest.keyClick(dialog, Qt.Key.Key_Escape)
    assert dialog.stack.currentWidget() is dialog.gallery
    QTest.keyClick(cards, Qt.Key.Key_Up)
    assert visible_widget("gallery_search").hasFocus()
    QTest.keyClick(visible_widget("gallery_search"), Qt.Key.Key_Escape)
    closed(qtbot)


# ------------------------------------------------------------------------------------------------- the whole of it
def test_trial_forecast_run_funnel_and_the_rows_that_fell(
    page: DataPage, project: Project, click: Click, qtbot: QtBot
) -> None:
    dialog = opened(page, click, qtbot)
    click("recipe_card_answer")
    qtbot.waitUntil(dialog.try_.isEnabled, timeout=SECOND)
    said = dialog.form.count.text()
    assert said.startswith("Asks about 8 prompts that have no such answer yet: 8 questions, at most ")
    type_into("generate_max_tokens", "20")
    qtbot.waitUntil(lambda: "at most 160 tokens" in dialog.form.count.text(), timeout=SECOND)
    click("generate_try")
    qtbot.waitUntil(dialog.start.isEnabled, timeout=JOB)
    view = dialog.trial.view
    assert view.words.text() == "3 rows tried; the run would write 3, 1 of them rejected."
    assert [block.pill.word for block in view.blocks] == ["passed"] * 5
    click("trial_row_3")
    assert view.input.text() == "The row: prompt 2"
    assert [block.pill.word for block in view.blocks][3] == "fell"
    assert view.forecast.figures["rows"].text() == "8"
    assert view.forecast.figures["questions"].text() == "about 8"
    assert "nothing" in view.forecast.figures["money"].text()
    assert project.rows.counts() == {("prompt", "pending"): 8}, "a trial writes nothing"
    click("generate_start")
    closed(qtbot)
    qtbot.waitUntil(lambda: project.rows.counts().get(("response", "pending")) == 7, timeout=JOB)
    qtbot.waitUntil(lambda: page.query.kind == "response" and page.table.rows.rowCount() == 8, timeout=SECOND)
    assert project.rows.response(1).sampling["max_tokens"] == 20
    qtbot.waitUntil(lambda: page.funnel.pill.word == "finished", timeout=JOB)
    assert page.funnel.title.text() == "Answer by Script"
    assert visible_widget("funnel_figures_3").text() == "8 → 7"  # type: ignore[attr-defined]
    click("funnel_reason_3_0")
    sheet = next(one for one in QApplication.topLevelWidgets() if isinstance(one, FallenSheet) and one.isVisible())
    qtbot.waitUntil(lambda: sheet.list.count() == 1, timeout=SECOND)
    assert sheet.prompt.text() == "prompt 2"
    assert sheet.reason.text() == "cut off by the token limit"
    assert sheet.answer.toPlainText() == REFUSAL
    assert sheet.pill.word == "rejected"
    click("fallen_sheet_cancel")
    click("data_funnel_close")
    assert not page.funnel.isVisible()


def test_a_trial_that_fails_says_why_and_can_be_left(
    page: DataPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    (tmp_path / "Script.json").write_text("no script")
    dialog = opened(page, click, qtbot)
    click("recipe_card_answer")
    qtbot.waitUntil(dialog.try_.isEnabled, timeout=SECOND)
    click("generate_try")
    qtbot.waitUntil(dialog.banner.isVisible, timeout=JOB)
    assert dialog.banner.title.text()
    assert not dialog.start.isEnabled()
    click("generate_back")
    assert dialog.stack.currentWidget() is dialog.form
    click("generate_sheet_cancel")
    closed(qtbot)


# ---------------------------------------------------------------------------------------------------------- editing
def test_an_edited_recipe_is_kept_as_ones_own(page: DataPage, project: Project, click: Click, qtbot: QtBot) -> None:
    dialog = opened(page, click, qtbot)
    click("recipe_card_evol")
    qtbot.waitUntil(dialog.try_.isEnabled, timeout=SECOND)
    assert "{{ depth }}" in visible_widget("generate_variables_0").text().replace("\u00a0", " ")  # type: ignore[attr-defined]
    type_into("generate_prompt_0_user", "Make it hard: {{ promt }}")
    qtbot.waitUntil(lambda: "reads 'promt'" in dialog.form.count.text(), timeout=SECOND)
    assert not dialog.try_.isEnabled()
    click("generate_save")
    assert dialog.banner.title.text() == "The recipe reads what is not there"
    assert "line 29, step 1 (prompt)" in dialog.banner.detail.text()
    type_into("generate_prompt_0_user", "Make it hard: ")
    dialog.form.settings.prompts[0][1].insert("{{ prompt }}")  # type: ignore[union-attr]
    type_into("generate_parameter_depth", "4")
    click("generate_save")
    type_into("save_recipe_name", "...")
    assert not visible_widget("save_recipe_start").isEnabled()
    type_into("save_recipe_name", "Our own: hard")
    click("save_recipe_start")
    kept = load_recipe(project.folder / "recipes" / "our_own_hard.toml", ElicitationRecipe)
    assert kept.step[0].user == "Make it hard: {{ prompt }}"  # type: ignore[union-attr]
    assert (kept.recipe.title, kept.parameters["depth"].default) == ("Our own: hard", 4)
    assert dialog.title.text() == "Our own: hard"
    click("generate_back")
    dialog.gallery.choose_family("mine")
    qtbot.waitUntil(lambda: titles(dialog) == ["Harder and harder", "Our own: hard", "broken.toml"], timeout=SECOND)
    click("generate_sheet_cancel")
    closed(qtbot)


def test_a_recipe_as_text_names_the_line_at_fault(page: DataPage, project: Project, click: Click, qtbot: QtBot) -> None:
    dialog = opened(page, click, qtbot)
    click("recipe_card_evol")
    click("generate_as_text")
    text = visible_widget("recipe_text")
    assert isinstance(text, QPlainTextEdit)
    before = text.toPlainText()
    text.setPlainText(before.replace("max_tokens = 7", "max_tokens = 700000"))
    line = next(n for n, words in enumerate(text.toPlainText().splitlines(), 1) if "700000" in words)
    assert f"max_tokens (line {line})" in dialog.form.text.fault.text()
    click("recipe_text_go")
    assert text.textCursor().blockNumber() == line - 1
    qtbot.waitUntil(lambda: "max_tokens" in dialog.form.count.text(), timeout=SECOND)
    assert not dialog.try_.isEnabled()
    click("generate_as_text")
    assert dialog.form.stack.currentWidget() is dialog.form.text, "a text that is no recipe stays open"
    text.setPlainText(before.replace("max_tokens = 7", "max_tokens = 9"))
    click("generate_as_text")
    tokens = visible_widget("generate_max_tokens")
    assert isinstance(tokens, QSpinBox)
    assert tokens.value() == 9
    qtbot.waitUntil(dialog.try_.isEnabled, timeout=SECOND)
    click("generate_sheet_cancel")
    closed(qtbot)


def test_who_speaks_reaches_the_job(
    page: DataPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    add_teacher(project, tmp_path, "Second")
    project.teachers.add(TeacherSpec("Hosted", "openai", url="http://localhost:1/v1", model="m", key_name="k"))
    dialog = opened(page, click, qtbot)
    click("recipe_card_evol")
    qtbot.waitUntil(dialog.try_.isEnabled, timeout=SECOND)
    assert visible_widget("generate_skip").isEnabled(), "on this machine a trial is a choice"
    speakers = dialog.form.speakers
    first = speakers.teacher.value()
    others = [name for name in ("Script", "Second", "Hosted") if name != first]
    speakers.judge.set_value("Second")
    assert dialog.launch().parameters["judge"]["name"] == "Second"
    for name in others:
        speakers.tick(name)
    speakers.share.set_value("all")
    launch = dialog.launch()
    assert launch.parameters["teachers"][0]["name"] == first
    assert {spec["name"] for spec in launch.parameters["teachers"]} == {"Script", "Second", "Hosted"}
    assert (launch.parameters["share"], launch.parameters["default"]) == ("all", first)
    assert launch.key_names == ("k",)
    qtbot.waitUntil(lambda: not dialog.skip.isVisible(), timeout=SECOND)
    click("generate_sheet_cancel")
    closed(qtbot)


# --------------------------------------------------------------------------------------------------------- bad input
def test_without_a_teacher_the_way_to_one_is_shown(
    page: DataPage, window: MainWindow, click: Click, qtbot: QtBot
) -> None:
    dialog = opened(page, click, qtbot)
    qtbot.waitUntil(dialog.banner.isVisible, timeout=SECOND)
    click("recipe_card_answer")
    qtbot.waitUntil(lambda: "There is no teacher yet" in dialog.form.count.text(), timeout=SECOND)
    assert not dialog.try_.isEnabled()
    assert dialog.form.needs.text() == "Needs prompts: none yet"
    click("generate_sheet_banner_action")
    closed(qtbot)
    assert window.stack.currentWidget() is window.page("teachers")


def test_documents_are_chosen_and_missed(
    page: DataPage, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    own = tmp_path / "docs.toml"
    own.write_text(
        'version = 1\n[recipe]\nid = "docs"\ntitle = "Docs"\nneeds = ["documents"]\n[input]\nsource = "documents"\n'
        '[parameters.documents]\ntype = "files"\nhelp = "Files."\n[[step]]\ntype = "chunk"\n'
        '[[step]]\ntype = "prompt"\nuser = "Ask about {{ passage }}"\n[[step]]\ntype = "sample"\n'
        '[[step]]\ntype = "emit"\nkind = "prompt"\ntext = "answer"\n'
    )
    dialog = opened(page, click, qtbot)
    dialog.take_recipe(own)
    qtbot.waitUntil(lambda: dialog.form.count.text() == "Choose documents first.", timeout=SECOND)
    assert not dialog.try_.isEnabled()
    type_into("generate_parameter_documents", str(tmp_path / "gone.txt"))
    qtbot.waitUntil(lambda: "A document is not there" in dialog.form.count.text(), timeout=SECOND)
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.md", "c.png"):
        (tmp_path / "texts" / name).write_text(f"Whales are mammals, says {name}.")
    type_into("generate_parameter_documents", str(tmp_path / "texts"))
    qtbot.waitUntil(lambda: "2 documents" in dialog.form.count.text(), timeout=SECOND)
    click("generate_skip")
    closed(qtbot)
    qtbot.waitUntil(lambda: project.rows.counts().get(("prompt", "pending")) == 10, timeout=JOB)
    assert page.query.kind == "prompt"
    qtbot.waitUntil(lambda: page.funnel.pill.word == "finished", timeout=JOB)


# ------------------------------------------------------------------------------------------------- all that is shipped
def check_untouched(recipes: dict[str, ElicitationRecipe], qtbot: QtBot) -> None:
    """Untouched forms, and the recipe as text, give the recipe whose hash the command line has too."""
    form = RecipeForm()
    qtbot.addWidget(form)
    for key, recipe in recipes.items():
        QApplication.processEvents()
        form.show_recipe(recipe, Offer())
        assert recipe_hash(form.recipe()) == recipe_hash(recipe), key
        form.as_text.setChecked(True)
        assert form.stack.currentWidget() is form.text, form.count.text()
        assert recipe_hash(form.recipe()) == recipe_hash(recipe), key
        form.as_text.setChecked(False)
        assert form.stack.currentWidget() is not form.text, form.count.text()


def test_a_recipe_is_not_changed_by_looking(qtbot: QtBot) -> None:
    shipped = shipped_recipes()
    check_untouched({key: shipped[key] for key in ("answer", "chain_of_thought", "pairwise_preference")}, qtbot)


@pytest.mark.slow
def test_no_shipped_recipe_is_changed_by_looking(qtbot: QtBot) -> None:
    check_untouched(shipped_recipes(), qtbot)
