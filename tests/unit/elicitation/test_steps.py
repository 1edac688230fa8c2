"""What each step does to one row."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kdstudio.catalogue.steps import EmitStep, FilterStep, ParseStep, PromptStep
from kdstudio.elicitation import filters
from kdstudio.elicitation.emission import emit_row
from kdstudio.elicitation.filters import bind_filter
from kdstudio.elicitation.passage import FallenError, Passage
from kdstudio.elicitation.steps import bind_parse, bind_prompt, require_question
from kdstudio.errors import BadInput, KnownError
from kdstudio.models.chat_template import TemplateStopped

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "a whale"},
]


def passage(**columns: Any) -> Passage:
    return Passage(1, "1", {"messages": MESSAGES, "prompt": "a whale", **columns})


def request_of(step: PromptStep, **values: Any) -> list[dict[str, Any]]:
    row = passage()
    bind_prompt(step, values, "x")(row)
    assert row.columns["messages"] == MESSAGES
    messages: list[dict[str, Any]] = row.columns[step.into]
    return messages


def test_an_empty_prompt_step_sends_the_prompt_as_it_stands() -> None:
    assert request_of(PromptStep()) == MESSAGES


def test_a_prompt_step_replaces_the_turns_it_names_and_keeps_the_rest() -> None:
    sent = request_of(PromptStep(system="Hi {{ name }}", user="{{ prompt }}!", into="other"), name="Ada")
    assert [message["content"] for message in sent] == ["Hi Ada", "hello", "hi", "a whale!"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]


def test_a_prompt_without_a_users_turn_gets_one() -> None:
    row = Passage(1, "1", {"messages": [{"role": "system", "content": "s"}], "prompt": "s"})
    bind_prompt(PromptStep(user="Go on from: {{ prompt }}"), {}, "x")(row)
    assert row.columns["request"][-1] == {"role": "user", "content": "Go on from: s"}


def test_a_template_that_fails_on_a_row_fells_the_row_and_one_without_end_ends_the_run() -> None:
    with pytest.raises(FallenError, match="x, user"):
        bind_prompt(PromptStep(user="{{ messages[9].content }}"), {}, "x")(passage())
    with pytest.raises(TemplateStopped):
        bind_prompt(PromptStep(user="{{ 'a'.ljust(10 ** 10) }}"), {}, "x")(passage())


@pytest.mark.parametrize("content", ["", " \n", None, [], [{"type": "text", "text": " "}]])
def test_an_empty_question_falls(content: Any) -> None:
    with pytest.raises(FallenError, match="empty"):
        require_question([{"role": "system", "content": "s"}, {"role": "user", "content": content}])
    require_question([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


def test_what_does_not_parse_falls_and_says_when_it_was_cut_off() -> None:
    row = passage(answer="<reasoning>so I")
    row.finish_reason = "length"
    with pytest.raises(FallenError, match=r"no <answer> part \(it was cut off"):
        bind_parse(ParseStep(format="tagged", into=("answer",)), {}, "x")(row)


@pytest.mark.parametrize(
    ("step", "text", "finish", "reason"),
    [
        (FilterStep(), "fine", "stop", ""),
        (FilterStep(), "cut o", "length", "token limit"),
        (FilterStep(finished=False), "cut o", "length", ""),
        (FilterStep(), "half", "incomplete", "did not end"),
        (FilterStep(minimum_characters=9), "short", "stop", "shorter"),
        (FilterStep(maximum_characters=3), "long", "stop", "longer"),
        (FilterStep(refuse_pattern="(?i)as an ai"), "As an AI I", "stop", "refusing"),
        (FilterStep(require_pattern=r"\.$"), "no end", "stop", "required"),
    ],
)
def test_a_filter_marks_with_the_reason(step: FilterStep, text: str, finish: str, reason: str) -> None:
    row = passage(response=text)
    row.finish_reason = finish
    bind_filter(step, {}, "x")(row)
    assert reason in row.rejected
    assert bool(row.rejected) == bool(reason)


def test_the_first_reason_stays() -> None:
    row = passage(response="", other="x" * 9)
    bind_filter(FilterStep(), {}, "x")(row)
    bind_filter(FilterStep(column="other", maximum_characters=3), {}, "x")(row)
    assert "is empty" in row.rejected


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="pattern"):
        bind_filter(FilterStep(refuse_pattern="("), {}, "here")


def test_a_pattern_that_would_search_for_ever_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "PATTERN_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(KnownError, match="too long"):
        bind_filter(FilterStep(refuse_pattern="(a+)+$"), {}, "x")(passage(response="a" * 60 + "!"))
    assert time.monotonic() - began < 5


def test_a_row_carries_where_it_came_from() -> None:
    row = passage(response="Big.", thoughts="Hm.")
    row.finish_reason, row.tokens, row.seed, row.reasoning = "stop", 2, 7, "inner"
    written = emit_row(EmitStep(reasoning="thoughts"), row, teacher="t", recipe_hash="h")
    assert (written["text"], written["reasoning"], written["status"]) == ("Big.", "Hm.", "pending")
    assert (written["teacher"], written["recipe_hash"], written["seed"], written["tokens"]) == ("t", "h", 7, 2)
    assert emit_row(EmitStep(), row, teacher="t", recipe_hash="h")["reasoning"] == "inner"
    row.rejected = "too odd"
    written = emit_row(EmitStep(status="accepted"), row, teacher="t", recipe_hash="h")
    assert (written["status"], written["reason"]) == ("rejected", "too odd")
    with pytest.raises(FallenError, match="empty"):
        emit_row(EmitStep(), passage(response=" "), teacher="t", recipe_hash="h")
