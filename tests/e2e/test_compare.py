"""`kdstudio compare` with the real trainer: the same rows and tokens for all, nothing done twice, then by runs."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdstudio.evaluation.fair_budget import Budget
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.recipe import TrainingRecipe, validate_recipe
from tests.tiny import tiny_model
from tests.unit.distillation.setting import make_project, teacher

RECIPE = """
version = 1
[recipe]
id = "kd"
title = "{title}"
[student]
layer_count = 2
[data]
held_out = 0.25
[teacher]
name = "tiny"
signals = "dense"
[[objective]]
name = "{objective}"
[optimizer]
learning_rate = 3e-3
warmup_steps = 1
[run]
steps = 4
rows_per_batch = 4
evaluate_every = 4
checkpoint_every = 4
device = "cpu"
precision = "fp32"
"""
SUPERVISED = """
version = 1
[recipe]
id = "text"
title = "Text alone"
[[objective]]
name = "supervised"
[run]
epochs = 2.0
"""


def compare(*words: object, code: int = 0) -> dict[str, Any]:
    """Run the verb with `--json`; returns the one object it printed."""
    command = [sys.executable, "-m", "kdstudio", "compare", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A project with accepted rows and a tiny teacher, a recipe, and one that is its supervised baseline."""
    folder = tmp_path_factory.mktemp("compare")
    project = make_project(folder)
    with Project.open(project) as opened:
        opened.teachers.add(TeacherSpec("tiny", "gguf", path=str(tiny_model(layers=4))))
    first, text = folder / "first.toml", folder / "text.toml"
    first.write_text(RECIPE.format(title="Forward", objective="forward_kl"))
    text.write_text(SUPERVISED)
    return project, first, text


@pytest.fixture(scope="module")
def report(prepared: tuple[Path, Path, Path]) -> dict[str, Any]:
    return compare(*prepared, "--seeds", 2)


def tables_of(project: Path) -> dict[str, dict[str, Any]]:
    """The recipes of all runs by id."""
    with Project.open(project, read_only=True) as opened:
        return {run.id: run.parameters["recipe"] for run in opened.runs.list("train")}


def test_two_recipes_are_compared_over_two_seeds(report: dict[str, Any]) -> None:
    assert {"recipes", "pairs", "baseline", "budget_tokens", "verdict"} <= report.keys()
    assert [(side["name"], side["baseline"], side["seeds"]) for side in report["recipes"]] == [
        ("Forward", False, [0, 1]),
        ("Text alone", True, [0, 1]),
    ]
    assert (report["baseline"], report["metric"], report["rows"]) == ("Text alone", "forward_kl", 5)
    (pair,) = report["pairs"]
    forward, text = report["recipes"]
    assert pair["difference"] == pytest.approx(forward["value"] - text["value"])
    assert pair["low"] <= pair["difference"] <= pair["high"]
    assert report["verdict"] == pair["verdict"]


def test_all_runs_had_the_same_rows_split_and_tokens(report: dict[str, Any], prepared: tuple[Path, Path, Path]) -> None:
    project = prepared[0]
    tables = tables_of(project)
    assert len(tables) == 4
    folders = [project / "runs" / run for run in tables]
    assert len({(folder / "rows.jsonl").read_bytes() for folder in folders}) == 1
    measured = [json.loads((folder / "held_out_rows.json").read_text()) for folder in folders]
    assert len({tuple(one["response_ids"]) for one in measured}) == 1
    assert len({tuple(one["forward_kl"]) for one in measured}) == 4
    assert not any("tokens" in note for note in report["notes"])
    folder = project / "comparisons" / report["id"]
    for side, place in itertools.product(report["recipes"], range(2)):
        recipe = validate_recipe(tables[side["runs"][place]], TrainingRecipe)
        plan = Budget(folder, project, recipe, teacher()).plan(recipe, side["seeds"][place], report["budget_tokens"])
        assert (side["steps"][place], side["tokens"][place]) == (plan.steps, plan.tokens)
        assert abs(plan.tokens - report["budget_tokens"]) <= plan.largest / 2


def test_the_same_command_trains_nothing_again(report: dict[str, Any], prepared: tuple[Path, Path, Path]) -> None:
    again = compare(*prepared, "--seeds", 2)
    assert {**again, "created": ""} == {**report, "created": ""}
    assert len(tables_of(prepared[0])) == 4


def test_its_runs_can_be_compared_by_id_even_while_the_project_is_open(
    report: dict[str, Any], prepared: tuple[Path, Path, Path]
) -> None:
    runs = [("--run", run) for side in report["recipes"] for run in side["runs"]]
    with Project.open(prepared[0]):
        picked = compare(prepared[0], *itertools.chain(*runs))
    assert picked["id"].startswith("runs-")
    assert picked["pairs"] == report["pairs"]
    assert (prepared[0] / "comparisons" / f"{picked['id']}.json").is_file()


@pytest.mark.parametrize(
    ("words", "title"),
    [
        (("{project}",), "Which recipes"),
        (("{project}", "{first}", "--seeds", "0"), "Bad usage"),
        (("nowhere", "{first}"), "no project"),
        (("{project}", "{folder}/missing.toml"), "cannot be read"),
        (("{project}", "{first}", "{folder}/other.toml"), "not be a fair comparison"),
        (("{project}", "{first}", "{folder}/nobody.toml"), "Unknown teacher"),
        (("{project}", "{first}", "--run", "x"), "Recipes or runs"),
        (("{project}", "--run", "x"), "Unknown run"),
    ],
)
def test_bad_input_is_said_in_words(
    prepared: tuple[Path, Path, Path], tmp_path: Path, words: tuple[str, ...], title: str
) -> None:
    (tmp_path / "other.toml").write_text(prepared[1].read_text().replace("layer_count = 2", "layer_count = 1"))
    (tmp_path / "nobody.toml").write_text(prepared[1].read_text().replace('"tiny"', '"nobody"'))
    filled = [word.format(project=prepared[0], first=prepared[1], folder=tmp_path) for word in words]
    error = compare(*filled, code=2)["error"]
    assert title in error["title"]
    assert error["detail"] or error["hint"]
