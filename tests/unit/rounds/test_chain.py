"""Rounds on a tiny model with the real jobs: killed anywhere they go on, and a figure that falls ends them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdstudio.errors import BadInput
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.events import Answer, Warned
from kdstudio.jobs.journal import read_journal
from kdstudio.models.terms_stamp import own_terms
from kdstudio.project import NewPrompt, Project, Run
from kdstudio.recipe import shipped_rounds_recipes
from kdstudio.rounds.plan import RESULT_NAME, planned
from kdstudio.rounds.speakers import terms_of, trained_speaker
from tests.e2e.rounds_setting import PREFER, make_rounds, parts_of
from tests.unit.rounds.in_process import KilledError, Moment, go, plan_of, teacher_table

WHOLE = [(1, "elicit"), (1, "train"), (1, "start"), (1, "evaluate"), (2, "elicit"), (2, "train"), (2, "evaluate")]
MOMENTS: tuple[Moment, ...] = (
    (1, "elicit", 0),
    (1, "elicit", 5),
    (1, "train", 0),
    (1, "train", 6),
    (1, "start", 2),
    (1, "evaluate", 3),
    (2, "elicit", 7),
    (2, "train", 0),
    (2, "evaluate", 0),
)


def rows_of(project: Project, run_id: str) -> list[dict[str, Any]]:
    text = (project.runs_folder / run_id / "rows.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def runs(project: Project, kind: str) -> list[Run]:
    return project.runs.list(kind)[::-1]


def test_killed_inside_a_run_they_go_on_with_it(tmp_path: Path) -> None:
    path, recipe = make_rounds(tmp_path)
    with Project.open(path) as project:
        for moment in (MOMENTS[1], MOMENTS[-2]):
            with pytest.raises(KilledError):
                go(project, recipe, kill=moment)
        _require_sound(project, go(project, recipe))
    assert parts_of(path) == WHOLE


@pytest.mark.slow
def test_killed_between_and_inside_rounds_they_come_to_the_same(tmp_path: Path) -> None:
    results = {}
    for name in ("calm", "killed"):
        (tmp_path / name).mkdir()
        path, recipe = make_rounds(tmp_path / name)
        with Project.open(path) as project:
            for moment in MOMENTS if name == "killed" else ():
                with pytest.raises(KilledError):
                    go(project, recipe, kill=moment)
            results[name] = go(project, recipe)
            _require_sound(project, results[name])
        assert parts_of(path) == WHOLE
    calm, killed = ([(item["rows"], item["value"]) for item in found["rounds"]] for found in results.values())
    assert calm == killed
    assert results["calm"]["start"] == results["killed"]["start"]
    assert results["calm"]["best_round"] == results["killed"]["best_round"] == 2


def _require_sound(project: Project, result: dict[str, Any]) -> None:
    """Each round's rows are its own, what is held out is neither asked nor learnt, and no answer came twice."""
    held_out = set(project.runs.get(result["rounds"][0]["elicit"]).parameters["leave_out"])
    assert len(held_out) == 2
    measured = []
    for item in result["rounds"]:
        learnt = [row for row in rows_of(project, item["train"]) if "held-out-of-rounds" not in row["tags"]]
        measured.append([row for row in rows_of(project, item["train"]) if row not in learnt])
        assert {project.rows.response(row["response_id"]).run for row in learnt} == {item["elicit"]}
        assert not {row["prompt_id"] for row in learnt} & held_out
        folder = project.runs_folder / item["elicit"]
        asked = [line.event.key for line in read_journal(folder) if isinstance(line.event, Answer)]
        assert len(asked) == len(set(asked)) == 6
        assert not (folder / "student.gguf").exists()
    assert measured[0] == measured[1]
    first, second = runs(project, "elicit")
    assert first.parameters["student"]["name"] == "tiny"
    assert second.parameters["student"]["path"].endswith(f"{result['rounds'][0]['train']}/student")
    assert runs(project, "train")[1].parameters["recipe"]["student"]["path"].endswith("/student")
    assert Path(result["student"]).is_dir()


def test_one_that_was_killed_before_its_job_was_written_is_entered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, recipe = make_rounds(tmp_path, count=1)

    def killed(*_: Any) -> None:
        raise KilledError

    with Project.open(path) as project:
        with monkeypatch.context() as patch:
            patch.setattr(run_files, "write_job", killed)
            with pytest.raises(KilledError):
                go(project, recipe)
        assert go(project, recipe)["best_round"] == 1
    assert parts_of(path)[:2] == [(1, "elicit")] * 2


