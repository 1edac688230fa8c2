"""Forms made from parameter models: there and back again, and faults said in place."""

from __future__ import annotations

from typing import Any

import pytest
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QComboBox
from pytestqt.qtbot import QtBot

from kdstudio.catalogue.objectives import OBJECTIVES
from kdstudio.catalogue.steps import STEP_TYPES
from kdstudio.catalogue.training import DataTable, OptimizerTable, RewardTable, RolloutTable, RunTable, StudentTable
from kdstudio.registry import Params
from kdstudio.ui.forms import Form
from kdstudio.ui.widgets.fields import Number, Paragraph

MODELS: list[type[Params]] = [
    StudentTable,
    DataTable,
    OptimizerTable,
    RunTable,
    RolloutTable,
    RewardTable,
    *STEP_TYPES,
    *(entry.params for entry in OBJECTIVES),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_defaults_survive_the_form(model: type[Params], qtbot: QtBot) -> None:
    form = Form(model)
    qtbot.addWidget(form)
    assert model.model_validate(form.values()) == model()
    assert form.errors() == {}


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (OptimizerTable, {"learning_rate": 3e-5, "schedule": "linear", "warmup_steps": 12}),
        (StudentTable, {"layers": [0, 1, 15, 29], "adapter": "lora", "lora_dropout": 0.05}),
        (RunTable, {"seed": 2**31 - 1, "steps": 63, "epochs": 0.25}),
        (OptimizerTable, {"learning_rate": 1.234567890123e-13, "weight_decay": 0.1 + 0.2}),
    ],
)
def test_values_come_back(model: type[Params], values: dict[str, Any], qtbot: QtBot) -> None:
    form = Form(model, values)
    qtbot.addWidget(form)
    assert model.model_validate(form.values()) == model.model_validate(values)


def test_a_fault_is_said_under_its_field(qtbot: QtBot) -> None:
    form = Form(OBJECTIVES["forward_kl"].params, name="objective")
    qtbot.addWidget(form)
    form.show()
    field = form.fields["temperature"]
    assert isinstance(field, Number)
    field.setValue(0.0)  # the model wants more than 0
    assert "temperature" in form.errors()
    assert field.property("invalid") is True
    field.setValue(2.0)
    assert form.errors() == {}


def test_typing_scientific_notation(qtbot: QtBot) -> None:
    form = Form(OptimizerTable, name="optimizer", include=["learning_rate"])
    qtbot.addWidget(form)
    form.show()
    field = form.fields["learning_rate"]
    assert isinstance(field, Number)
    with qtbot.waitSignal(form.changed):
        field.selectAll()
        QTest.keyClicks(field, "5e-4")
        field.interpretText()
    assert form.values() == {"learning_rate": pytest.approx(5e-4)}
    field.stepUp()
    assert form.values()["learning_rate"] == pytest.approx(6e-4)


def test_a_number_that_was_set_keeps_all_its_digits_until_it_is_typed_over(qtbot: QtBot) -> None:
    form = Form(OptimizerTable, {"learning_rate": 1 / 3}, name="optimizer", include=["learning_rate"])
    qtbot.addWidget(form)
    field = form.fields["learning_rate"]
    assert isinstance(field, Number)
    assert (field.text(), form.values()["learning_rate"]) == ("0.333333", 1 / 3)
    field.selectAll()
    QTest.keyClicks(field, "0.25")
    field.interpretText()
    assert form.values()["learning_rate"] == 0.25


def test_setting_many_values_is_one_change(qtbot: QtBot) -> None:
    form = Form(RunTable, name="run")
    qtbot.addWidget(form)
    seen: list[dict[str, Any]] = []
    form.changed.connect(lambda: seen.append(form.values()))
    form.set_values({"steps": 40, "rows_per_batch": 4, "seed": 7})
    assert [(values["steps"], values["rows_per_batch"], values["seed"]) for values in seen] == [(40, 4, 7)]
    form.set_values({"steps": 40, "rows_per_batch": 4, "seed": 7})
    assert len(seen) == 1


def test_a_form_takes_an_editor_of_ones_own(qtbot: QtBot) -> None:
    form = Form(RewardTable, {"rubric": "Two\nlines"}, name="reward", editors={"rubric": Paragraph})
    qtbot.addWidget(form)
    assert isinstance(form.fields["rubric"], Paragraph)
    assert form.values()["rubric"] == "Two\nlines"
    with qtbot.waitSignal(form.changed):
        QTest.keyClicks(form.fields["rubric"], "More. ")
    assert form.values()["rubric"] == "More. Two\nlines"


def test_abbreviations_stay_in_capitals(qtbot: QtBot) -> None:
    form = Form(OBJECTIVES["ppo"].params, name="ppo")
    qtbot.addWidget(form)
    assert form.fields["kl_weight"].accessibleName() == "KL weight"
    assert form.fields["gae_lambda"].accessibleName() == "GAE lambda"


def test_every_editor_has_a_name_a_label_and_help(qtbot: QtBot) -> None:
    form = Form(RunTable, name="run")
    qtbot.addWidget(form)
    for name, field in form.fields.items():
        assert field.objectName() == f"run_{name}"
        assert field.accessibleName()
        assert field.toolTip()


def test_advanced_fields_wait_behind_a_switch(qtbot: QtBot) -> None:
    form = Form(OptimizerTable, name="optimizer", advanced=["beta1", "beta2"])
    qtbot.addWidget(form)
    form.show()
    assert not form.fields["beta1"].isVisible()
    more = next(child for child in form.children() if child.objectName() == "optimizer_more")
    more.setProperty("checked", True)
    assert form.fields["beta1"].isVisible()


def test_choices_show_words_and_give_keys(qtbot: QtBot) -> None:
    form = Form(StudentTable, name="student", include=["adapter"])
    qtbot.addWidget(form)
    combo = form.fields["adapter"]
    assert isinstance(combo, QComboBox)
    combo.setCurrentIndex(1)
    assert form.values() == {"adapter": "lora"}
