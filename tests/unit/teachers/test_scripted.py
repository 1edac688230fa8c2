"""The scripted teacher: deterministic, and strict about its script."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Completion, Request, Sampling
from kdstudio.teachers.opening import open_teacher
from kdstudio.teachers.scripted import ScriptedTeacher


def answers(script: dict[str, Any], *prompts: str, seed: int = 0) -> list[Completion]:
    teacher = ScriptedTeacher(TeacherSpec("s", "scripted", options={"script": script}))
    requests = [
        Request(prompt, ({"role": "user", "content": prompt},), Sampling(seed=seed + number))
        for number, prompt in enumerate(prompts)
    ]
    return list(teacher.generate(requests))


def test_each_way_to_an_answer() -> None:
    script = {
        "answers": {"a": "first", "many": ["x", "y", "z"]},
        "errors": {"bad": "no words"},
        "cut": ["long"],
        "rules": [
            {"match": "^[0-9]+$", "text": "the number {prompt}"},
            {"match": "broken", "finish_reason": "incomplete", "text": "half"},
            {"match": "never", "error": "refused"},
        ],
        "default": "said {prompt}",
    }
    found = answers(script, "a", "bad", "long", "42", "a broken one", "never ever", "else")
    assert [(item.text, item.finish_reason) for item in found] == [
        ("first", "stop"),
        ("", "error"),
        ("said long", "length"),
        ("the number 42", "stop"),
        ("half", "incomplete"),
        ("", "error"),
        ("said else", "stop"),
    ]
    assert (found[1].error, found[5].error) == ("no words", "refused")
    assert (found[6].prompt_tokens, found[6].tokens) == (1, 2)


def test_the_same_request_has_the_same_answer() -> None:
    script = {"default": [f"draw {number}" for number in range(100)]}
    one = answers(script, *"abcdefgh")
    assert one == answers(script, *"abcdefgh")
    assert one != answers(script, *"abcdefgh", seed=50)
    assert len({item.text for item in one}) > 3


@pytest.mark.parametrize(
    ("function", "answer"), [("echo", "ab {prompt}"), ("reverse", "}tpmorp{ ba"), ("upper", "AB {PROMPT}")]
)
def test_functions_of_the_prompt(function: str, answer: str) -> None:
    assert answers({"function": function}, "ab {prompt}")[0].text == answer


def test_answers_may_come_out_of_order() -> None:
    found = answers({"out_of_order": 3}, *"abcdefgh")
    assert [item.key for item in found] == list("cbafedhg")


def test_a_prompt_longer_than_the_context_fails_alone() -> None:
    found = answers({"context_tokens": 3}, "one two three", "one two three four")
    assert [item.finish_reason for item in found] == ["stop", "error"]
    assert "does not fit" in found[1].error


def test_a_stop_interrupts_a_delay() -> None:
    teacher = ScriptedTeacher(TeacherSpec("s", "scripted", options={"script": {"delay": 30}}))
    began = time.monotonic()
    request = Request("k", ({"role": "user", "content": "a"},))
    assert list(teacher.generate([request], stop=lambda: time.monotonic() - began > 0.1)) == []
    assert time.monotonic() - began < 2


def test_a_script_is_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"default": "from a file"}))
    teacher = open_teacher(TeacherSpec("s", "scripted", path=str(path)), {})
    assert next(iter(teacher.generate([Request("k", ())]))).text == "from a file"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", "cannot be read"),
        ("[1]", "not a script"),
        ('{"answer": {}}', "not a script"),
        ('{"delay": -1}', "not a script"),
        ('{"default": []}', "not a script"),
        ('{"rules": [{"match": "("}]}', "not a script"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_bad_script_says_so(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "script.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=words) as caught:
        ScriptedTeacher(TeacherSpec("s", "scripted", path=str(path)))
    assert str(path) in caught.value.detail


def test_a_missing_script_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        ScriptedTeacher(TeacherSpec("s", "scripted", path=str(tmp_path / "none.json")))


def test_scoring_is_refused_in_words() -> None:
    teacher = ScriptedTeacher(TeacherSpec("s", "scripted", options={"script": {}}))
    with pytest.raises(KnownError, match="no log-probs"):
        teacher.score([([1], [2])], 5)
