"""A project whose student learns from itself in rounds, with real runs on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project, Run
from tests.tiny import tiny_model
from tests.unit.distillation.setting import make_project

ELICIT = """
version = 1
[recipe]
id = "own"
title = "Own answers"
[[step]]
type = "sample"
speaker = "student"
max_tokens = 12
temperature = 1.0
[[step]]
type = "filter"
column = "answer"
finished = false
minimum_words = 1
otherwise = "drop"
[[step]]
type = "emit"
text = "answer"
"""
PREFER = """
version = 1
[recipe]
id = "against_own"
title = "Against own answers"
[input]
source = "responses"
status = "accepted"
[[step]]
type = "sample"
speaker = "student"
max_tokens = 12
temperature = 1.0
into = "own"
[[step]]
type = "emit"
kind = "preference"
chosen = "response"
rejected = "own"
"""
TRAIN = """
version = 1
[recipe]
id = "short"
title = "Short"
[[objective]]
name = "{objective}"
[optimizer]
learning_rate = {rate}
warmup_steps = 1
[run]
steps = 2
rows_per_batch = 4
evaluate_every = 2
checkpoint_every = 1
device = "cpu"
precision = "fp32"
"""
ROUNDS = """
version = 1
[recipe]
id = "tiny_rounds"
title = "Tiny rounds"
[rounds]
count = {count}
start = "{start}"
[stop]
tolerance = {tolerance}
[elicit]
recipe = "{folder}/elicit.toml"
limit = 6
[train]
recipe = "{folder}/train.toml"
"""


def make_rounds(
    folder: Path,
    *,
    count: int = 2,
    start: str = "last",
    tolerance: float = 100.0,
    rate: float = 1e-3,
    objective: str = "supervised",
    elicit: str = ELICIT,
) -> tuple[Path, Path]:
    """A project with accepted rows and the teacher `tiny`, and a recipe with rounds."""
    project = make_project(folder)
    with Project.open(project) as opened:
        opened.teachers.add(TeacherSpec("tiny", "gguf", path=str(tiny_model(layers=4))))
    (folder / "elicit.toml").write_text(elicit)
    (folder / "train.toml").write_text(TRAIN.format(objective=objective, rate=rate))
    recipe = folder / "rounds.toml"
    recipe.write_text(ROUNDS.format(count=count, start=start, tolerance=tolerance, folder=folder))
    return project, recipe


def command(*words: object) -> list[str]:
    """The verb's command line."""
    return [sys.executable, "-m", "kdstudio", "rounds", *map(str, words), "--json"]


def rounds(*words: object, code: int = 0) -> list[dict[str, Any]]:
    """Run the verb; returns the objects that it printed."""
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=300)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert "Traceback" not in done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def runs_of(project: Path) -> list[Run]:
    """All runs, oldest first."""
    with Project.open(project, read_only=True) as opened:
        return opened.runs.list()[::-1]


def parts_of(project: Path) -> list[tuple[int, str]]:
    """(round, part) of all runs, oldest first."""
    return [(run.parameters["rounds"]["round"], run.parameters["rounds"]["part"]) for run in runs_of(project)]
