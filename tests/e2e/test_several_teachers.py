"""From the command line: a folder answers and scores, two teachers share prompts, and a student learns their mean."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kdstudio.catalogue.training import StudentTable
from kdstudio.students.build import build
from tests.e2e.test_command_line import kdstudio
from tests.tiny import tiny_gguf

RECIPE = """
version = 1
[recipe]
id = "mean"
title = "Mean"
[student]
source = "teacher"
layers = [0, 3]
[data]
held_out_tag = "held_out"
[teacher]
top_k = 20
weights = { file = 0.7, folder = 0.3 }
[[objective]]
name = "forward_kl"
[run]
steps = 6
rows_per_batch = 4
[optimizer]
learning_rate = 3e-3
"""
SHORT = ("--set", "sample.max_tokens=12", "--set", "filter.finished=false", "--set", "emit.status=accepted")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with 12 prompts, a tiny GGUF teacher and a folder made of another one."""
    folder = tmp_path_factory.mktemp("several")
    made = folder / "p.kdstudio"
    rows = [{"prompt": f"thing {n}", "tags": ["held_out" if n % 4 == 0 else "train"]} for n in range(12)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build(StudentTable(), tiny_gguf(folder / "other.gguf", seed=1), seed=0).save(folder / "folder", {})
    (folder / "folder" / "README.md").write_text("---\nlicense: mit\n---\n")
    kdstudio("init", made)
    kdstudio("import", made, folder / "prompts.jsonl")
    kdstudio("teacher", "add", made, "file", "--gguf", tiny_gguf(folder / "tiny.gguf"))
    added = kdstudio("teacher", "add", made, "folder", "--hf", folder / "folder")[0]
    assert added["capabilities"]["license"] == "mit"
    return made


def speakers(events: list[dict[str, Any]]) -> Counter[str]:
    """How many rows each teacher made."""
    return Counter(event["row"]["teacher"] for event in events if event["event"] == "row")


@pytest.mark.slow  # six processes; `unit/distillation/test_mixture.py` has the same way in one
def test_two_teachers_share_the_prompts_and_a_student_learns_their_mean(project: Path, tmp_path: Path) -> None:
    asked = kdstudio("elicit", project, "--teacher", "file", "--teacher", "folder", *SHORT)
    assert (asked[-1]["event"], asked[-1]["rows"]) == ("finished", 12)
    assert speakers(asked) == {"file": 6, "folder": 6}
    weights = ("--weight", 0.7, "--weight", 0.3)
    names = ("--teacher", "file", "--teacher", "folder")
    stored = kdstudio("signals", project, *names, *weights, "--top-k", 20)[-1]
    assert (stored["rows"], stored["new_rows"]) == (12, 12)
    assert kdstudio("signals", project, *names, *weights, "--top-k", 20)[-1]["new_rows"] == 0
    alone = kdstudio("signals", project, "--teacher", "folder", "--top-k", 20)[-1]
    assert (alone["rows"], alone["new_rows"]) == (12, 12)
    recipe = tmp_path / "mean.toml"
    recipe.write_text(RECIPE)
    trained = kdstudio("train", project, recipe)[-1]
    assert trained["steps"] == 6
    assert trained["final"]["held_out_forward_kl"] < trained["before"]["held_out_forward_kl"]


def test_rows_are_routed_by_their_tags(project: Path) -> None:
    asked = kdstudio("elicit", project, "--teacher", "file", "--route", "held_out=folder", "--seed", 5, *SHORT)
    assert speakers(asked) == {"file": 9, "folder": 3}


def test_weights_that_do_not_fit_are_refused(project: Path) -> None:
    error = kdstudio("signals", project, "--teacher", "file", "--teacher", "folder", "--weight", 1, code=2)[-1]
    assert error["error"]["title"] == "These weights do not fit the teachers"
