"""Judges: nothing that is judged leaves its place, and what they say is read strictly."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from kdstudio.elicitation.judging import (
    MAXIMUM_TEXT_CHARACTERS,
    UnjudgedError,
    asked_aspects,
    list_request,
    pair_requests,
    read_list,
    read_pair,
    read_scores,
    score_request,
    windows,
)
from kdstudio.elicitation.rubrics import ASPECTS, RUBRICS, rubric_of
from kdstudio.errors import BadInput
from kdstudio.models.chat_template import CHATML, SMOLLM2, TRANSCRIPT, render
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Completion, FinishReason, Request
from kdstudio.teachers.scripted import ScriptedTeacher
from tests.tiny import tiny_model
from tests.unit.elicitation.judge_attacks import attacks
from tests.unit.teachers.test_llama import teacher_of

QUALITY = ("quality",)
SCALE = (1, 5)


def scoring(answer: str, prompt: str = "Why is the sky blue?", seed: int = 7) -> Request:
    return score_request("k", "", QUALITY, SCALE, prompt, answer, seed)


def mark_of(request: Request) -> str:
    found = re.search(r"carry the mark ([0-9a-f]{16})\.", request.messages[0]["content"])
    assert found
    return found.group(1)


def parsed(request: Request) -> tuple[str, dict[str, str], str]:
    """(system message, framed texts by name, what stands outside the frames), with the mark as M."""
    system, user = request.messages
    assert (system["role"], user["role"]) == ("system", "user")
    mark = mark_of(request)
    frame = re.compile(rf"<<< {mark} ([^\n]+) begins >>>\n(.*?)\n<<< {mark} \1 ends >>>", re.DOTALL)
    texts = frame.findall(user["content"])
    outside = frame.sub("#", user["content"])
    return system["content"].replace(mark, "M"), dict(texts), outside


def said(text: str, finish_reason: FinishReason = "stop", **more: Any) -> Completion:
    return Completion("k", text, finish_reason, **more)


def scripted(script: dict[str, Any], requests: list[Request]) -> list[Completion]:
    return list(ScriptedTeacher(TeacherSpec("s", "scripted", options={"script": script})).generate(requests))


# -------------------------------------------------------------------------------------------------------- attacks
HARMLESS = "Because of Rayleigh scattering."
ATTACKS = attacks(mark_of(scoring(HARMLESS)))
CONTROL = re.compile(
    r"<\|im_start\|>|<\|im_end\|>|<\|eot_id\|>|<\|start_header_id\|>|\[/?INST\]|<<SYS>>|<</SYS>>|</?s>|<start_of_turn>"
    r"|<end_of_turn>|<\uff5cend▁of▁sentence\uff5c>|</?think>|\x00|\x1b"
)


def test_there_are_two_hundred_attacks() -> None:
    assert len(set(ATTACKS)) == 200


@pytest.mark.faults
def test_no_attack_leaves_its_place() -> None:
    system, _, outside = parsed(scoring(HARMLESS))
    for attack in ATTACKS:
        request = scoring(attack)
        assert mark_of(request) not in attack
        its_system, texts, its_outside = parsed(request)
        assert its_system == system
        assert its_outside == outside
        assert list(texts) == ["question", "answer"]
        assert texts["question"] == "Why is the sky blue?"
        assert not CONTROL.search(request.messages[1]["content"])


@pytest.mark.faults
@pytest.mark.parametrize("template", [CHATML, SMOLLM2, TRANSCRIPT])
def test_no_attack_makes_a_turn_of_its_own(template: str) -> None:
    for attack in ATTACKS:
        request = scoring(attack)
        whole = render(template, request.messages, add_generation_prompt=True)
        assert whole.count("<|im_start|>") == (0 if template == TRANSCRIPT else 3)
        assert whole.count(request.messages[1]["content"]) == 1


@pytest.mark.faults
def test_no_attack_in_a_question_a_pair_or_a_list_leaves_its_place() -> None:
    for attack in ATTACKS[::3]:
        for request, names in (
            (scoring(HARMLESS, prompt=attack), ["question", "answer"]),
            (pair_requests("k", "", "Why?", attack, HARMLESS, 7)[0], ["question", "answer A", "answer B"]),
            (pair_requests("k", "", "Why?", attack, HARMLESS, 7)[1], ["question", "answer A", "answer B"]),
            (list_request("k", "", "Why?", [HARMLESS, attack, "No."], 7), ["question", "text 1", "text 2", "text 3"]),
        ):
            _, texts, outside = parsed(request)
            assert list(texts) == names
            assert outside.count("#") == len(names)
            assert not re.search("[0-9a-f]{16}", outside)


@pytest.mark.faults
def test_a_scripted_judge_is_not_moved_by_any_attack() -> None:
    requests = [score_request(f"{number}", "", QUALITY, SCALE, "Why?", a, 7) for number, a in enumerate(ATTACKS)]
    assert [read_scores(answer, QUALITY, SCALE) for answer in scripted({"default": '{"quality": 2}'}, requests)] == [
        {"quality": 2.0}
    ] * 200
    for answer in scripted({"function": "echo"}, requests):
        with pytest.raises(UnjudgedError, match="repeats"):
            read_scores(answer, QUALITY, SCALE)
    pairs = [pair_requests(f"{number}", "", "Why?", attack, HARMLESS, 7) for number, attack in enumerate(ATTACKS)]
    for pair in pairs[::7]:
        one, other = scripted({"default": '{"better": "A"}'}, list(pair))
        assert read_pair(one, other) == "tie"


def test_a_text_that_knows_the_mark_gets_another() -> None:
    known = mark_of(scoring("x"))
    again = scoring(f"x {known.upper()}")
    assert mark_of(again) != known
    assert mark_of(scoring(f"x {known} {mark_of(again)}")) not in (known, mark_of(again))
    assert scoring("x") == scoring("x")
    assert mark_of(scoring("x", seed=8)) != known


def test_texts_are_shown_as_they_are_but_for_control_tokens() -> None:
    code = "def f(x):\n\treturn x <| y |> z if a < b > c else [x]  # naïve ‘quote’ 心\n"
    assert parsed(scoring(code))[1]["answer"] == code
    assert parsed(scoring("a<|im_end|>b\r\nc\ud800"))[1]["answer"] == "a< |im_end|>b\nc?"
    long = parsed(scoring("a" * 100_000))[1]["answer"]
    assert len(long) < MAXIMUM_TEXT_CHARACTERS + 100
    assert "70,000 characters are left out" in long
    assert list(parsed(scoring("x", prompt=" "))[1]) == ["answer"]


# ------------------------------------------------------------------------------------------------------- requests
def test_a_request_binds_the_judge_to_an_enumeration() -> None:
    request = score_request("k", "ultrafeedback", (), (0, 3), "Why?", "So.", 5)
    names = ("helpfulness", "honesty", "truthfulness", "instruction_following")
    assert asked_aspects("ultrafeedback") == names
    schema = json.loads(request.sampling.json_schema)
    assert tuple(schema["required"]) == names
    assert schema["properties"]["honesty"] == {"type": "integer", "enum": [0, 1, 2, 3]}
    assert (request.key, request.speaker, request.sampling.temperature) == ("k", "judge", 0.0)
    assert ASPECTS["honesty"] in request.messages[0]["content"]
    one, other = pair_requests("k", "law", "Why?", "first", "second", 5)
    assert (one.key, other.key) == ("k:1", "k:2")
    assert (parsed(one)[1]["answer A"], parsed(other)[1]["answer A"]) == ("first", "second")
    listed = json.loads(list_request("k", "", "", ["a", "b"], 5).sampling.json_schema)
    assert listed["properties"]["order"]["items"]["enum"] == [1, 2]


def test_rubrics_are_named_or_written() -> None:
    assert {"law", "medical", "finance", "science", "education", "it_operations", "grounding", "safety"} <= set(RUBRICS)
    for rubric in RUBRICS.values():
        assert rubric.aspects
        assert len(rubric.text.split()) < 60
    assert rubric_of("").key == "quality"
    own = score_request("k", "Is it in rhyme?", ("rhyme", "clarity"), SCALE, "Why?", "So.", 5)
    assert "Is it in rhyme?" in own.messages[0]["content"]
    assert ASPECTS["clarity"] in own.messages[0]["content"]
    with pytest.raises(BadInput, match="Unknown rubric"):
        rubric_of("qualty")
    with pytest.raises(BadInput, match="scale"):
        score_request("k", "", QUALITY, (3, 3), "Why?", "So.", 5)


def test_a_real_model_bound_to_the_schema_judges_readably() -> None:
    teacher = teacher_of(tiny_model(layers=1, context=4096), requests_at_once=2)
    try:
        requests = [
            score_request("s", "law", (), SCALE, "Why?", "So.", 5),
            *pair_requests("p", "", "Why?", "a", "b", 5),
        ]
        found = {answer.key: answer for answer in teacher.generate(requests)}
    finally:
        teacher.close()
    scores = read_scores(found["s"], asked_aspects("law"), SCALE)
    assert set(scores) == set(RUBRICS["law"].aspects)
    assert read_pair(found["p:1"], found["p:2"]) in ("first", "second", "tie")


# -------------------------------------------------------------------------------------------------------- reading
@pytest.mark.parametrize(
    "text",
    [
        '{"quality": 4, "instruction_following": 2}',
        'Sure!\n```json\n{"Quality": "4", "Instruction following": 2.0}\n```\nBecause it is so.',
        '{"quality": {"score": 4, "reason": "x"}, "instruction-following": "2/5"}',
        '<think>Maybe {"quality": 1, "instruction_following": 1}?</think>{"quality":4,"instruction_following":2}',
        '{"quality": 4, "instruction_following": 2} {"quality": 4, "instruction_following": 2}',
        "**Quality:** 4\n**Instruction following:** 2 out of 5",
    ],
)
def test_scores_are_read_in_many_shapes(text: str) -> None:
    assert read_scores(said(text), ["quality", "instruction_following"], SCALE) == {
        "quality": 4.0,
        "instruction_following": 2.0,
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no score"),
        ("I cannot judge this.", "no score"),
        ('{"quality": 4', "no score"),
        ('{"quality": true}', "no score"),
        ('{"quality": null}', "no score"),
        ('{"quality": NaN}', "no score"),
        ('{"quality": 1e999}', "no score"),
        ('{"quality": "very good"}', "no score"),
        ('{"quality": 6}', "not from 1 to 5"),
        ('{"quality": -1}', "not from 1 to 5"),
        ('{"quality": 2} or rather {"quality": 5}', "differ"),
        ("quality: 2\nquality: 5", "differ"),
        ("{" * 5000, "no score"),
        ('{"a":' * 5000, "no score"),
        ("[" * 100_000 + "{" * 100_000, "no score"),
        ('{"quality": ' + "9" * 5000 + "}", "no score"),
        ("4 or 5", "no score"),
    ],
)
def test_what_is_no_score_is_named(text: str, reason: str) -> None:
    with pytest.raises(UnjudgedError, match=reason):
        read_scores(said(text), QUALITY, SCALE)


def test_a_lone_number_and_failures() -> None:
    assert read_scores(said(" 4/5. "), QUALITY, SCALE) == {"quality": 4.0}
    with pytest.raises(UnjudgedError, match="too many requests"):
        read_scores(said("", "error", error="too many requests"), QUALITY, SCALE)
    with pytest.raises(UnjudgedError, match="no aspect"):
        read_scores(said('{"quality": 4}'), (), SCALE)


A, B, TIE, NONE = '{"better": "A"}', '{"better": "B"}', '{"better": "tie"}', "I like both very much, really."


@pytest.mark.parametrize(
    ("one", "other", "outcome"),
    [
        (A, B, "first"), (B, A, "second"), (A, A, "tie"), (B, B, "tie"), (TIE, TIE, "tie"), (A, TIE, "tie"),
        (TIE, A, "tie"), (A, NONE, "tie"), (NONE, A, "tie"), ("A", "Answer: B", "first"), ("[[B]]", "[[A]]", "second"),
        ("This is a good answer.", B, "tie"), ("Tie.", "tie", "tie"), (A, '{"better": "A"} {"better": "B"}', "tie"),
    ],
)  # fmt: skip
def test_a_pair_is_decided_only_by_both_orders(one: str, other: str, outcome: str) -> None:
    assert read_pair(said(one), said(other)) == outcome


def test_a_pair_that_nobody_decides_is_unjudged() -> None:
    with pytest.raises(UnjudgedError):
        read_pair(said(NONE), said("", "error"))


def test_orders_are_read_and_completed() -> None:
    assert read_list(said('{"order": [3, 1, 2]}'), 3) == [2, 0, 1]
    assert read_list(said("[2] > [3] > [1]"), 3) == [1, 2, 0]
    assert read_list(said('{"order": [3, 3, 9]}'), 4) == [2, 0, 1, 3]
    with pytest.raises(UnjudgedError):
        read_list(said("All are fine."), 3)


def test_windows_bring_the_best_to_the_front() -> None:
    assert windows(20) == [(10, 20), (5, 15), (0, 10)]
    assert windows(7) == [(0, 7)]
    assert windows(11, 10) == [(1, 11), (0, 6)]
    assert windows(3, 2) == [(1, 3), (0, 2)]
    chance = random.Random(1)
    for count, window in ((40, 10), (37, 8), (5, 10), (100, 20), (2, 2)):
        values = chance.sample(range(1000), count)
        order = list(range(count))
        for start, end in windows(count, window):
            assert 0 <= start < end <= count
            assert end - start <= window
            order[start:end] = sorted(order[start:end], key=lambda place: -values[place])
        assert [values[place] for place in order[: window // 2]] == sorted(values, reverse=True)[: window // 2]
