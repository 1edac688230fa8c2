"""What `kdstudio coverage` says of the survey's catalogue is so: what it counts runs, and has a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdstudio.catalogue.coverage import ELICITING, Claim, Covered, catalogue, coverage, faults
from kdstudio.recipe import claims

ROOT = Path(__file__).parents[2]
WHOLE = ("divergence & similarity", "supervised", "on-policy", "reinforcement", "ranking")


def found() -> list[Covered]:
    return coverage(claims())


def test_a_recipe_with_rounds_counts_where_none_elicits_alone() -> None:
    (star,) = (
        entry for entry in coverage([Claim("rounds", "star", "https://arxiv.org/abs/2203.14465")]) if entry.id == "star"
    )
    assert star.by == "recipe with rounds star"
    assert (ROOT / star.test).is_file()


def test_what_recipes_claim_and_what_the_catalogue_has_agree() -> None:
    assert faults(claims()) == []


def test_a_claim_that_is_not_so_is_found() -> None:
    made = claims()
    assert faults([*made, Claim("elicit", "mine", "", ("starr",))]) == [
        "elicit mine covers 'starr', which the catalogue does not have"
    ]
    without = [claim for claim in made if claim.id not in ("math", "iterative_dpo")]
    assert faults(without) == [
        "skills/math is claimed by no recipe",
        "online_preference is said to be 'iterative_dpo', which does not exist",
    ]
    covering = [*without, Claim("elicit", "sums", "https://x", ("math",)), Claim("train", "iterative_dpo", "")]
    assert faults(covering) == []
    (entry,) = (entry for entry in coverage(covering) if entry.id == "math")
    assert (entry.by, entry.recipes) == ("recipe sums", ("elicit sums",))


def test_an_id_shows_every_recipe_that_covers_it() -> None:
    shown = {(entry.family, entry.id): entry.recipes for entry in found()}
    assert shown["self_knowledge", "spin"] == ("elicit spin", "rounds spin")
    assert "train spin" in shown["ranking", "spin"]
    assert all(shown[family, key] for family in ELICITING for key in catalogue()[family])


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
