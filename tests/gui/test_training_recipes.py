"""Recipes through the forms of the Train page and back: nothing of them is lost, and what stands out is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QComboBox
from pytestqt.qtbot import QtBot

from kdstudio.catalogue.objectives import OBJECTIVES
from kdstudio.models.spec import TeacherSpec
from kdstudio.recipe import TrainingRecipe, load_recipe, recipe_hash, shipped_training_recipes, to_toml
from kdstudio.registry import parameters_of
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.train import TrainPage
from kdstudio.ui.training_choice import FAMILIES
from kdstudio.ui.training_presets import PRESETS
from kdstudio.ui.widgets.train_recipes import TrainingRecipesSheet, paper_of
from tests.gui.conftest import Click, visible_widget
from tests.tiny import tiny_gguf


@pytest.fixture
def page(window: MainWindow, tmp_path: Path) -> TrainPage:
    """The forms of a new run in a project with one local teacher."""
    project = window.session.project
    assert project is not None
    project.teachers.add(TeacherSpec("tiny", "gguf", path=str(tiny_gguf(tmp_path / "tiny.gguf"))))
    window.session.teachers_changed.emit()
    window.show_page("train", {"new": True})
    made = window.page("train")
    assert isinstance(made, TrainPage)
    return made


def through(page: TrainPage, recipe: TrainingRecipe, folder: Path) -> TrainingRecipe:
    """Open a recipe from a file, save what the forms say, read that."""
    written, saved = folder / "written.toml", folder / "saved.toml"
    written.write_text(to_toml(recipe), "utf-8")
    page.load_recipe(written)
    assert not page.banner.isVisible(), page.banner.detail.text()
    page.save_recipe(saved)
    return load_recipe(saved, TrainingRecipe)


def unlike(model: type[BaseModel]) -> dict[str, Any]:
    """For every field of a model a value that is not its default."""
    made: dict[str, Any] = {}
    for field in parameters_of(model):
        low = field.minimum or 0.0
        high = low + 3 if field.maximum is None else field.maximum
        match field.kind:
            case "int":
                made[field.name] = int(low) + 2 if int(low) + 2 != field.default else int(low) + 3
            case "float":
                made[field.name] = low + (high - low) / 3
            case "bool":
                made[field.name] = not field.default
            case "choice":
                made[field.name] = next(choice for choice in field.choices if choice != field.default)
            case "str":
                made[field.name] = "other"
    return made


def everything() -> TrainingRecipe:
    """A recipe in which no key has its default."""
    tables = {
        name: unlike(type(table))
        for name, table in TrainingRecipe()
        if isinstance(table, BaseModel) and name not in ("recipe", "export")
    }
    header = {"title": "All other", "purpose": "p", "methods": ["m"], "references": ["r"], "needs": ["n"]}
    return TrainingRecipe.model_validate(
        {
            "version": 1,
            **tables,
            "recipe": {"id": "all_other", "family": "f", **header},
            "student": {**tables["student"], "layers": [0, 2], "source": "fresh"},
            "teacher": {"name": "tiny", "signals": "dense", "top_k": 7, "tail": "shaped"},
            "objective": [
                {"name": "hidden_mse", "weight": 1 / 3, "parameters": {"student_layers": "1, -1"}},
                {"name": "forward_kl", "weight": 0.1 + 0.2, "parameters": {"temperature": 2.5}},
                {"name": "forward_kl", "weight": 2.0},
            ],
            "export": {"quantizations": ["Q4_K_M"], "name": "other"},
        }
    )


def test_no_key_of_a_recipe_is_lost(page: TrainPage, tmp_path: Path, qtbot: QtBot) -> None:
    recipe = everything()
    assert through(page, recipe, tmp_path) == recipe
    qtbot.wait(600)  # whatever is looked up behind must not write into the forms
    assert recipe_hash(page.setup.recipe()) == recipe_hash(recipe)
    plain = TrainingRecipe.model_validate({"teacher": {"name": "tiny"}})
    assert through(page, plain, tmp_path) == plain, "nothing of the one before is left"


@pytest.mark.parametrize("source", ["teacher", "folder", "fresh"])
def test_a_students_path_is_kept(page: TrainPage, tmp_path: Path, source: str) -> None:
    table = {"source": source, "path": "~/models/small", "layer_count": 3}
    recipe = TrainingRecipe.model_validate({"student": table, "teacher": {"name": "tiny"}})
    assert through(page, recipe, tmp_path) == recipe


def test_another_source_forgets_what_it_has_no_use_for(page: TrainPage) -> None:
    page.setup.student.set_values({"refit": True, "layer_count": 2})
    page.setup.who.source.set_values({"source": "fresh"})
    table = page.setup.recipe().student
    assert (table.source, table.refit, table.layer_count) == ("fresh", False, 2)


def test_shipped_recipes_come_back(page: TrainPage, tmp_path: Path) -> None:
    for shipped in shipped_training_recipes().values():
        recipe = shipped.model_copy(update={"teacher": shipped.teacher.model_copy(update={"name": "tiny"})})
        found = through(page, recipe, tmp_path)
        if found.teacher.signals == "dense":  # a recipe need not say so where its objectives leave no choice
            recipe = recipe.model_copy(update={"teacher": found.teacher})
        assert found == recipe, recipe.recipe.id


def test_all_objectives_together_come_back(page: TrainPage, tmp_path: Path) -> None:
    tables: list[dict[str, Any]] = []
    for entry in OBJECTIVES:
        other = {name: "2, -1" if name.endswith("_layers") else value for name, value in unlike(entry.params).items()}
        tables.append({"name": entry.key, "weight": 0.5, "parameters": other})
    recipe = TrainingRecipe.model_validate({"objective": tables, "teacher": {"name": "tiny", "signals": "dense"}})
    assert through(page, recipe, tmp_path) == recipe


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.key)
def test_a_recipe_that_equals_a_preset_selects_it(page: TrainPage, tmp_path: Path, click: Click, preset: Any) -> None:
    click("preset_imitate" if preset.key != "imitate" else "preset_match")
    tables = {"objective": preset.tables(), "rollout": {**preset.rollout, "temperature": 0.7}}
    through(page, TrainingRecipe.model_validate(tables), tmp_path)
    assert page.setup.learning.presets.chosen() == preset.key
    assert not page.setup.learning.mix.isVisible()


def test_a_recipe_with_two_objectives_is_ones_own_mix(page: TrainPage, tmp_path: Path, click: Click) -> None:
    objectives = [{"name": "supervised", "weight": 0.5}, {"name": "reverse_kl"}]
    through(page, TrainingRecipe.model_validate({"objective": objectives}), tmp_path)
    learning = page.setup.learning
    assert learning.presets.chosen() == ""
    assert learning.mix.isVisible()
    assert learning.parts.names() == ["supervised", "reverse_kl"]
    assert learning.objectives is not None, "what is chosen is shown among all"
    ticked = [key for key, choice in learning.objectives.choices.items() if choice.choose.isChecked()]
    assert sorted(ticked) == ["reverse_kl", "supervised"]
    click("objective_supervised_leave_out")
    click("preset_match")
    assert learning.presets.chosen() == "match"


def test_a_teacher_that_is_not_in_the_project_is_named(page: TrainPage, tmp_path: Path, click: Click) -> None:
    recipe = TrainingRecipe.model_validate({"teacher": {"name": "absent"}})
    assert through(page, recipe, tmp_path).teacher.name == "absent"
    combo = page.findChild(QComboBox, "train_teacher")
    assert combo is not None
    assert combo.currentText() == "absent (not in this project)"
    click("train_start")
    assert page.banner.isVisible()
    assert "'absent'" in page.banner.detail.text()


# ------------------------------------------------------------------------------------------ those that come with it
def opened(click: Click) -> TrainingRecipesSheet:
    click("train_load")
    sheet = QApplication.activeModalWidget()
    assert isinstance(sheet, TrainingRecipesSheet)
    return sheet


def test_every_shipped_recipe_is_offered_under_its_family(page: TrainPage, click: Click) -> None:
    sheet = opened(click)
    offered = [item.data(Qt.ItemDataRole.UserRole) for item in sheet.shown()]
    assert sorted(recipe.recipe.id for recipe in offered) == sorted(shipped_training_recipes())
    assert {recipe.recipe.family for recipe in offered} == set(FAMILIES)
    assert all(recipe.recipe.purpose and paper_of(recipe) for recipe in offered)
    click("train_recipes_cancel")


def test_a_recipe_is_searched_and_taken_with_the_keyboard(page: TrainPage, click: Click) -> None:
    page.setup.run.set_values({**page.setup.run.values(), "steps": 7})
    page.setup.who.form.set_values({**page.setup.who.form.values(), "layer_count": 2})
    before = page.setup.recipe()
    sheet = opened(click)
    QTest.keyClicks(sheet.search, "2402.01306")
    assert [item.text() for item in sheet.shown()] == ["Good and bad responses (KTO)"]
    sheet.search.clear()
    QTest.keyClicks(sheet.search, "GRPO")
    assert sheet.current() == shipped_training_recipes()["grpo"]  # others only speak of it
    for step in (Qt.Key.Key_Down, Qt.Key.Key_Up, Qt.Key.Key_Return):
        QTest.keyClick(sheet.search, step)
    assert not sheet.isVisible()
    after, shipped = page.setup.recipe(), shipped_training_recipes()["grpo"]
    assert (after.objective[0].name, after.rollout, after.reward) == ("grpo", shipped.rollout, shipped.reward)
    assert after.optimizer == shipped.optimizer
    assert after.recipe.title == shipped.recipe.title
    assert (after.student, after.run, after.teacher.name) == (before.student, before.run, "tiny")
    opened(click)
    QTest.keyClicks(visible_widget("train_recipes_search"), "no such thing")
    assert not visible_widget("train_recipes_use").isEnabled()
    click("train_recipes_cancel")


def test_the_next_recipe_leaves_nothing_of_the_one_before(page: TrainPage) -> None:
    for key in ("rationale_multitask", "dpo", "match"):
        page.setup.take_recipe(shipped_training_recipes()[key])
    made = page.setup.recipe()
    assert [table.name for table in made.objective] == ["forward_kl"]
    assert made.optimizer == TrainingRecipe().optimizer
    assert made.data.reasoning == TrainingRecipe().data.reasoning
    assert made.recipe.title == "Match the teacher's distribution"
    assert made.teacher.signals == "dense"
