"""A comparison of runs that a person picked: how they group, what is refused, what is said about them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdstudio.errors import BadInput, KnownError
from kdstudio.evaluation.comparison_report import (
    make_report,
    read_measured,
    require_fair,
    runs_identity,
    sides_of,
)
from kdstudio.project import Project, Run
from tests.unit.distillation.setting import make_project, recipe, teacher

IDS = list(range(1, 31))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project.open(make_project(tmp_path, rows=0)) as opened:
        yield opened


def finished(
    project: Project,
    title: str,
    seed: int,
    value: float,
    *,
    objective: str = "forward_kl",
    described: dict[str, Any] | None = None,
    measured: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    **tables: Any,
) -> Run:
    """A training run that has ended, with figures about `value` on 30 held-out rows."""
    made = recipe(objective=[{"name": objective}], **{**tables, "run": {**tables.get("run", {}), "seed": seed}})
    parameters = {"recipe": made, "teacher": teacher() if described is None else described}
    run_id = project.runs.add("train", title, parameters)
    folder = project.runs_folder / run_id
    folder.mkdir(parents=True)
    noise = 0.01 * np.random.default_rng([seed, round(value * 1000)]).standard_normal(len(IDS))
    values = (value + noise).tolist()
    rows = {"response_ids": IDS, "tokens": [9] * 30, "forward_kl": values, "nll": [2 + one for one in values]}
    (folder / "held_out_rows.json").write_text(json.dumps({**rows, "top1_agreement": [0.5] * 30, **(measured or {})}))
    lines = [json.dumps({"response_id": number, "prompt_id": number // 2}) for number in IDS]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    told = {"steps": 4, "tokens": 1000, "held_out_against": "dense", **(result or {})}
    project.runs.set_state(run_id, "finished", result=told)
    return project.runs.get(run_id)


def report(project: Project) -> dict[str, Any]:
    sides = sides_of(project.runs.list("train"))
    require_fair(sides)
    return make_report("picked", project.folder, sides)


def three_seeds(project: Project, title: str, value: float, **more: Any) -> None:
    for seed in range(3):
        finished(project, title, seed, value, **more)


def test_runs_that_differ_in_their_seed_alone_are_one_side(project: Project) -> None:
    three_seeds(project, "KD", 0.2)
    three_seeds(project, "Text", 0.4, objective="supervised")
    found = report(project)
    assert [(side["name"], side["seeds"], side["baseline"]) for side in found["recipes"]] == [
        ("KD", [0, 1, 2], False),
        ("Text", [0, 1, 2], True),
    ]
    assert found["winner"] == "KD"
    assert found["verdict"].startswith("KD is closer to the teacher by 0.2")
    assert found["prompts"] == 16
    assert found["recipes"][0]["metrics"]["top1_agreement"] == pytest.approx(0.5)
    assert json.loads((project.folder / "comparisons" / "picked.json").read_text()) == found


def test_of_one_seed_the_newest_run_counts(project: Project) -> None:
    finished(project, "Text", 0, 0.4, objective="supervised")
    finished(project, "KD", 0, 0.9)
    newest = finished(project, "KD", 0, 0.2)
    side = next(side for side in report(project)["recipes"] if side["name"] == "KD")
    assert side["runs"] == [newest.id]


def test_runs_of_other_lengths_are_other_sides_and_their_tokens_are_said(project: Project) -> None:
    three_seeds(project, "KD", 0.3)
    three_seeds(project, "KD", 0.2, run={"steps": 8}, result={"tokens": 2000})
    found = report(project)
    assert [side["name"] for side in found["recipes"]] == ["KD", "KD (2)"]
    assert found["baseline"] == ""
    assert found["notes"][-1] == "Not the same number of training tokens: KD 1,000 instead of 2,000."


def test_without_a_teachers_signal_the_text_is_what_counts(project: Project) -> None:
    three_seeds(project, "KD", 0.2)
    nothing = {"forward_kl": None, "top1_agreement": None}
    three_seeds(project, "Text", 0.4, objective="supervised", measured=nothing, described={})
    found = report(project)
    assert found["metric"] == "nll"
    assert found["verdict"].startswith("KD is closer to the held-out text by 0.2")
    assert "Without a teacher's signal for Text" in " ".join(found["notes"])


def test_two_kinds_of_measure_are_not_mixed(project: Project) -> None:
    three_seeds(project, "KD", 0.2, result={"held_out_against": "stored"})
    three_seeds(project, "Text", 0.4, objective="supervised")
    found = report(project)
    assert found["metric"] == "nll"
    assert "stored log-probs" in " ".join(found["notes"])


def test_a_score_of_free_answers_is_compared_where_every_run_has_one(project: Project) -> None:
    three_seeds(project, "KD", 0.2, measured={"free_running": [0.9] * 15 + [0.8] * 15})
    three_seeds(project, "Text", 0.4, objective="supervised", measured={"free_running": [0.5] * 30})
    found = report(project)
    assert [pair["metric"] for pair in found["pairs"]] == ["forward_kl", "free_running"]
    assert found["pairs"][1]["verdict"].startswith("KD answers better by itself by 0.35")


def test_one_seed_is_said(project: Project) -> None:
    finished(project, "KD", 0, 0.2)
    finished(project, "Text", 0, 0.4, objective="supervised")
    found = report(project)
    assert found["winner"] == ""
    assert "one seed only: the interval speaks of rows, not of chance in training" in found["verdict"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"student": {"layer_count": 3}}, "different students"),
        ({"described": {"name": "big", "kind": "gguf", "path": "big.gguf"}}, "different teachers: tiny and big"),
        ({"measured": {"response_ids": list(range(2, 32))}}, "not measured on the same held-out rows"),
        ({"measured": {"tokens": [8] * 30}}, "not measured on the same held-out rows"),
    ],
)
def test_what_is_not_fair_is_refused(project: Project, other: dict[str, Any], said: str) -> None:
    finished(project, "KD", 0, 0.2)
    finished(project, "Other", 0, 0.4, objective="reverse_kl", **other)
    with pytest.raises(BadInput, match="not be a fair comparison") as caught:
        report(project)
    assert said in caught.value.detail


def test_one_side_is_no_comparison(project: Project) -> None:
    three_seeds(project, "KD", 0.2)
    with pytest.raises(BadInput, match="two sides"):
        sides_of(project.runs.list("train"))
    with pytest.raises(BadInput, match="two sides"):
        sides_of([])


def test_a_run_that_goes_on_cannot_be_compared(project: Project) -> None:
    project.runs.add("train", "KD", {"recipe": recipe(), "teacher": teacher()})
    with pytest.raises(BadInput, match="Not a finished"):
        sides_of(project.runs.list("train"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"response_ids": [1, 2], "tokens": [3], "nll": [1, 2]}',
        '{"response_ids": [1, 1], "tokens": [3, 3], "nll": [1, 2]}',
        '{"response_ids": [1], "tokens": [0], "nll": [1]}',
        '{"response_ids": [1], "tokens": [1], "nll": [NaN]}',
        '{"response_ids": [1], "tokens": [1], "nll": null}',
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "held_out_rows.json").write_text(text)
    with pytest.raises(KnownError, match="cannot be read"):
        read_measured(tmp_path)
    with pytest.raises(KnownError, match="cannot be read"):
        read_measured(tmp_path / "nowhere")


def test_a_comparison_is_named_by_its_runs_whatever_their_order(project: Project) -> None:
    first, second = finished(project, "A", 0, 0.1), finished(project, "B", 0, 0.2)
    assert runs_identity([first, second]) == runs_identity([second, first, first])
    assert runs_identity([first]) != runs_identity([second])
