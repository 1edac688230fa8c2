"""Parsers against what models write: junk, half answers, a hundred thousand characters of anything."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdstudio.elicitation.parsing import PARSERS, UnparsableError, clean, parse_json, parse_tagged, parse_text


@pytest.mark.parametrize(
    ("answer", "names", "parts"),
    [
        ("<reasoning>a\nb</reasoning> so <answer> 4 </answer>", ("reasoning", "answer"), ("a\nb", "4")),
        ("<Answer>x</ANSWER>", ("answer",), ("x",)),
        ("I will write <answer> later. <answer>no</answer> <answer>yes</answer>", ("answer",), ("yes",)),
        ("<reasoning>r</reasoning><answer>left open", ("reasoning", "answer"), ("r", "left open")),
        ("<reasoning>r</reasoning><ANSWER>left open", ("reasoning", "answer"), ("r", "left open")),
        ("<a.b>dots</a.b>", ("a.b",), ("dots",)),
    ],
)
def test_tagged_parts(answer: str, names: tuple[str, ...], parts: tuple[str, ...]) -> None:
    assert tuple(parse_tagged(answer, names).values()) == parts


@pytest.mark.parametrize("answer", ["", "no tags", "<answer></answer>", "<reasoning>open <answer>4</answer>"])
def test_what_lacks_a_part_says_which(answer: str) -> None:
    with pytest.raises(UnparsableError, match="<"):
        parse_tagged(answer, ("reasoning", "answer"))


def test_json_is_found_in_prose() -> None:
    answer = 'Sure! {"note": 1} Here: ```json\n{"answer": " 4 ", "steps": [1, "ü"]}\n``` Enjoy {braces}.'
    assert parse_json(answer, ("answer", "steps")) == {"answer": "4", "steps": '[1, "ü"]'}
    assert parse_json('{"wrapped": {"answer": "x"}}', ("answer",)) == {"answer": "x"}
    assert parse_json("{ code } " * 1000 + '{"answer": "late"}', ("answer",)) == {"answer": "late"}
    assert parse_json('{"answer": null} {"answer": false}', ("answer",)) == {"answer": "false"}


@pytest.mark.parametrize(
    "answer", ["", "{}", '{"answer": null}', '["answer"]', "{'answer': 1}", '{"answer": 1', '{"answer": ' + "9" * 9999]
)
def test_what_is_no_such_json_says_so(answer: str) -> None:
    with pytest.raises(UnparsableError, match="no JSON object with answer"):
        parse_json(answer, ("answer",))


def test_text_is_trimmed_and_never_empty() -> None:
    assert parse_text(" a \n", ("one", "two")) == {"one": "a", "two": "a"}
    with pytest.raises(UnparsableError, match="empty"):
        parse_text(" \n ", ("response",))


@given(
    st.text(max_size=300)
    | st.lists(
        st.sampled_from(
            [
                "<answer>",
                "</answer>",
                "{",
                '"answer":',
                "}",
                "x",
                "[",
                "]",
                "\n",
                "```",
                "1. ",
                "- ",
                "1/2",
                ">",
                "\\boxed{",
            ]
        )
    ).map("".join)
)
@settings(max_examples=150)
def test_parsers_fail_only_in_their_own_way(answer: str) -> None:
    kinds: dict[str, type] = {"list": list, "permutation": list}
    for name, parse in PARSERS.items():
        for finished in (True, False):
            with contextlib.suppress(UnparsableError):
                parts = parse(answer, ("answer", "x"), finished)
                assert isinstance(parts["choice" if name == "choice" else "answer"], kinds.get(name, str))


_PIECES = (
    *(
        "{",
        "[",
        '{"a":',
        "<answer>",
        "</answer>",
        "<answer> x ",
        '"',
        "\\",
        "1",
        "1,",
        "1/",
        "1 ",
        "1. a\n",
        "- \n",
        "[1] > ",
        "[1,",
    ),
    *(
        "\n\n",
        "```\n",
        "```",
        "\\boxed{",
        "\\boxed{1}",
        "the answer is ",
        "####",
        "answer: ",
        "\n[1, ",
        "\n[",
        " ",
        "-",
        "**1. ",
    ),
    *("x(", "1 \t", "a.b", "not ", "\\frac{1}{", "\n#### 1", "🐋", "'", "[ ", "lambda:", "- ```\n", "\\{", "}"),
)


@pytest.mark.parametrize(
    "answer",
    [
        *(piece * (100_000 // len(piece)) for piece in _PIECES),
        "<answer>" + "x" * 100_000,
        "{" + '"k": {' * 15_000,
        "{" + '"answers": 1, ' * 7_000,
    ],
    ids=lambda answer: answer[:12],
)
def test_a_hundred_thousand_characters_take_no_time(answer: str) -> None:
    began = time.perf_counter()
    for parse in PARSERS.values():
        with contextlib.suppress(UnparsableError):
            parse(answer, ("reasoning", "answer"), False)
    assert time.perf_counter() - began < 2.0


def test_lone_surrogates_become_what_can_be_stored() -> None:
    assert clean("a\ud800b") == "a?b"
    assert clean("ok 🐋") == "ok 🐋"
