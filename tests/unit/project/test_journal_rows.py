"""What a journal may say wrongly, and what comes of it: never a crash, never a row less than was sound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdstudio.jobs.events import Event, Line, Metric, Row, Sample
from kdstudio.project import NewPrompt, Project

SOUND = {"prompt_id": 1, "text": "sound", "key": "1"}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project.create(tmp_path / "p") as made:
        made.rows.add_prompts([NewPrompt([{"role": "user", "content": "why"}])])
        yield made


def ingest(project: Project, *events: Event) -> str:
    run = project.runs.add("elicit", "x", {})
    lines = [Line(seq, "", event) for seq, event in enumerate(events, start=1)]
    assert len(project.runs.ingest(run, lines)) == len(lines)
    return run


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt_id": 9, "text": "x"}, "no prompt of that id"),
        ({"text": "x"}, "lacks prompt_id"),
        ({"prompt_id": 1}, "lacks text"),
        ({"prompt_id": "1", "text": "x"}, "'prompt_id' is not a int"),
        ({"prompt_id": 1, "text": ["x"]}, "'text' is not a str"),
        ({"prompt_id": 1, "text": "x", "status": "great"}, "no status"),
        ({"prompt_id": 1, "text": "x", "seed": 1 << 70}, "too large"),
        ({"prompt_id": 1, "text": "x", "sampling": []}, "'sampling' is not a dict"),
    ],
)
def test_an_unusable_row_is_dropped_with_its_reason(project: Project, row: dict[str, Any], reason: str) -> None:
    run = ingest(project, Row("response", row), Row("response", SOUND))
    assert [response.text for _, response in project.rows.pairs(status="any")] == ["sound"]
    dropped = project.runs.dropped(run)
    assert [entry.step for entry in dropped] == ["ingest"]
    assert reason in dropped[0].reason


def test_preferences_and_unknown_kinds_are_looked_at_too(project: Project) -> None:
    good = {"prompt_id": 1, "candidates": ["a", "b"], "scores": [1, 0]}
    run = ingest(
        project,
        Row("preference", good),
        Row("preference", {**good, "scores": [1]}),
        Row("preference", {**good, "scores": [1, math.nan]}),
        Row("preference", {**good, "candidates": ["a", 7]}),
        Row("miracle", {}),
    )
    assert [preference.candidates for preference in project.rows.preferences()] == [("a", "b")]
    assert len(project.runs.dropped(run)) == 4


def test_keys_of_a_later_version_and_empty_values_are_left_out(project: Project) -> None:
    ingest(project, Row("response", {**SOUND, "colour": "blue", "reasoning": None}))
    response = project.rows.response(1)
    assert (response.text, response.reasoning) == ("sound", "")


def test_half_characters_of_a_model_become_replacement_characters(project: Project) -> None:
    row = {**SOUND, "text": "cut \ud83d off\x00", "message": {"role": "assistant", "content": "cut \ud83d off"}}
    run = ingest(project, Row("response", row), Sample(1, "p", "\udfff", "t"))
    response = project.rows.response(1)
    assert response.text == "cut \ufffd off\ufffd"
    assert response.message["content"] == "cut \ufffd off"
    assert project.runs.samples(run)[0].student == "\ufffd"


def test_a_loss_that_is_no_number_is_kept_as_such(project: Project) -> None:
    values: dict[str, Any] = {"loss": math.nan, "grad_norm": math.inf, "words": "none", "nothing": None}
    run = ingest(project, Metric(1, {"loss": 1.5}), Metric(2, values), Metric(3, {"loss": 2.5}))
    steps, losses = project.runs.metrics(run, "loss")
    assert steps == [1, 2, 3]
    assert losses[::2] == [1.5, 2.5]
    assert math.isnan(losses[1])
    assert project.runs.metrics(run, "grad_norm") == ([2], [math.inf])
    assert project.runs.metric_names(run) == ["grad_norm", "loss"]


def test_lines_out_of_order_or_twice_in_one_reading_count_once(project: Project) -> None:
    run = project.runs.add("train", "x", {})
    lines = [
        Line(1, "", Metric(1, {"loss": 1})),
        Line(2, "", Metric(2, {"loss": 2})),
        Line(2, "", Metric(2, {"loss": 9})),
    ]
    assert [line.seq for line in project.runs.ingest(run, lines)] == [1, 2]
    assert project.runs.ingest(run, lines) == []
    assert project.runs.metrics(run, "loss") == ([1, 2], [1.0, 2.0])
