"""What the student learns, with real clicks: three presets, all else behind "More ways", and why some are closed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QComboBox, QLabel, QLineEdit, QWidget
from pytestqt.qtbot import QtBot

from kdstudio.catalogue.objectives import OBJECTIVES
from kdstudio.errors import BadInput
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import NewPreference, NewPrompt
from kdstudio.project.content import Status
from kdstudio.recipe import TrainingRecipe
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.train import TrainPage
from kdstudio.ui.training_choice import FAMILIES, finds
from kdstudio.ui.training_presets import PRESETS
from kdstudio.ui.widgets.objective_list import ObjectiveList
from kdstudio.ui.widgets.train_learning import LearningCard
from tests.gui.conftest import Click
from tests.tiny import tiny_gguf


@pytest.fixture
def page(window: MainWindow, tmp_path: Path, qtbot: QtBot) -> TrainPage:
    """The forms of a new run, with a tiny local teacher and one behind an API."""
    project = window.session.project
    assert project is not None
    project.teachers.add(TeacherSpec("tiny", "gguf", path=str(tiny_gguf(tmp_path / "tiny.gguf"))))
    project.teachers.add(TeacherSpec("remote", "openai", url="http://127.0.0.1:1/v1", model="m"))
    window.session.teachers_changed.emit()
    window.resize(1400, 900)
    window.show_page("train", {"new": True})
    made = window.page("train")
    assert isinstance(made, TrainPage)
    counted(made, qtbot)
    return made


def counted(page: TrainPage, qtbot: QtBot) -> None:
    """Wait until the rows were looked at."""
    qtbot.waitUntil(lambda: page.setup.learning.situation.preferences is not None, timeout=10_000)


def opened(page: TrainPage, click: Click) -> ObjectiveList:
    """All objectives, behind "More ways"."""
    if not page.setup.learning.more.isChecked():
        click("train_more_ways")
    found = page.setup.learning.objectives
    assert found is not None
    return found


def names(page: TrainPage) -> list[str]:
    return [str(table["name"]) for table in page.setup.learning.tables()["objective"]]


def prefer(page: TrainPage, status: Status, qtbot: QtBot) -> None:
    """Add three preferences and let the page count them."""
    project = page.session.project
    assert project is not None
    project.rows.add_prompts(NewPrompt([{"role": "user", "content": f"thing {n}"}]) for n in range(3))
    project.rows.add_preferences(
        NewPreference(n + 1, ["good", f"bad {n}"], [1.0, 0.0], status=status) for n in range(3)
    )
    page.session.rows_changed.emit()
    learning = page.setup.learning

    def seen() -> bool:
        return 3 in (learning.situation.preferences, learning.situation.waiting)

    qtbot.waitUntil(seen, timeout=10_000)


# --------------------------------------------------------------------------------------------------------- presets
@pytest.mark.parametrize(
    ("key", "objective", "share"),
    [("imitate", "supervised", 0.0), ("match", "forward_kl", 0.0), ("practise", "jensen_shannon", 0.5)],
)
def test_a_preset_is_a_recipe(page: TrainPage, click: Click, key: str, objective: str, share: float) -> None:
    click(f"preset_{key}")
    recipe = page.setup.recipe()
    assert [table.name for table in recipe.objective] == [objective]
    assert recipe.rollout.share == share
    assert page.setup.learning.presets.chosen() == key
    assert page.setup.learning.rollout.isVisible() == (key == "practise")
    if key == "practise":
        assert recipe.objective[0].parameters["beta"] == 0.5
        assert (recipe.rollout.samples, recipe.teacher.signals) == (1, "dense")


def test_a_preset_is_chosen_by_a_click_anywhere_on_its_card_and_by_key(page: TrainPage, qtbot: QtBot) -> None:
    page.window().activateWindow()
    qtbot.waitUntil(lambda: page.window().isActiveWindow(), timeout=5_000)
    card = page.setup.learning.presets.cards["imitate"]
    QTest.mouseClick(card.when, Qt.MouseButton.LeftButton)
    assert names(page) == ["supervised"]
    QTest.keyClick(card.choose, Qt.Key.Key_Right)
    assert names(page) == ["forward_kl"]


def test_every_preset_says_when_to_use_it_and_its_paper(page: TrainPage) -> None:
    for preset in PRESETS:
        card = page.setup.learning.presets.cards[preset.key]
        assert card.when.isVisible()
        assert card.when.text() == preset.when
        assert card.paper.text().startswith("arxiv.org/abs/")
    assert page.setup.learning.objectives is None, "nothing else is built before it is asked for"


def test_practising_lets_the_teacher_run_and_gives_the_choice_back(page: TrainPage, click: Click) -> None:
    learning = page.setup.learning
    learning.signals.set_values({"signals": "stored", "top_k": 20})
    assert learning.notice.isHidden()
    click("preset_practise")
    assert learning.tables()["teacher"] == {"signals": "dense", "top_k": 20, "tail": "bucket"}
    assert "dense" in learning.notice.text()
    assert learning.notice.isVisible()
    assert not learning.signals.fields["signals"].isEnabled()
    click("preset_match")
    assert learning.tables()["teacher"] == {"signals": "stored", "top_k": 20, "tail": "bucket"}
    assert learning.signals.fields["signals"].isEnabled()


# ------------------------------------------------------------------------------------------------------------ more
def test_more_holds_every_objective_under_its_family(page: TrainPage, click: Click) -> None:
    found = opened(page, click)
    assert set(found.choices) == set(OBJECTIVES.keys())
    said = {label.text() for label in found.findChildren(QLabel)}
    assert set(FAMILIES.values()) <= said
    for entry in OBJECTIVES:
        choice = found.choices[entry.key]
        assert (choice.when.text(), choice.entry.family in FAMILIES) == (entry.when, True)
        assert choice.paper.text()
    click("train_more_ways")
    assert not found.isVisible()


def test_a_method_is_found_by_its_name_and_chosen(page: TrainPage, click: Click) -> None:
    found = opened(page, click)
    QTest.keyClicks(found.search, "MiniLLM")
    assert found.choices["minillm"].isVisible()
    assert not found.choices["dpo"].isVisible()
    click("preset_imitate")
    click("objective_minillm_choose")
    assert names(page) == ["supervised", "minillm"]
    learning = page.setup.learning
    assert learning.presets.chosen() == ""
    assert learning.mix.isVisible()
    assert learning.mix.text() == "Your own mix"
    assert learning.rollout.isVisible()
    assert not learning.reward.isVisible()
    recipe = page.setup.recipe()
    assert recipe.teacher.signals == "dense"
    click("objective_minillm_choose")
    assert learning.presets.chosen() == "imitate"


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("WizardLM", "supervised"),
        ("zephyr", "dpo"),
        ("GOLD", "byte_aligned"),
        ("much smaller", "reverse_kl"),
        ("grpo", "grpo"),
    ],
)
def test_label_key_purpose_and_methods_are_searched(words: str, key: str) -> None:
    assert finds(OBJECTIVES[key], words)
    assert not all(finds(entry, words) for entry in OBJECTIVES)


def test_the_search_says_why_and_that_nothing_was_found(page: TrainPage, click: Click) -> None:
    found = opened(page, click)
    QTest.keyClicks(found.search, "WizardLM")
    assert "WizardLM" in found.choices["supervised"].methods.text()
    assert found.choices["supervised"].methods.isVisible()
    QTest.keyClicks(found.search, "x")
    assert found.nothing.isVisible()
    found.search.clear()
    assert all(choice.isVisibleTo(found) for choice in found.choices.values())
    assert not found.nothing.isVisible()


def test_several_objectives_are_weighed(page: TrainPage, click: Click) -> None:
    opened(page, click)
    click("objective_hidden_mse_choose")
    weight = page.findChild(QWidget, "objective_hidden_mse_weight")
    assert weight is not None
    weight.setProperty("value", 0.25)
    layers = page.findChild(QLineEdit, "objective_hidden_mse_parameters_student_layers")
    assert layers is not None
    QTest.keyClicks(layers, "1, -1")
    recipe = page.setup.recipe()
    assert [(table.name, table.weight) for table in recipe.objective] == [("forward_kl", 1.0), ("hidden_mse", 0.25)]
    assert recipe.objective[1].parameters["student_layers"] == "1, -1"
    click("objective_forward_kl_leave_out")
    assert names(page) == ["hidden_mse"]
    click("objective_hidden_mse_leave_out")
    assert "at least one" in page.setup.learning.fault.text()
    with pytest.raises(BadInput, match="Nothing to learn"):
        page.setup.recipe()


def test_a_changed_parameter_makes_a_preset_ones_own(page: TrainPage, click: Click) -> None:
    opened(page, click)
    temperature = page.findChild(QWidget, "objective_forward_kl_parameters_temperature")
    assert temperature is not None
    temperature.setProperty("value", 2.0)
    assert page.setup.learning.presets.chosen() == ""
    temperature.setProperty("value", 1.0)
    assert page.setup.learning.presets.chosen() == "match"


def test_any_mix_can_practise_too(page: TrainPage, click: Click) -> None:
    opened(page, click)
    click("train_rollout_use")
    recipe = page.setup.recipe()
    assert (recipe.rollout.share, recipe.teacher.signals) == (0.5, "dense")
    assert page.setup.learning.presets.chosen() == ""
    assert page.setup.learning.rollout.isVisible()
    click("train_rollout_use")
    assert page.setup.recipe().rollout.share == 0.0
    assert page.setup.learning.presets.chosen() == "match"


def test_a_reward_has_its_own_form(page: TrainPage, click: Click) -> None:
    opened(page, click)
    click("objective_forward_kl_choose")
    click("objective_grpo_choose")
    learning = page.setup.learning
    assert learning.reward.isVisible()
    assert page.setup.recipe().rollout.samples > 1, "answers to one prompt are compared"
    kind = learning.reward.form.fields["kind"]
    assert isinstance(kind, QComboBox)
    for key, field in (
        ("judge", "rubric"),
        ("length", "target_tokens"),
        ("pattern", "pattern"),
        ("reward_model", "run"),
    ):
        kind.setCurrentIndex(kind.findData(key))
        shown = [name for name, editor in learning.reward.form.fields.items() if editor.isVisible()]
        assert shown == ["kind", field]
        assert (learning.tables()["teacher"]["signals"] == "dense") or key != "judge"


def test_runs_with_a_reward_model_are_offered(page: TrainPage) -> None:
    project = page.session.project
    assert project is not None
    run_id = project.runs.add("train", "Taste", {"recipe": {"objective": [{"name": "reward_model"}]}})
    project.runs.set_state(run_id, "finished")
    other = project.runs.add("train", "Other", {"recipe": {"objective": [{"name": "forward_kl"}]}})
    project.runs.set_state(other, "finished")
    page.session.run_changed.emit(run_id)
    runs = page.setup.learning.reward.runs
    assert [runs.itemData(row) for row in range(runs.count())] == ["", run_id]


# ------------------------------------------------------------------------------------------- what cannot be used now
def test_without_preferences_dpo_is_closed_in_words(page: TrainPage, click: Click, qtbot: QtBot) -> None:
    dpo = opened(page, click).choices["dpo"]
    assert not dpo.choose.isEnabled()
    assert "the project has none" in dpo.obstacle.text()
    assert dpo.obstacle.isVisibleTo(dpo)
    prefer(page, "pending", qtbot)
    assert not dpo.choose.isEnabled()
    assert "of the project’s 3 none is accepted" in dpo.obstacle.text()


def test_preferences_take_the_place_of_rows(page: TrainPage, click: Click, qtbot: QtBot) -> None:
    prefer(page, "accepted", qtbot)
    found = opened(page, click)
    QTest.keyClicks(found.search, "dpo")
    click("objective_dpo_choose")
    assert names(page) == ["dpo"], "the preset gave way"
    assert page.setup.recipe().rollout.share == 0.0
    found.search.clear()
    for key, free in (("simpo", True), ("reward_model", True), ("supervised", False), ("forward_kl", False)):
        assert found.choices[key].choose.isEnabled() == free, key
    assert "Prefer (DPO) reads preferences" in found.choices["supervised"].obstacle.text()
    QTest.keyClicks(found.search, "simpo")
    click("objective_simpo_choose")
    assert names(page) == ["dpo", "simpo"]
    click("preset_match")
    found.search.clear()
    QTest.keyClicks(found.search, "adaptive")
    click("objective_adaptive_kl_choose")
    assert "Match (forward KL) reads single answers" in found.choices["dpo"].obstacle.text()


def test_an_api_teacher_closes_what_it_cannot_give(page: TrainPage, click: Click) -> None:
    page.setup.teacher.setCurrentText("remote")
    learning = page.setup.learning
    assert names(page) == ["supervised"]
    assert learning.presets.chosen() == "imitate"
    for key in ("match", "practise"):
        card = learning.presets.cards[key]
        assert not card.choose.isEnabled()
        assert "remote does not offer" in card.obstacle.text()
    found = opened(page, click)
    for entry in OBJECTIVES:
        closed = not found.choices[entry.key].choose.isEnabled()
        assert closed == bool(found.choices[entry.key].obstacle.text()), entry.key
    assert not found.choices["hidden_mse"].choose.isEnabled()
    assert found.choices["spin"].choose.isEnabled()
    page.setup.teacher.setCurrentText("tiny")
    assert learning.presets.cards["match"].choose.isEnabled()


def test_what_a_recipe_asks_of_an_api_teacher_is_kept_and_refused(page: TrainPage, click: Click) -> None:
    recipe = TrainingRecipe.model_validate({"teacher": {"name": "remote"}, "objective": [{"name": "reverse_kl"}]})
    page.setup.show_recipe(recipe)
    assert page.setup.recipe() == recipe
    assert "remote does not offer" in page.setup.learning.parts.parts[0].obstacle.text()
    click("train_start")
    assert page.banner.isVisible()
    assert "remote does not offer" in page.banner.detail.text()
    assert page.session.runs("train") == []


# ---------------------------------------------------------------------------------------------------------- the card
@pytest.mark.parametrize("width", [1100, 1280, 1500])
def test_nothing_is_cut_off(page: TrainPage, window: MainWindow, click: Click, qtbot: QtBot, width: int) -> None:
    opened(page, click)
    click("objective_grpo_choose")
    window.resize(width, 800)
    qtbot.wait(50)
    learning: LearningCard = page.setup.learning
    inside = page.setup.width()
    for part in (learning, learning.rollout, learning.reward, page.setup.who):
        assert part.mapTo(page.setup, part.rect().topRight()).x() <= inside
    for card in learning.presets.cards.values():
        assert card.choose.sizeHint().width() <= card.width()
        assert card.when.height() >= card.when.heightForWidth(card.when.width())
    found = opened(page, click)
    for choice in found.choices.values():
        assert choice.when.height() >= choice.when.heightForWidth(choice.when.width()), choice.entry.key
        assert choice.choose.width() >= choice.choose.sizeHint().width(), choice.entry.key


# --------------------------------------------------------------------------------------------------------- signals
def test_the_captured_mass_of_stored_signals_is_shown(page: TrainPage, qtbot: QtBot) -> None:
    project, learning = page.session.project, page.setup.learning
    assert project is not None
    assert "all of it" in learning.captured.text()
    learning.signals.set_values({"signals": "stored", "top_k": 50})
    assert "not known yet" in learning.captured.text()
    for mass, depth in ((0.5, 8), (0.9734, 50)):
        run = project.runs.add("signals", "Signals", {"teacher": {"name": "tiny"}, "top_k": depth, "draws": 0})
        project.runs.set_state(run, "finished", result={"rows": 3, "tokens": 1200, "captured_mass": mass})
        page.session.run_changed.emit(run)
    assert learning.captured.text().startswith("Captured mass: 97.3 %")
    assert learning.captured.isVisible()
    learning.signals.set_values({"signals": "stored", "top_k": 8})
    assert "50.0 %" in learning.captured.text()
    assert learning.captured.property("role") == "warn"
