"""What `kdstudio coverage` says of the survey's catalogue is so: what it counts runs, and has a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdstudio.catalogue.coverage import Covered, catalogue, coverage
from kdstudio.recipe import shipped_recipes, shipped_rounds_recipes, shipped_training_recipes

ROOT = Path(__file__).parents[2]
WHOLE = ("divergence & similarity", "supervised", "on-policy", "reinforcement", "ranking")


def found() -> list[Covered]:
    kinds = (shipped_recipes(), shipped_training_recipes(), shipped_rounds_recipes())
    return coverage(*([(key, recipe.recipe.references[0]) for key, recipe in kind.items()] for kind in kinds))


def test_a_recipe_with_rounds_counts_where_none_elicits_alone() -> None:
    (star,) = (
        entry for entry in coverage([], [], [("star", "https://arxiv.org/abs/2203.14465")]) if entry.id == "star"
    )
    assert star.by == "recipe with rounds star"
    assert (ROOT / star.test).is_file()


def test_every_id_of_the_catalogue_is_named_once() -> None:
    ids = [(entry.family, entry.id) for entry in found()]
    assert ids == [(family, key) for family, keys in catalogue().items() for key in keys]
    assert len(set(ids)) == len(ids) == 119


def test_what_is_covered_names_its_paper_and_a_test_that_exists() -> None:
    for entry in found():
        if entry.by:
            assert entry.reference.startswith("https://"), entry
            assert (ROOT / entry.test).is_file(), entry


@pytest.mark.parametrize("family", WHOLE)
def test_every_way_of_distilling_is_there(family: str) -> None:
    assert [entry.id for entry in found() if entry.family == family and not entry.by] == []
