"""A trial's figures against sums by hand, and the rows that fell against a real journal."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kdstudio.jobs.events import Answer, Dropped, Event, Finished, Funnel, Row, Settled, Traced
from kdstudio.jobs.journal import JournalWriter
from kdstudio.project import NewPrompt, Project
from kdstudio.ui.fallen_rows import OTHERS, read_fallen, run_so_far
from kdstudio.ui.trial_record import TrialRecord, foretell, parent_of, project, readable


def recorded(*events: Event) -> TrialRecord:
    record = TrialRecord()
    for event in events:
        record.add(event)
    return record


def test_the_interval_is_that_of_a_prediction() -> None:
    """10, 20 and 30 of 12 rows: the other nine are 180, give or take 4.3027 x 10 x sqrt(81 / 3 + 9) = 258.16."""
    found = project([10, 20, 30], 12)
    assert found.mean == 240
    assert found.low == 60, "not less than what was spent"
    assert found.high == pytest.approx(240 + 258.16, abs=0.01)
    two = project([10, 20], 3)
    assert two.mean == 45
    assert two.high == pytest.approx(45 + 12.7062 * math.sqrt(50) * math.sqrt(1.5), abs=0.01)
    assert project([10], 5) == project([10, 10, 10], 5)
    assert project([], 5).mean == 0
    assert project([5, 7, 9], 3).high == 21, "nothing is left to foretell"


def test_several_questions_of_a_row_count_together() -> None:
    trace = Traced("7", 0, "prompt", {"request": "x"})
    record = recorded(
        trace,
        Traced("8", 0, "prompt"),
        Answer("7:1:0", "a", "stop", 5, 10),
        Answer("7:1:1", "b", "stop", 5, 30),
        Answer("8:1:0", "c", "stop", 5, 20),
        Answer("8:1:1", "", "error", error="no"),
        Settled("t", "7:1:0", 1, "answered", 5, 0, 10, 0.5),
        Settled("t", "8:1:0", 1, "answered", 5, 0, 20, 0.25),
        Finished({"seconds": 4.0, "would_write": 2}),
    )
    found = foretell(record, 10, hosted=True)
    assert (found.tried, found.questions, found.seconds) == (2, 15, 20)
    assert found.tokens.mean == 300
    assert found.dollars is not None
    assert found.dollars.mean == pytest.approx(3.75)
    assert record.kept() == 2
    free = foretell(record, 10, hosted=False)
    assert free.dollars is not None
    assert free.dollars.high == 0
    unknown = foretell(recorded(trace, Answer("7:1:0", "a", "stop", 5, 10)), 10, hosted=True)
    assert unknown.dollars is None, "nobody knows the price"


def test_a_row_sees_the_columns_of_the_rows_it_came_out_of() -> None:
    last = Traced("7:1:1:4:0", 5, "emit")
    record = recorded(
        Traced("7", 0, "prompt", {"request": "q"}),
        Traced("7:1:0", 1, "sample", {"answer": "other"}),
        Traced("7:1:1", 1, "sample", {"answer": "own"}),
        Traced("7:1:1:4:0", 4, "expand", {"item": "i"}),
        last,
    )
    assert record.values_before(last) == {"request": "q", "answer": "own", "item": "i"}
    assert parent_of("r2.7:1:0") == "r2.7"
    assert parent_of("7") == ""


def test_messages_are_shown_as_turns() -> None:
    assert readable('[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]') == (
        "user: hi\nassistant: ho"
    )
    for text in ('[{"role": "user", "conte…', '[{"a": 1}]', "[{", "plain"):
        assert readable(text) == text


def test_rows_that_fell_are_found_with_their_answers(tmp_path: Path) -> None:
    with Project.create(tmp_path / "P") as found:
        found.rows.add_prompts([NewPrompt([{"role": "user", "content": "first"}])])
        run = found.runs.add("elicit", "t", {})
        folder = found.runs_folder / run
        folder.mkdir(parents=True, exist_ok=True)
        writer = JournalWriter(folder)
        for event in (
            Funnel([{"step": 0, "type": "parse", "entered": 1, "left": 1, "fell": {}}]),
            Answer("1:1:0", "raw one", "stop"),
            Answer("d2:1:0", "raw two", "stop"),
            Answer("d2:1:0:3:0:judge", "a judge's word", "stop"),
            Dropped(1, "parse", "no list “raw one”", "1:1:0"),
            Dropped(0, "parse", "something rare", "d2:1:0:3:0"),
            Dropped(0, "filter", "no list", "d2:1:0"),
            Dropped(9, "parse", "no list", ""),
            Row("response", {"status": "rejected", "reason": "too short", "prompt_id": 1, "key": "1:1:0", "text": "x"}),
            Funnel([{"step": 0, "type": "parse", "entered": 4, "left": 1, "fell": {"no list": 2, OTHERS: 1}}]),
        ):
            writer.write(event)
        writer.close()
        listed = frozenset({"no list", "too short", OTHERS})
        assert run_so_far(found, run)[0][0]["entered"] == 4
        lists = read_fallen(found, run, "parse", "no list", listed)
        assert [row.text for row in lists.rows] == ["first", "prompt 9, which is no longer there"]
        assert [row.answers for row in lists.rows] == [("raw one",), ()]
        (rare,) = read_fallen(found, run, "parse", OTHERS, listed).rows
        assert (rare.text, rare.answers) == ("document 2", ("raw two", "a judge's word"))
        (short,) = read_fallen(found, run, "filter", "too short", listed).rows
        assert (short.rejected, short.answers) == (True, ("raw one",))
