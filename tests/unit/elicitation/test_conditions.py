"""Steps that are not for every row, and what becomes of rejected rows: all are written or listed, none only counted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from kdstudio.errors import BadInput
from kdstudio.jobs.events import Dropped, Event, Funnel, Progress, Row, Traced
from kdstudio.project import NewPrompt, NewResponse, Project
from kdstudio.recipe import ElicitationRecipe, parse_recipe
from tests.unit.elicitation.runs import KilledError, asked, attempt, drops, lines, new_project, new_run

SAMPLE, PARSE, EMIT = '[[step]]\ntype="sample"\n', '[[step]]\ntype="parse"\n', '[[step]]\ntype="emit"\n'
ANSWER = SAMPLE + PARSE


def recipe_of(steps: str, before: str = "") -> ElicitationRecipe:
    return parse_recipe(f'version = 1\n[recipe]\nid = "mine"\ntitle = "Mine"\n{before}\n{steps}', ElicitationRecipe)


def run(
    folder: Path, prompts: list[str], steps: str, before: str = "", script: dict[str, Any] | None = None, **more: Any
) -> Path:
    """The folder of a whole run over `prompts`, whose rows are in the project afterwards."""
    with new_project(folder, prompts) as project:
        made = new_run(project, script or {"function": "echo"}, recipe_of(steps, before), **more)
        attempt(made)
        project.runs.ingest(made.name, lines(made))
        assert not [drop for drop in project.runs.dropped(made.name) if drop.step == "ingest"]
    return made


def events(folder: Path, kind: type[Event]) -> list[Any]:
    return [line.event for line in lines(folder) if isinstance(line.event, kind)]


def texts(folder: Path) -> list[str]:
    return sorted(str(event.row.get("text") or event.row.get("candidates")) for event in events(folder, Row))


def funnel(folder: Path) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = events(folder, Funnel)[-1].steps
    return steps


def agrees(folder: Path) -> bool:
    """Whether what the funnel counts as fallen is what the table and the list of fallen rows show."""
    counted = sum(sum(step["fell"].values()) for step in funnel(folder))
    listed = events(folder, Dropped)
    rejected = {
        (str(row.row["key"]).split(":")[0], row.row["reason"])
        for row in events(folder, Row)
        if row.row["status"] == "rejected"
    }
    return counted == len(listed) + len(rejected)


WHEN = "when=\"prompt == 'b'\"\n"


@pytest.mark.parametrize(
    ("step", "others", "chosen"),
    [
        ('[[step]]\ntype="prompt"\ntext="{{ response }}!"\ninto="response"\n', ["a"], ["b!"]),
        ('[[step]]\ntype="prompt"\nuser="again"\n' + WHEN + SAMPLE + 'into="response"\n', ["a"], ["again"]),
        ('[[step]]\ntype="parse"\nsource="prompt"\nformat="number"\n', ["a"], []),
        ('[[step]]\ntype="draw"\ncount=9\nminimum=9\n', ["a"], []),
        ('[[step]]\ntype="expand"\nsource="pair_list"\ninto="response"\n', ["a"], ["x", "y"]),
        ('[[step]]\ntype="filter"\nminimum_words=2\notherwise="drop"\n', ["a"], []),
        ('[[step]]\ntype="filter"\nminimum_characters=5\n', ["a"], ["b"]),
        ('[[step]]\ntype="deduplicate"\ncolumn="same"\n', ["a"], ["b"]),
        ('[[step]]\ntype="vote"\nminimum_share=1.0\n', ["a"], ["b"]),
        ('[[step]]\ntype="execute"\ncolumn="code"\ninto="response"\n', ["a"], ["7\n"]),
        ('[[step]]\ntype="score"\n', ["a"], []),
        ('[[step]]\ntype="rank"\nitems="pair_list"\nmethod="scores"\nquestion=""\nby="share"\n', ["a"], ["b"]),
        ('[[step]]\ntype="rank"\nmethod="scores"\nby="share"\nminimum=2\n', ["a"], []),
        ('[[step]]\ntype="chunk"\nsource="long"\nwords=20\noverlap=0\ninto="response"\n', ["a"], None),
        ('[[step]]\ntype="emit"\nkind="preference"\nchosen="response"\nrejected="same"\n', ["a"], ["['b', '0']", "b"]),
    ],
    ids=lambda value: value.split('"')[1] if isinstance(value, str) else "",
)
def test_rows_for_which_a_step_is_not_pass_it_by_unchanged(
    step: str, others: list[str], chosen: list[str] | None, tmp_path: Path
) -> None:
    made = (
        '[[step]]\ntype="prompt"\ntext="0"\ninto="same"\n[[step]]\ntype="prompt"\ntext="print(7)"\ninto="code"\n'
        '[[step]]\ntype="prompt"\ntext="1. x\\n2. y"\ninto="pair"\n[[step]]\ntype="prompt"\ntext="1"\ninto="share"\n'
        '[[step]]\ntype="prompt"\ntext="{% for n in range(45) %}word{{ n }}. {% endfor %}"\ninto="long"\n'
        '[[step]]\ntype="parse"\nsource="pair"\nformat="list"\ninto=["pair_list"]\n'
    )
    folder = run(tmp_path, ["a", "b"], made + ANSWER + step + WHEN + EMIT)
    rows = events(folder, Row)
    of_a = [str(row.row["text"]) for row in rows if row.row["prompt_id"] == 1 and "text" in row.row]
    of_b = sorted(str(row.row.get("text") or row.row.get("candidates")) for row in rows if row.row["prompt_id"] == 2)
    assert of_a == others
    assert all(row.row["status"] == "pending" for row in rows if row.row["prompt_id"] == 1)
    if chosen is None:
        assert len(of_b) > 1
    else:
        assert of_b == sorted(chosen)
    assert sum(step.get("passed_by", 0) for step in funnel(folder)) == step.count("when=") + 1
    assert agrees(folder)


def test_a_row_is_not_asked_and_progress_knows_it(tmp_path: Path) -> None:
    folder = run(tmp_path, ["a", "b"], ANSWER + SAMPLE + 'samples=3\ninto="more"\n' + WHEN + EMIT)
    assert sorted(asked(folder)) == ["1:0:0", "2:0:0", "2:0:0:2:0", "2:0:0:2:1", "2:0:0:2:2"]
    last = events(folder, Progress)[-1]
    assert (last.done, last.total) == (5, 5)


def test_a_row_that_no_emit_step_is_for_is_listed(tmp_path: Path) -> None:
    folder = run(tmp_path, ["a", "b"], ANSWER + EMIT + WHEN)
    assert texts(folder) == ["b"]
    assert drops(folder) == [(1, "emit", "no emit step was for it")]


def test_an_answer_without_its_prompt_falls_in_the_run_not_in_the_project(tmp_path: Path) -> None:
    steps = (
        '[[step]]\ntype="prompt"\ntext="Say {{ number }}"\ninto="wish"\n'
        '[[step]]\ntype="emit"\nkind="prompt"\ntext="wish"\nwhen="number == 2"\n'
        '[[step]]\ntype="prompt"\nstart=""\nuser="{{ wish }}"\n' + ANSWER + EMIT
    )
    folder = run(tmp_path, [], steps, '[input]\nsource="nothing"\nrows=2')
    assert [event.kind for event in events(folder, Row)] == ["prompt", "response"]
    assert drops(folder) == [(0, "emit", "there is no prompt that it belongs to")]
    assert agrees(folder)


def test_a_condition_that_fails_on_a_row_fells_it(tmp_path: Path) -> None:
    folder = run(tmp_path, ["a", "b"], ANSWER + '[[step]]\ntype="filter"\nwhen="prompt > 5"\n' + EMIT)
    assert [step for _, step, _ in drops(folder)] == ["filter", "filter"]
    assert "step 3 (filter), when" in drops(folder)[0][2]


def test_a_trial_says_what_was_passed_by(tmp_path: Path) -> None:
    with new_project(tmp_path, ["a"]) as project:
        tried = new_run(project, {"function": "echo"}, recipe_of(ANSWER + EMIT + EMIT + WHEN), trial=1)
        attempt(tried)
        assert [trace.step for trace in events(tried, Traced) if trace.by] == [3]


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (SAMPLE + PARSE + WHEN + EMIT, "reads 'response', which is written only when prompt == 'b'"),
        (ANSWER + EMIT + 'when="nobody"\n', "reads 'nobody'"),
        (ANSWER + EMIT + 'when="a b"\n', "cannot be read"),
        (ANSWER + EMIT + "when=1\n", "valid string"),
    ],
)
def test_a_condition_that_cannot_be_is_refused_with_its_line(steps: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        recipe_of(steps)
    assert words in f"{caught.value.title} {caught.value.detail}"
    assert "line" in caught.value.detail


def test_what_is_written_in_two_cases_may_be_read(tmp_path: Path) -> None:
    steps = SAMPLE + PARSE + WHEN + '[[step]]\ntype="prompt"\ntext="other"\ninto="response"\nwhen="prompt != \'b\'"\n'
    assert texts(run(tmp_path, ["a", "b"], steps + EMIT)) == ["b", "other"]


REVISE = (
    ANSWER
    + '[[step]]\ntype="prompt"\nuser="Criticise: {{ response }}"\n'
    + SAMPLE
    + 'into="critique"\ntemperature=1\n'
    + '[[step]]\ntype="prompt"\nuser="Again: {{ critique }}"\nwhen="\'bad\' in critique"\n'
    + SAMPLE
    + "samples=3\ntemperature=1\nwhen=\"'bad' in critique\"\n"
    + PARSE
    + "when=\"'bad' in critique\"\n"
    + '[[step]]\ntype="vote"\nwhen="\'bad\' in critique"\n'
    + '[[step]]\ntype="deduplicate"\nwhen="prompt != \'p3\'"\n'
    + EMIT
    + 'extras=["critique"]\n'
)
SCRIPT = {
    "rules": [
        {"match": "^Criticise", "text": ["bad", "good", "also bad"]},
        {"match": "^Again", "text": ["one", "two"]},
    ],
    "default": ["first", "{prompt}"],
    "out_of_order": 4,
}
PROMPTS = [f"p{number}" for number in range(12)]


def test_with_conditions_a_killed_run_is_the_undisturbed_one(tmp_path: Path) -> None:
    def written(folder: Path) -> list[tuple[str, str]]:
        return sorted((str(event.row["key"]), str(event.row)) for event in events(folder, Row))

    whole = run(tmp_path / "whole", PROMPTS, REVISE, script=SCRIPT, seed=2)
    assert funnel(whole)[5].get("passed_by"), "some are good at once"
    assert funnel(whole)[5]["entered"]
    assert agrees(whole)
    chance = random.Random(1)
    with new_project(tmp_path / "killed", PROMPTS) as project:
        folder = new_run(project, SCRIPT, recipe_of(REVISE), seed=2)
        for kill in range(12):
            try:
                attempt(folder, kill_at=chance.randrange(2, 12), after_writing=bool(kill % 2))
            except KilledError:
                continue
        attempt(folder)
        assert written(folder) == written(whole)
        assert drops(folder) == drops(whole)
        assert len(asked(folder)) == len(set(asked(folder)))


# ------------------------------------------------------------------------------------------------- rejected rows
LONG = '[[step]]\ntype="filter"\ncolumn="{column}"\nmaximum_characters=3\n'


def test_what_can_be_written_of_a_rejected_row_is_written_although_a_question_follows(tmp_path: Path) -> None:
    steps = ANSWER + LONG.format(column="response") + SAMPLE + 'into="comment"\n' + EMIT
    folder = run(tmp_path, ["ok", "far too long"], steps)
    rejected = [event.row for event in events(folder, Row) if event.row["status"] == "rejected"]
    assert [(row["text"], row["reason"]) for row in rejected] == [("far too long", "longer than 3 characters")]
    assert not drops(folder)
    assert agrees(folder)
    assert len(asked(folder)) == 3


def test_what_cannot_is_listed_with_the_step_that_rejected_it(tmp_path: Path) -> None:
    steps = LONG.format(column="prompt") + ANSWER + EMIT
    folder = run(tmp_path, ["ok", "far too long"], steps)
    assert texts(folder) == ["ok"]
    assert drops(folder) == [(2, "filter", "longer than 3 characters")]
    assert [step["fell"] for step in funnel(folder)] == [{"longer than 3 characters": 1}, {}, {}, {}]
    assert agrees(folder)


def test_a_text_that_a_question_would_have_changed_is_not_written_in_its_old_form(tmp_path: Path) -> None:
    before = '[input]\nsource="responses"'
    steps = LONG.format(column="response") + ANSWER + EMIT
    with new_project(tmp_path, ["p"]) as project:
        project.rows.add_responses([NewResponse(1, "an old answer", status="accepted")])
        folder = new_run(project, {"function": "echo"}, recipe_of(steps, before))
        attempt(folder)
        assert not events(folder, Row)
        assert drops(folder) == [(1, "filter", "longer than 3 characters")]


def test_after_its_prompt_was_written_a_rejected_row_is_listed_too(tmp_path: Path) -> None:
    steps = (
        '[[step]]\ntype="emit"\nkind="prompt"\ntext="prompt"\ntags=["new"]\n'
        + ANSWER
        + LONG.format(column="response")
        + SAMPLE
        + PARSE
        + 'into=["better"]\n'
        + '[[step]]\ntype="emit"\ntext="better"\n'
    )
    folder = run(tmp_path, ["ok", "far too long"], steps)
    assert sorted(event.kind for event in events(folder, Row)) == ["prompt", "prompt", "response"]
    assert [(step, reason) for _, step, reason in drops(folder)] == [("filter", "longer than 3 characters")]
    assert agrees(folder)


def test_nothing_belongs_to_a_prompt_that_was_not_written(tmp_path: Path) -> None:
    steps = (
        '[[step]]\ntype="prompt"\ntext="wish {{ number }}"\ninto="response"\n'
        + LONG.format(column="response")
        + '[[step]]\ntype="sample"\nrequest="talk"\n[[step]]\ntype="parse"\ninto=["question"]\n'
        + '[[step]]\ntype="emit"\nkind="prompt"\ntext="question"\n'
        + EMIT
    )
    steps = '[[step]]\ntype="prompt"\nstart=""\nuser="x"\ninto="talk"\n' + steps
    folder = run(tmp_path, [], steps, '[input]\nsource="nothing"\nrows=2')
    assert not events(folder, Row)
    assert {(step, reason) for _, step, reason in drops(folder)} == {("filter", "longer than 3 characters")}
    assert agrees(folder)


def test_rows_without_a_reference_fall_by_name_or_pass_by(tmp_path: Path) -> None:
    check = '[[step]]\ntype="filter"\nreference="reference"\n'
    for number, (more, status) in enumerate((("", "rejected"), ('when="reference"\n', "pending"))):
        with Project.create(tmp_path / str(number)) as project:
            project.rows.add_prompts(
                NewPrompt([{"role": "user", "content": text}], reference=right)
                for text, right in (("4", "4"), ("5", "4"), ("6", ""))
            )
            folder = new_run(project, {"function": "echo"}, recipe_of(ANSWER + check + more + EMIT))
            attempt(folder)
            found = {event.row["text"]: (event.row["status"], event.row["reason"]) for event in events(folder, Row)}
            assert found["4"] == ("pending", "")
            assert found["5"] == ("rejected", "is not the right answer")
            assert found["6"][0] == status
            assert found["6"][1] in ("has no answer to compare with", "")
            assert ("has no answer to compare with" in funnel(folder)[2]["fell"]) == (status == "rejected")


def test_a_filter_says_its_reason(tmp_path: Path) -> None:
    steps = ANSWER + '[[step]]\ntype="filter"\nexpression="response != \'b\' and round >= 1"\n{reason}' + EMIT
    plain = run(tmp_path / "1", ["b"], steps.format(reason=""))
    said = run(tmp_path / "2", ["b"], steps.format(reason='reason="is a b"\n'))
    reasons = [events(folder, Row)[0].row["reason"] for folder in (plain, said)]
    assert reasons == ["response is not 'b' and round is at least 1 does not hold", "is a b"]


def test_a_row_that_passes_the_loop_by_begins_no_further_round(tmp_path: Path) -> None:
    steps = (
        '[[step]]\ntype="prompt"\nuser="More: {{ prompt }}"\n'
        + ANSWER
        + '[[step]]\ntype="emit"\nkind="prompt"\ntext="response"\n'
        + '[[step]]\ntype="loop"\nstart="made"\nrounds=2\nmaximum_slide=0\nwhen="\'keep\' in prompt"\n'
    )
    folder = run(tmp_path, ["keep", "stop"], steps)
    first = [event.row["key"] for event in events(folder, Row)]
    assert sorted(first) == ["1:1:0", "2:1:0", "r2.m1:1:0"]
    assert agrees(folder)
