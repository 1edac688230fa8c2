"""Judges against the person: which rows count, what is counted, and the rows on which they differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdstudio.cli import main
from kdstudio.project import NewPreference, NewPrompt, NewResponse, Project
from kdstudio.project.judgements import Compared
from kdstudio.project.table import RowQuery, RowTable

SCORED = {"type": "score", "into": "aspects", "mean": "score", "aspects": ["clarity", "safety"], "minimum": 3.5}
PAIRED = {"type": "rank", "method": "pairwise"}


def new_run(project: Project, *steps: dict[str, Any], **parameters: Any) -> str:
    recipe = {"recipe": {"id": "mine"}, "step": list(steps)}
    return project.runs.add("elicit", "Judge", {"recipe": recipe, "teacher": {"name": "small"}, **parameters})


@pytest.fixture
def project(tmp_path: Path) -> Any:
    with Project.create(tmp_path / "p") as made:
        made.rows.add_prompts(NewPrompt([{"role": "user", "content": f"prompt {number}"}]) for number in range(60))
        yield made


def scored(project: Project, run: str, first: int = 1) -> None:
    """Fifty answers; clarity goes from 1 to 5 and round again, safety is 5 throughout."""
    project.rows.add_responses(
        NewResponse(
            first + place,
            f"answer {place} of {run}",
            run=run,
            key=str(place),
            status="pending" if place % 5 else "rejected",
            reason="" if place % 5 else "scored 1.0, less than 3.5",
            extras={"aspects": {"clarity": 1 + place % 5, "safety": 5}, "score": (6 + place % 5) / 2},
        )
        for place in range(50)
    )


def by_key(project: Project) -> dict[str, Compared]:
    return {one.key: one for one in project.judgements.compared()}


def test_nothing_is_compared_before_the_person_decides(project: Project) -> None:
    run = new_run(project, SCORED, {"type": "emit", "extras": ["aspects", "score"]})
    scored(project, run)
    assert project.rows.counts()["response", "rejected"] == 10
    assert project.judgements.compared() == []


def test_scores_are_compared_with_what_the_person_decided(project: Project) -> None:
    run = new_run(project, SCORED, {"type": "emit", "extras": ["aspects", "score"]}, judge={"name": "qwen"})
    scored(project, run)
    good = [number for number in range(1, 51) if (number - 1) % 5 >= 3]  # clarity 4 and 5
    project.rows.set_status("response", [*good[:18], 2], "accepted")  # and one with clarity 2
    project.rows.set_status("response", [1, 6, 11, 3, *good[18:]], "rejected")
    found = by_key(project)
    assert set(found) == {"qwen · clarity", "qwen · safety", "qwen · score"}
    clarity = found["qwen · clarity"]
    assert (clarity.rows, clarity.agreed, clarity.least, clarity.missing) == (25, 22, 3.5, 0)
    # 20 kept by the judge and 19 by the person, 18 by both; 4 by neither
    chance = (20 * 19 + 5 * 6) / 625
    assert clarity.kappa == pytest.approx((22 / 25 - chance) / (1 - chance))
    assert clarity.in_words().startswith("agrees with you on 22 of 25 rows, kappa 0.65: substantial (95%: ")
    assert clarity.warning() == ""
    safety = found["qwen · safety"]
    assert safety.agreed == 19
    assert safety.kappa == pytest.approx(0)
    assert "no better than chance" in safety.in_words()


def test_confirming_a_rejection_counts_and_keeps_its_reason(project: Project) -> None:
    run = new_run(project, SCORED, {"type": "emit", "extras": ["aspects"]})
    scored(project, run)
    assert project.rows.set_status("response", [1], "rejected") == 1
    assert project.rows.response(1).reason == "scored 1.0, less than 3.5"
    assert by_key(project)["small · clarity"].agreed == 1
    assert project.rows.set_status("response", [1], "rejected") == 0
    project.history.undo()
    assert project.judgements.compared() == []
    project.history.redo()
    assert by_key(project)["small · clarity"].rows == 1
    project.rows.set_status("response", [1], "pending")
    assert project.judgements.compared() == []


def test_the_same_question_of_several_runs_counts_together(project: Project) -> None:
    emit = {"type": "emit", "extras": ["aspects"]}
    runs = [new_run(project, SCORED, emit), new_run(project, SCORED, emit)]
    stricter = new_run(project, SCORED | {"minimum": 4.5}, emit)
    trial = new_run(project, SCORED, emit, trial=True)
    for run in (*runs, stricter, trial):
        scored(project, run)
    project.rows.set_status("response", range(1, 201), "accepted")
    found = [(one.key, one.least, one.rows, one.agreed) for one in project.judgements.compared()]
    assert found == [
        ("small · clarity", 3.5, 100, 40),
        ("small · safety", 3.5, 100, 100),
        ("small · clarity", 4.5, 50, 10),
        ("small · safety", 4.5, 50, 50),
    ]
    alone = by_key(project)["small · safety"]
    assert alone.kappa is None
    assert "not defined" in alone.in_words()


def test_preferences_are_right_or_wrong(project: Project) -> None:
    run = new_run(project, PAIRED, {"type": "emit", "kind": "preference"}, judge={"name": 'a "big" one'})
    sized = new_run(project, {"type": "rank", "method": "scores", "by": "size"}, {"type": "emit", "kind": "preference"})
    for name in (run, sized):
        project.rows.add_preferences(
            NewPreference(1 + place, [f"good {name}", "bad"], [1.0, 0.0], run=name) for place in range(12)
        )
    project.rows.set_status("preference", [*range(1, 11), *range(13, 25)], "accepted")
    project.rows.set_status("preference", [11, 12], "rejected", "the other way round")
    (found,) = project.judgements.compared()
    assert (found.rows, found.agreed, found.missing) == (12, 10, 8)
    assert found.kappa == pytest.approx(2 * 10 / 12 - 1)
    assert found.warning() == "Decide on 8 more rows before you rely on it."
    table = RowTable(project.folder)
    assert list(table.ids(RowQuery("preference", differs=found.key))) == [11, 12]
    table.close()


def test_the_rows_on_which_they_differ_are_a_filter(project: Project) -> None:
    run = new_run(project, SCORED, {"type": "emit", "extras": ["aspects", "score"]}, judge={"name": "qwen"})
    scored(project, run)
    project.rows.set_status("response", [1, 2, 4], "accepted")  # clarity 1, 2, 4; means 3, 3.5, 4.5
    project.rows.set_status("response", [5, 6], "rejected")  # clarity 5, 1; means 5, 3
    table = RowTable(project.folder)

    def ids(key: str, **more: Any) -> list[int]:
        return list(table.ids(RowQuery("response", differs=key, **more)))

    assert ids("qwen · clarity") == [1, 2, 5]
    assert ids("qwen · clarity", status="accepted") == [1, 2]
    assert ids("qwen · clarity", search="answer") == [1, 2, 5]
    assert ids("qwen · safety") == [5, 6]
    assert ids("qwen · score") == [1, 5]
    assert ids("somebody · score") == ids('qwen · "; DROP') == []
    assert table.count(RowQuery("prompt", differs="qwen · clarity")) == 0
    for one in project.judgements.compared():
        assert len(ids(one.key)) == one.rows - one.agreed
    table.close()


def test_prompts_that_a_judge_scored_are_found_by_their_run(project: Project) -> None:
    run = new_run(project, SCORED, {"type": "emit", "kind": "prompt", "extras": ["score"]})
    project.rows.add_prompts(
        NewPrompt(
            [{"role": "user", "content": f"made {score}"}],
            extras={"score": score, "provenance": {"run": run}},
        )
        for score in (2.0, 4.0)
    )
    project.rows.set_status("prompt", [61, 62], "accepted")
    (found,) = project.judgements.compared()
    assert (found.key, found.kind, found.rows, found.agreed) == ("small · score", "prompt", 2, 1)


def test_the_verb_says_it_in_words_and_as_json(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run(project, SCORED, {"type": "emit", "extras": ["aspects"]}, judge={"name": "qwen"})
    folder = str(project.folder)
    assert main(["judges", folder]) == 0
    assert "No judged row" in capsys.readouterr().err
    scored(project, run)
    project.rows.set_status("response", range(1, 11), "accepted")
    assert main(["judges", folder]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(
        "qwen (clarity from 3.5) agrees with you on 4 of 10 rows, kappa 0.00: no better than chance ("
    )
    assert said[0].endswith("Decide on 10 more rows before you rely on it.")
    assert main(["judges", folder, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0] | {"kappa": 0, "agreed": 4, "share": 0.4, "missing": 10, "judge": "qwen"} == rows[0]
    assert rows[1]["criterion"] == "safety"
    assert rows[1]["kappa"] is None
    assert main(["rows", folder, "--filter", f"differs:{rows[0]['key']}", "--json"]) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [1, 2, 3, 6, 7, 8]
