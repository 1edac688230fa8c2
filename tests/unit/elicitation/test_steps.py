"""Steps, parsing and templates."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdstudio.catalogue.steps import STEP_TYPES, FilterStep, PromptStep
from kdstudio.elicitation.parsing import UnparsableError, parse_json, parse_tagged, parse_text
from kdstudio.elicitation.sandbox import compile_template, render
from kdstudio.elicitation.steps import ASKING, BINDERS, ENDING, FallenError, Passage, bind_filter, bind_prompt
from kdstudio.errors import BadInput


def test_every_step_of_the_catalogue_has_what_executes_it() -> None:
    assert {*BINDERS, *ASKING, *ENDING} == set(STEP_TYPES)


def passage(**columns: Any) -> Passage:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "a whale"}]
    return Passage(1, "1", {"messages": messages, "prompt": "a whale", **columns})


def test_a_prompt_step_replaces_what_it_names_and_keeps_the_rest() -> None:
    row = passage()
    bind_prompt(PromptStep(), {}, "x")(row)
    assert row.columns["request"] == row.columns["messages"]
    bind_prompt(PromptStep(system="Hi {{ name }}", user="{{ prompt }}!"), {"name": "Ada"}, "x")(row)
    assert [message["content"] for message in row.columns["request"]] == ["Hi Ada", "a whale!"]
    assert row.columns["messages"][0]["content"] == "Be kind."
    row.columns["messages"] = [{"role": "user", "content": " \n"}]
    with pytest.raises(FallenError, match="empty"):
        bind_prompt(PromptStep(), {}, "x")(row)


@pytest.mark.parametrize(
    ("answer", "names", "parts"),
    [
        ("<reasoning>a\nb</reasoning> so <answer> 4 </answer>", ("reasoning", "answer"), ("a\nb", "4")),
        ("<Answer>x</ANSWER>", ("answer",), ("x",)),
        ("I will write <answer> later. <answer>no</answer> <answer>yes</answer>", ("answer",), ("yes",)),
        ("<reasoning>r</reasoning><answer>left open", ("reasoning", "answer"), ("r", "left open")),
    ],
)
def test_tagged_parts(answer: str, names: tuple[str, ...], parts: tuple[str, ...]) -> None:
    assert tuple(parse_tagged(answer, names).values()) == parts


@pytest.mark.parametrize("answer", ["", "no tags", "<answer></answer>", "<reasoning>open <answer>4</answer>"])
def test_what_lacks_a_part_says_which(answer: str) -> None:
    with pytest.raises(UnparsableError, match="<"):
        parse_tagged(answer, ("reasoning", "answer"))


def test_json_is_found_in_prose() -> None:
    answer = 'Sure! {"note": 1} Here: ```json\n{"answer": "4", "steps": [1, 2]}\n``` Enjoy {braces}.'
    assert parse_json(answer, ("answer", "steps")) == {"answer": "4", "steps": "[1, 2]"}
    with pytest.raises(UnparsableError, match="no JSON"):
        parse_json("{" * 100_000, ("answer",))
    with pytest.raises(UnparsableError, match="empty"):
        parse_text(" \n ", ("response",))


@given(st.text(max_size=300))
def test_parsers_fail_only_in_their_own_way(answer: str) -> None:
    for parse in (parse_text, parse_tagged, parse_json):
        with contextlib.suppress(UnparsableError):
            assert parse(answer, ("answer",))["answer"]


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


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="pattern"):
        bind_filter(FilterStep(refuse_pattern="("), {}, "here")


HOSTILE = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ prompt.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ [].append(1) }}{{ messages.append(1) }}",
    "{{ 'a' * 10**9 }}",
    "{{ 10 ** 10 ** 10 }}",
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{{ 'x' ~ a ~ 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy' }}{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{{ range(10**12) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ unknown_name }}",
    "{{ 1 // 0 }}",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_template_is_stopped_in_time_and_in_words(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(BadInput):
        render(compile_template(text, "here"), {"prompt": "p", "messages": []}, "here")
    assert time.monotonic() - began < 3


def test_a_template_that_cannot_be_read_names_its_line() -> None:
    with pytest.raises(BadInput, match="cannot be read") as caught:
        compile_template("fine\n{{ broken", "my recipe, step 1")
    assert "step 1, line 2" in caught.value.detail
