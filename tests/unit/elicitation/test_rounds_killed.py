"""A recipe in which order matters at every turn, killed at random moments: the rows are those of an undisturbed run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from kdstudio.elicitation import job
from kdstudio.jobs.events import Row
from kdstudio.project import Project
from kdstudio.recipe import ElicitationRecipe, parse_recipe
from tests.unit.elicitation.runs import KilledError, asked, attempt, drops, lines, new_project, new_run

RECIPE = """
version = 1
[recipe]
id = "grow"
title = "Grow"
[input]
source = "nothing"
rows = 8
[[step]]
type = "draw"
count = 2
method = "least_used"
source = "both"
into = "seeds"
[[step]]
type = "prompt"
user = "More like {% for seed in seeds %}{{ seed.prompt }}; {% endfor %}"
[[step]]
type = "sample"
temperature = 1
[[step]]
type = "parse"
format = "list"
into = ["items"]
[[step]]
type = "expand"
source = "items"
into = "instruction"
[[step]]
type = "filter"
column = "instruction"
rouge_below = 0.9
pool = "project"
[[step]]
type = "deduplicate"
column = "instruction"
method = "near"
threshold = 0.3
[[step]]
type = "emit"
kind = "prompt"
text = "instruction"
tags = ["grown"]
[[step]]
type = "sample"
samples = 3
temperature = 1
[[step]]
type = "parse"
[[step]]
type = "vote"
column = "response"
minimum_share = 0.5
[[step]]
type = "emit"
[[step]]
type = "loop"
rounds = 2
maximum_slide = 0
"""
WORDS = ["whales", "rivers", "clocks", "bread", "glass", "maps", "bees", "salt", "kites", "iron", "snow", "tea"]
LISTS = [
    "\n".join(f"{place}. {verb} {WORDS[(start + place) % 12]} {tail}" for place in (1, 2, 3))
    for start, (verb, tail) in enumerate(
        (verb, tail)
        for verb in ("Describe how", "Count the", "Write a song of", "Compare old")
        for tail in ("live in winter", "of your town")
    )
]
SCRIPT: dict[str, Any] = {
    "rules": [{"match": "^More like", "text": [*LISTS, "no list of mine"]}],
    "default": ["Yes to {prompt}", "Yes to {prompt}", "No to {prompt}", "Perhaps {prompt}"],
    "out_of_order": 5,
}
SEEDS = ["Name three whales.", "What is bread made of?", "Draw a map.", "Who made the clock?"]


def recipe(size: int = 8) -> ElicitationRecipe:
    return parse_recipe(RECIPE.replace("rows = 8", f"rows = {size}"), ElicitationRecipe)


def written(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """All rows with their kinds, by key."""
    events = [line.event for line in lines(folder) if isinstance(line.event, Row)]
    return sorted(((event.kind, event.row) for event in events), key=lambda pair: str(pair[1]["key"]))


def killed(project: Project, folder: Path, events: int, kills: int) -> int:
    """Break a run off `kills` times, now before and now after an event is written; returns how often it was."""
    chance, done = random.Random(kills), 0
    while done < kills:
        moment = chance.randrange(1, max(2, 2 * events // kills))
        try:
            attempt(folder, kill_at=moment, after_writing=chance.random() < 0.5)
            break
        except KilledError:
            done += 1
            project.runs.ingest(folder.name, lines(folder))  # its own rows are in the project when it goes on
    attempt(folder)
    return done


def undisturbed(tmp_path: Path, size: int) -> tuple[list[Any], list[Any], int]:
    with new_project(tmp_path / "whole", SEEDS) as project:
        whole = new_run(project, SCRIPT, recipe(size), seed=3)
        attempt(whole)
        found = written(whole), drops(whole), len(lines(whole))
        project.runs.ingest(whole.name, lines(whole))
        project.runs.ingest(whole.name, lines(whole))
        assert not [drop for drop in project.runs.dropped(whole.name) if drop.step == "ingest"]
        prompts = [prompt for prompt in project.rows.prompts() if "grown" in prompt.tags]
        assert prompts
        assert all(prompt.extras["provenance"]["run"] == whole.name for prompt in prompts)
        accepted = [prompt for prompt in prompts if prompt.status == "pending"]
        assert sum(len(project.rows.responses_of(prompt.id)) for prompt in accepted) == sum(
            kind == "response" for kind, _ in found[0]
        )
        return found


@pytest.mark.parametrize(("kills", "size"), [(4, 8), pytest.param(50, 60, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_writes_the_rows_of_an_undisturbed_run(
    tmp_path: Path, kills: int, size: int
) -> None:
    expected, fallen, events = undisturbed(tmp_path, size)
    assert {kind for kind, _ in expected} == {"prompt", "response"}
    assert any(row["status"] == "rejected" for _, row in expected)
    assert {step for _, step, _ in fallen} == {"deduplicate", "vote"}
    assert any(row["key"].startswith("r2.") for _, row in expected)
    with new_project(tmp_path / "killed", SEEDS) as project:
        folder = new_run(project, SCRIPT, recipe(size), seed=3)
        assert killed(project, folder, events, kills) >= kills * 9 // 10
        assert written(folder) == expected
        assert drops(folder) == fallen
        assert len(asked(folder)) == len(set(asked(folder))), "a question was asked twice"


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_answers_changes_nothing(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for number, (at_once, window) in enumerate(((1, 4096), (7, 2), (64, 4096))):
        monkeypatch.setattr(job, "WINDOW", window)
        with new_project(tmp_path / str(number), SEEDS) as project:
            folder = new_run(project, {**SCRIPT, "out_of_order": at_once}, recipe(), seed=seed)
            attempt(folder)
            results.append((json.dumps(written(folder)), drops(folder)))
    assert results[0] == results[1] == results[2]
