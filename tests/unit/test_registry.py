"""The registries describe everything that a form needs."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from kdstudio.catalogue.objectives import OBJECTIVES
from kdstudio.catalogue.quantizations import QUANTIZATIONS
from kdstudio.catalogue.steps import STEP_TYPES
from kdstudio.catalogue.training import OptimizerTable, RunTable, StudentTable
from kdstudio.errors import BadInput
from kdstudio.registry import Entry, parameters_of


@pytest.mark.parametrize("entry", [*OBJECTIVES, *QUANTIZATIONS], ids=lambda entry: str(entry.key))
def test_an_entry_explains_itself(entry: Entry) -> None:
    assert entry.label
    assert entry.when.endswith(".")
    assert entry.reference.startswith("https://")
    for parameter in parameters_of(entry.params):
        assert parameter.help
        assert parameter.kind != "other"


def test_every_key_of_a_recipe_has_a_help_text() -> None:
    models: tuple[type[BaseModel], ...] = (*STEP_TYPES, StudentTable, OptimizerTable, RunTable)
    for model in models:
        assert all(parameter.help for parameter in parameters_of(model) if parameter.name != "type")


def test_ranges_and_choices_reach_the_form() -> None:
    parameters = {parameter.name: parameter for parameter in parameters_of(StudentTable)}
    assert parameters["source"].choices == ("teacher", "folder", "fresh")
    assert (parameters["lora_rank"].minimum, parameters["lora_rank"].maximum) == (1, 512)


def test_an_unknown_key_names_the_known_ones() -> None:
    with pytest.raises(BadInput) as caught:
        OBJECTIVES["telepathy"]
    assert "forward_kl" in caught.value.hint
