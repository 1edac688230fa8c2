"""Rows: adding, deciding, editing, undoing, looking at them from any place."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdstudio.errors import BadInput
from kdstudio.project import NewPreference, NewPrompt, NewResponse, Project
from kdstudio.project.table import RowQuery, RowTable


def ask(text: str, *tags: str) -> NewPrompt:
    return NewPrompt([{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}], tags)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project.create(tmp_path / "p") as made:
        yield made


def test_exact_duplicates_are_left_out(project: Project) -> None:
    assert project.rows.add_prompts([ask("a"), ask("b"), ask("a")]) == 2
    assert project.rows.add_prompts([ask("b"), ask("c")]) == 1
    assert project.rows.counts() == {("prompt", "pending"): 3}


def test_equal_texts_of_different_samples_are_kept_and_the_same_sample_once(project: Project) -> None:
    project.rows.add_prompts([ask("a")])
    first = NewResponse(1, "yes", run="r1", key="1:1:0")
    assert project.rows.add_responses([first, NewResponse(1, "yes", run="r1", key="1:1:1"), first]) == 2
    assert project.rows.add_responses([NewResponse(1, "yes"), NewResponse(1, "yes")]) == 1


def test_only_accepted_responses_of_prompts_that_stand_are_pairs(project: Project) -> None:
    project.rows.add_prompts([ask("a", "train"), ask("b")])
    project.rows.add_responses(NewResponse(prompt, f"answer {prompt} {n}") for prompt in (1, 2) for n in (1, 2))
    project.rows.set_status("response", [1, 3], "accepted")
    project.rows.set_status("prompt", [2], "rejected", "off topic")
    assert [(prompt.text, response.text) for prompt, response in project.rows.pairs()] == [("a", "answer 1 1")]
    assert len(list(project.rows.pairs(status="any"))) == 2
    assert [prompt.text for prompt in project.rows.prompts(tag="train")] == ["a"]
    assert [prompt.text for prompt in project.rows.prompts(tag="tra")] == []


def test_decisions_and_edits_are_undone_and_redone_in_order(project: Project) -> None:
    project.rows.add_prompts(ask(str(number)) for number in range(5))
    project.rows.add_responses([NewResponse(1, "draft")])
    assert project.rows.set_status("prompt", [1, 2, 3], "rejected", "dull") == 3
    project.rows.edit_text("response", 1, "better")
    assert project.rows.response(1).text == "better"
    assert project.rows.response(1).source.endswith("edited")
    assert project.history.can_undo() == "Edit response 1"
    assert project.history.undo() == "Edit response 1"
    assert project.rows.response(1).text == "draft"
    assert project.history.undo() == "Reject 3 rows"
    assert project.rows.counts()[("prompt", "pending")] == 5
    assert project.history.undo() is None
    assert project.history.redo() == "Reject 3 rows"
    assert project.rows.prompt(2).reason == "dull"
    project.rows.set_status("prompt", [4], "accepted")
    assert project.history.redo() is None


def test_a_decision_that_changes_nothing_leaves_no_trace(project: Project) -> None:
    project.rows.add_prompts([ask("a")])
    assert project.rows.set_status("prompt", [1], "pending") == 0
    assert project.history.can_undo() == ""


def test_history_survives_a_restart(tmp_path: Path) -> None:
    with Project.create(tmp_path / "p") as project:
        project.rows.add_prompts([ask("a")])
        project.rows.set_status("prompt", [1], "accepted")
    with Project.open(tmp_path / "p.kdstudio") as project:
        assert project.history.undo() == "Accept"
        assert project.rows.prompt(1).status == "pending"


def test_bad_requests_are_refused(project: Project) -> None:
    project.rows.add_prompts([ask("a")])
    with pytest.raises(BadInput, match="not there"):
        project.rows.prompt(7)
    with pytest.raises(BadInput, match="empty"):
        project.rows.edit_text("prompt", 1, "  \n")
    with pytest.raises(BadInput, match="two answers"):
        project.rows.add_preferences([NewPreference(1, ["only one"], [1.0])])
    with pytest.raises(BadInput, match="gone"):
        project.rows.edit_text("prompt", 9, "x")
    assert project.rows.counts() == {("prompt", "pending"): 1}


@pytest.fixture
def many(project: Project) -> Project:
    words = ["whale", "clock", "robot", "mansion", "castle", "river", "moon"]
    generator = random.Random(0)
    project.rows.add_prompts(ask(f"{' '.join(generator.choices(words, k=3))} {i}", f"t{i % 3}") for i in range(3000))
    project.rows.add_responses(NewResponse(i + 1, f"reply {i}", tokens=i % 7, teacher="T") for i in range(0, 3000, 2))
    return project


def test_any_place_of_any_view_is_right(many: Project) -> None:
    table = RowTable(many.folder)
    query = RowQuery("prompt")
    assert isinstance(table.ids(query), range)
    for first in (0, 17, 1500, 2990, 2999):
        assert [row.id for row in table.page(query, first, 20)] == list(range(first + 1, min(first + 21, 3001)))
    assert [row.id for row in table.page(RowQuery("prompt", descending=True), 0, 3)] == [3000, 2999, 2998]
    tagged = RowQuery("prompt", tag="t1")
    assert table.count(tagged) == 1000
    assert table.page(tagged, 500, 1)[0].id == 1502
    assert table.ordinal(tagged, 1502) == 500
    assert table.ordinal(tagged, 1) == -1
    by_tokens = RowQuery("response", sort="tokens", descending=True)
    assert [row.tokens for row in table.page(by_tokens, 0, 5)] == [6] * 5
    assert table.page(RowQuery("response"), 1, 1)[0].prompt == many.rows.prompt(3).text


def test_search_finds_words_and_beginnings_and_follows_edits(many: Project) -> None:
    table = RowTable(many.folder)
    hits = table.count(RowQuery("prompt", search="whale"))
    assert hits == sum("whale" in prompt.text for prompt in many.rows.prompts())
    assert table.count(RowQuery("prompt", search="wha")) == hits
    assert table.count(RowQuery("prompt", search='wh"ale* OR')) == 0
    assert table.count(RowQuery("response", search="reply 14")) == sum(
        f"reply {i}".startswith("reply 14") for i in range(0, 3000, 2)
    )
    many.rows.edit_text("prompt", 5, "a giraffe 鲸鱼")
    assert [row.id for row in table.page(RowQuery("prompt", search="giraffe"), 0, 9)] == [5]
    assert [row.id for row in table.page(RowQuery("prompt", search="鲸"), 0, 9)] == [5]
    many.history.undo()
    assert table.count(RowQuery("prompt", search="giraffe")) == 0


def test_a_view_follows_what_is_added_and_decided(many: Project) -> None:
    table = RowTable(many.folder)
    assert table.count(RowQuery("prompt")) == 3000
    many.rows.add_prompts([ask("new")])
    assert table.count(RowQuery("prompt")) == 3001
    many.rows.set_status("prompt", [3001], "accepted")
    assert [row.prompt for row in table.page(RowQuery("prompt", status="accepted"), 0, 9)] == ["new"]
