"""The sample project: what its README promises of prompts and recipe."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

from kdstudio.recipe import TrainingRecipe, parse_recipe

SAMPLE = resources.files("kdstudio").joinpath("resources", "sample")
SCRIPT = Path(__file__).parents[2] / "packaging" / "make_sample.py"
ROWS = [json.loads(line) for line in SAMPLE.joinpath("prompts.jsonl").read_text("utf-8").splitlines()]


def phrases(tag: str) -> list[str]:
    return [row["messages"][-1]["content"] for row in ROWS if row["tags"] == [tag]]


def test_the_file_is_what_the_script_writes() -> None:
    assert subprocess.run([sys.executable, str(SCRIPT), "--check"], check=False).returncode == 0


def test_the_readme_counts_right() -> None:
    told = SAMPLE.joinpath("README.md").read_text("utf-8")
    assert f"holds {len(ROWS):,} prompts" in told
    assert f"{len(phrases('train'))} rows carry the" in told
    assert f"{len(phrases('held_out'))} carry `held_out`" in told
    assert len({row["messages"][-1]["content"] for row in ROWS}) == len(ROWS)


def test_no_held_out_noun_is_trained_on() -> None:
    held_out = {phrase.split()[-1] for phrase in phrases("held_out")}
    assert len(held_out) == len(phrases("held_out"))  # one prompt a noun
    words = {word for phrase in phrases("train") for word in phrase.split()}
    singular = words | {word.removesuffix("s") for word in words} | {word.removesuffix("es") for word in words}
    assert not held_out & singular


def test_held_out_rows_stand_evenly_among_the_others() -> None:
    places = [place for place, row in enumerate(ROWS) if row["tags"] == ["held_out"]]
    gaps = {after - before for before, after in itertools.pairwise(places)}
    assert max(gaps) - min(gaps) <= 1


def test_the_recipe_is_valid_and_keeps_under_sixty_percent() -> None:
    recipe = parse_recipe(SAMPLE.joinpath("train.toml").read_text("utf-8"), TrainingRecipe, "train.toml")
    assert len(recipe.student.layers) == 14  # 77.9M of 134.5M parameters; 15 layers are 60.5 %
    assert recipe.data.held_out_tag == "held_out"
    assert recipe.teacher.signals == "dense"
    assert recipe.student.refit
