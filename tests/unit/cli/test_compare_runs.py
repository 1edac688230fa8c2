"""The runs of a comparison against a trainer that only pretends: which are started, continued, reused, and reported."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdstudio.cli.compare_runs import compare_recipes
from kdstudio.cli.compare_verb import in_words
from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs.folder import read_job
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.recipe import TrainingRecipe, validate_recipe
from tests.tiny import tiny_model
from tests.unit.distillation.setting import make_project, recipe

LOSS = {"forward_kl": 0.2, "reverse_kl": 0.25, "supervised": 0.4}


class Pretender:
    """Ends a run as the trainer would, with figures made from its objective and seed. Fails at the run `breaks_at`."""

    def __init__(self, breaks_at: int = 10**9, *, tokens_off: int = 0) -> None:
        self.began: list[str] = []
        self._left, self._tokens_off = breaks_at, tokens_off

    def __call__(self, project: Project, run_id: str, keys: Mapping[str, str]) -> None:
        self.began.append(run_id)
        if len(self.began) > self._left:
            project.runs.set_state(run_id, "interrupted", error={"title": "killed"})
            return
        folder = project.runs_folder / run_id
        tables = read_job(folder).parameters["recipe"]
        rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
        held = [row["response_id"] for row in rows if tables["data"]["held_out_tag"] in row["tags"]]
        source = np.random.default_rng(tables["run"]["seed"])
        values = (LOSS[tables["objective"][0]["name"]] + 0.01 * source.standard_normal(len(held))).tolist()
        written = {"response_ids": held, "tokens": [8] * len(held), "forward_kl": values, "nll": values}
        (folder / "held_out_rows.json").write_text(json.dumps({**written, "top1_agreement": None}))
        result = {"steps": tables["run"]["steps"], "tokens": 1000 + self._tokens_off, "held_out_against": "dense"}
        project.runs.set_state(run_id, "finished", result=result)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project.open(make_project(tmp_path)) as opened:
        opened.teachers.add(TeacherSpec("tiny", "gguf", path=str(tiny_model(layers=4))))
        yield opened


def typed(name: str = "forward_kl", title: str = "KD", **tables: Any) -> TrainingRecipe:
    made = recipe(recipe={"id": "kd", "title": title}, objective=[{"name": name}], **tables)
    made["data"] = {"held_out_tag": "", "held_out": 0.25}
    return validate_recipe(made, TrainingRecipe)


def runs(project: Project) -> list[tuple[str, int, int]]:
    """Name, seed and steps of every run, oldest first."""
    found = []
    for run in reversed(project.runs.list("train")):
        table = run.parameters["recipe"]["run"]
        found.append((run.parameters["comparison"]["name"], table["seed"], table["steps"]))
    return found


def test_every_recipe_and_the_baseline_is_trained_with_every_seed(project: Project) -> None:
    report = compare_recipes(project, [typed(), typed("reverse_kl", "Reverse")], seeds=2, finish=Pretender())
    expected = [(name, seed) for seed in (0, 1) for name in ("KD", "Reverse", "Supervised baseline")]
    assert [(name, seed) for name, seed, _ in runs(project)] == expected
    assert [recipe["name"] for recipe in report["recipes"]] == ["KD", "Reverse", "Supervised baseline"]
    assert [recipe["seeds"] for recipe in report["recipes"]] == [[0, 1]] * 3
    assert report["baseline"] == "Supervised baseline"
    assert (report["rows"], report["prompts"], report["seeds"], report["metric"]) == (5, 5, 2, "forward_kl")
    assert len(report["pairs"]) == 3
    assert report["recipes"][1]["differs"].keys() == {"objective"}
    kept = json.loads((project.folder / "comparisons" / f"{report['id']}.json").read_text())
    assert kept == report


def test_all_runs_share_the_same_rows_and_have_them_before_they_start(project: Project) -> None:
    seen: set[bytes] = set()
    pretender = Pretender()

    def finish(opened: Project, run_id: str, keys: Mapping[str, str]) -> None:
        seen.add((opened.runs_folder / run_id / "rows.jsonl").read_bytes())
        pretender(opened, run_id, keys)

    report = compare_recipes(project, [typed()], seeds=2, finish=finish)
    assert seen == {(project.folder / "comparisons" / report["id"] / "rows.jsonl").read_bytes()}


def test_the_budget_is_the_smallest_and_can_be_limited(project: Project) -> None:
    long, short = typed(run={"steps": 12}), typed("reverse_kl", "Short", run={"steps": 5})
    report = compare_recipes(project, [long, short], seeds=1, finish=Pretender())
    assert {steps for _, _, steps in runs(project)} == {5}
    limited = compare_recipes(project, [long], seeds=1, limit_tokens=report["budget_tokens"] // 2, finish=Pretender())
    assert limited["budget_tokens"] == report["budget_tokens"] // 2
    assert {steps for _, _, steps in runs(project)[3:]} <= {2, 3}


def test_a_comparison_that_broke_off_goes_on_and_does_nothing_twice(project: Project) -> None:
    broken, rest = Pretender(breaks_at=2), Pretender()
    with pytest.raises(KnownError, match="stopped") as caught:
        compare_recipes(project, [typed()], seeds=2, finish=broken)
    assert caught.value.detail == "2 of 4 runs are done."
    report = compare_recipes(project, [typed()], seeds=2, finish=rest)
    assert rest.began[0] == broken.began[-1]
    assert len(rest.began) == 2
    assert len(project.runs.list("train")) == 4
    assert {len(recipe["runs"]) for recipe in report["recipes"]} == {2}


def test_it_goes_on_with_the_rows_it_began_with(project: Project) -> None:
    with pytest.raises(KnownError):
        compare_recipes(project, [typed()], seeds=1, finish=Pretender(breaks_at=1))
    (frozen,) = (project.folder / "comparisons").glob("*/rows.jsonl")
    before = frozen.read_text()
    project.rows.edit_text("response", 3, "there was once something else")
    report = compare_recipes(project, [typed()], seeds=1, finish=Pretender())
    assert report["id"] == frozen.parent.name
    assert frozen.read_text() == before


def test_one_that_is_done_trains_nothing_again_and_more_seeds_only_themselves(project: Project) -> None:
    first = compare_recipes(project, [typed()], seeds=2, finish=Pretender())
    again, more = Pretender(), Pretender()
    assert compare_recipes(project, [typed(title="Renamed")], seeds=2, finish=again)["id"] == first["id"]
    assert again.began == []
    report = compare_recipes(project, [typed()], seeds=3, finish=more)
    assert len(more.began) == 2
    assert report["seeds"] == 3


def test_one_that_is_done_is_done_again_when_the_rows_have_changed(project: Project) -> None:
    first = compare_recipes(project, [typed()], seeds=1, finish=Pretender())
    project.rows.set_status("response", [3], "rejected", "too short")
    again = Pretender()
    assert compare_recipes(project, [typed()], seeds=1, finish=again)["id"] != first["id"]
    assert len(again.began) == 2


def test_identical_recipes_share_their_runs_and_have_no_winner(project: Project) -> None:
    pretender = Pretender()
    report = compare_recipes(project, [typed(), typed()], seeds=2, finish=pretender)
    assert len(pretender.began) == 4
    twins = next(pair for pair in report["pairs"] if (pair["a"], pair["b"]) == ("KD", "KD (2)"))
    assert (twins["difference"], twins["winner"]) == (0, "")


def test_a_run_that_missed_its_budget_is_said(project: Project) -> None:
    report = compare_recipes(project, [typed()], seeds=1, finish=Pretender(tokens_off=100_000))
    assert any("Not the same number of training tokens: KD 101,000" in note for note in report["notes"])
    assert any("Only 5 prompts" in note for note in report["notes"])


def test_teachers_are_compared_as_the_project_knows_them(project: Project) -> None:
    project.teachers.add(TeacherSpec("other", "gguf", path=str(tiny_model(layers=2))))
    with pytest.raises(BadInput, match="not be a fair comparison") as caught:
        compare_recipes(project, [typed(), typed(title="B", teacher={"name": "other"})], seeds=1, finish=Pretender())
    assert "different teachers" in caught.value.detail
    assert project.runs.list("train") == []


def test_the_table_says_the_figures_and_the_verdict_last(project: Project) -> None:
    text = in_words(compare_recipes(project, [typed()], seeds=2, finish=Pretender()))
    lines = text.splitlines()
    assert lines[0].split("  ")[0] == "Recipe"
    assert lines[1].startswith("KD ")
    assert "0.2" in lines[1]
    assert lines[2].startswith("Supervised baseline (baseline)  0.4")
    assert lines[-1].startswith("KD is closer to the teacher by 0.2")