def test_a_figure_that_falls_ends_them_and_the_best_student_stays(tmp_path: Path) -> None:
    path, recipe = make_rounds(tmp_path, count=3, tolerance=0.0, rate=0.5, start="base")
    with Project.open(path) as project:
        result = go(project, recipe)
        assert len(result["rounds"]) == 1
        assert result["ended"].startswith("The held-out figure fell in round 1: student nll was ")
        assert (result["best_round"], result["run"]) == (0, "")
        assert result["student"] == teacher_table()["path"]
        first = plan_of(project, recipe)
        assert first.id.endswith("-2")  # these are over: the same again is a new chain
        assert json.loads((first.folder.parent / result["rounds_id"] / RESULT_NAME).read_text()) == result


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_preferences_train_and_every_round_from_the_same_start(count: int, tmp_path: Path) -> None:
    path, recipe = make_rounds(tmp_path, count=count, objective="dpo", elicit=PREFER, start="base")
    with Project.open(path) as project:
        result = go(project, recipe)
        assert [item["rows"] for item in result["rounds"]] == [6] * count
        assert {run.parameters["recipe"]["student"]["path"] for run in runs(project, "train")} == {""}
        groups = [row.get("group", 0) for row in rows_of(project, result["rounds"][-1]["train"])]
        assert len({group for group in groups if group}) == 6
        assert groups[-2:] == [0, 0]


def test_restricted_terms_follow_the_student_and_want_a_reason(tmp_path: Path) -> None:
    path, recipe = make_rounds(tmp_path, count=1)
    with Project.open(path) as project:
        table = {**teacher_table(), "options": {"terms": own_terms("ask first", free=False)}}
        with pytest.raises(BadInput, match="terms of use"):
            go(project, recipe, teacher=table)
        assert parts_of(path) == [(1, "elicit")]
        result = go(project, recipe, teacher=table, reason="They were asked.")
        trained = project.runs.get(result["run"])
        assert trained.parameters["terms_reason"] == "They were asked."
        assert "ask first" in terms_of(project, trained_speaker(project, trained.id, 1))


@pytest.mark.parametrize("train", ["", "with_accepted = true\n"])
def test_a_round_without_rows_of_its_own_ends_them(train: str, tmp_path: Path) -> None:
    path, recipe = make_rounds(tmp_path)
    recipe.write_text(recipe.read_text() + train)
    text = (tmp_path / "elicit.toml").read_text().replace("minimum_words = 1", "minimum_words = 1000")
    (tmp_path / "elicit.toml").write_text(text)
    with Project.open(path) as project:
        result = go(project, recipe)
    assert (result["ended"], result["rounds"]) == ("Round 1 made no rows to train on.", [])


def test_right_answers_are_counted(tmp_path: Path) -> None:
    path, recipe = make_rounds(tmp_path, count=1)
    recipe.write_text(
        recipe.read_text().replace("[stop]", '[stop]\nfigure = "accuracy"') + "[measure]\nmax_tokens = 8\n"
    )
    with Project.open(path) as project:
        with pytest.raises(BadInput, match="prompt with a reference"):
            go(project, recipe)
        project.rows.add_prompts(
            NewPrompt([{"role": "user", "content": f"{n} + 1"}], reference=str(n + 1)) for n in range(10)
        )
        result = go(project, recipe)
        assert (result["start"], result["rounds"][0]["value"]) == (0.0, 0.0)
        for run in runs(project, "evaluate"):
            said = [line.event for line in read_journal(project.runs_folder / run.id)]
            assert not [event for event in said if isinstance(event, Warned)]
            assert run.result["rows"] == 1


@pytest.mark.parametrize("name", shipped_rounds_recipes())
def test_what_is_shipped_can_be_planned(name: str, tmp_path: Path) -> None:
    path, _ = make_rounds(tmp_path)
    with Project.open(path) as project:
        project.rows.add_prompts(
            NewPrompt([{"role": "user", "content": f"{n} + 1"}], reference=str(n + 1)) for n in range(10)
        )
        plan = planned(project, shipped_rounds_recipes()[name], teacher_table())
    assert plan.held_out
    assert plan.start is not None
    assert not plan.elicits_from_teacher


def test_a_student_is_needed_and_named(tmp_path: Path) -> None:
    path, recipe = make_rounds(tmp_path)
    hosted = {**teacher_table(), "kind": "openai", "path": "", "url": "http://localhost:1", "model": "m"}
    with Project.open(path) as project:
        with pytest.raises(BadInput, match="not a model on this machine"):
            planned(project, shipped_rounds_recipes()["spin"], hosted)
        with pytest.raises(BadInput, match="no run 'nobody'"):
            plan_of(project, recipe, student="nobody")
        named = plan_of(project, recipe, student=teacher_table()["path"])
        assert named.training.student.path == teacher_table()["path"]
