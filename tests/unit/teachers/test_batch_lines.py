"""A batch's lines: what is sent, what an answer and an error look like, and whose line is whose."""

from __future__ import annotations

import io
import json
from typing import Any

import anthropic
import openai
import pytest

from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.anthropic_api import AnthropicTeacher
from kdstudio.teachers.anthropic_failures import failure_of as anthropic_failure
from kdstudio.teachers.base import Request, Sampling
from kdstudio.teachers.batch_results import ResultLine, result_lines
from kdstudio.teachers.batch_wire import UnansweredError, as_line, line_of, mark_of, name_of
from kdstudio.teachers.openai_api import OpenAITeacher
from kdstudio.teachers.openai_body import ReportedError, UnreadableError
from kdstudio.teachers.openai_failures import failure_of
from kdstudio.teachers.prices import Price, price_of, shipped

OPENAI = TeacherSpec("api", "openai", url="https://api.example.org/v1", model="gpt-4o-mini")
ANTHROPIC = TeacherSpec("api", "anthropic", url="https://api.example.org", model="claude-haiku-4-5")
ASKED = Request("1:0:0", ({"role": "user", "content": "h\u00e9 \ud800"},), Sampling(max_tokens=9, seed=3))
NAMES = [name_of("run", ("api", f"{number}:0:0"), 1) for number in range(6)]


def openai_batches() -> Any:
    teacher = OpenAITeacher(OPENAI, {})
    return teacher._batches(teacher._provider(1))


def anthropic_batches() -> Any:
    teacher = AnthropicTeacher(ANTHROPIC, {})
    return teacher._batches(teacher._provider(1))


def test_a_question_is_sent_as_a_single_one_would_be_but_not_streamed() -> None:
    line = line_of(openai_batches().line(ASKED, NAMES[0]))
    assert (line["custom_id"], line["method"], line["url"]) == (NAMES[0], "POST", "/v1/chat/completions")
    assert (line["body"]["model"], line["body"]["max_tokens"], line["body"]["seed"]) == ("gpt-4o-mini", 9, 3)
    assert not {"stream", "stream_options"} & set(line["body"])
    line = line_of(anthropic_batches().line(ASKED, NAMES[0]))
    assert (line["custom_id"], line["params"]["max_tokens"]) == (NAMES[0], 9)
    assert "stream" not in line["params"]
    assert line["params"]["messages"][0]["role"] == "user"


def test_names_are_such_as_both_apis_take_and_differ_by_run_question_and_attempt() -> None:
    others = [name_of("r", ("t", "k"), 1), name_of("r", ("t", "k"), 2), name_of("s", ("t", "k"), 1)]
    assert len({*NAMES, *others}) == len(NAMES) + 3
    assert all(len(name) == 32 and name.isalnum() for name in NAMES)
    assert mark_of([b"a\n"]) != mark_of([b"b\n"])


def test_an_answer_and_each_kind_of_error_are_told_apart() -> None:
    ours, theirs = openai_batches(), anthropic_batches()
    body = {"choices": [{"message": {"content": "4."}, "finish_reason": "stop"}]}
    assert json.loads(ours.answer({"response": {"status_code": 200, "body": body}, "error": None})) == body
    assert json.loads(theirs.answer({"result": {"type": "succeeded", "message": {"content": []}}})) == {"content": []}
    for dialect, line, kind in (
        (ours, {"response": None, "error": {"code": "batch_expired", "message": "too late"}}, UnansweredError),
        (ours, {"response": None, "error": {"code": "other", "message": "x"}}, ReportedError),
        (ours, {"response": {"status_code": 200}}, UnreadableError),
        (ours, {"response": [], "error": []}, UnreadableError),
        (theirs, {"result": {"type": "expired"}}, UnansweredError),
        (theirs, {"result": {"type": "canceled"}}, UnansweredError),
        (theirs, {"result": {"type": "succeeded"}}, UnreadableError),
        (theirs, {"result": 3}, UnreadableError),
    ):
        with pytest.raises(kind):
            dialect.answer(line)


def test_an_error_line_means_what_the_same_answer_to_a_single_request_means() -> None:
    limited = {"error": {"message": "slow down", "code": None}}
    for status, body, kind in (
        (429, limited, "transient"),
        (500, None, "transient"),
        (400, {"error": {"message": "bad prompt"}}, "permanent"),
        (401, {"error": {"message": "no key"}}, "ends_run"),
        (429, {"error": {"message": "no money", "code": "insufficient_quota"}}, "ends_run"),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            openai_batches().answer({"response": {"status_code": status, "body": body}, "error": None})
        failure = failure_of(caught.value, OPENAI, "")
        assert (failure.kind, failure.may_be_billed) == (kind, False)
    for name, kind in (("overloaded_error", "transient"), ("invalid_request_error", "permanent"), ("x", "transient")):
        error = {"type": "error", "error": {"type": name, "message": "words"}}
        with pytest.raises(anthropic.APIStatusError) as found:
            anthropic_batches().answer({"result": {"type": "errored", "error": error}})
        failure = anthropic_failure(found.value, ANTHROPIC, "")
        assert (failure.kind, "words" in failure.words) == (kind, True)


def test_no_line_is_taken_for_a_question_that_it_may_not_belong_to() -> None:
    sent = [as_line({"custom_id": name, "place": place}) for place, name in enumerate(NAMES)]
    torn = sent[1][: sent[1].index(NAMES[1].encode()) + 40]
    impostor = as_line({"custom_id": NAMES[2], "place": "another"})
    stranger = as_line({"custom_id": "nobody", "place": 5})
    file = io.BytesIO(
        b"\n".join([sent[3], sent[0], torn, sent[2], impostor, b"<html>", b"", stranger, sent[0], b"[1]"])
    )
    found = list(result_lines(file, NAMES))
    by_name = {line.name: line for line in found if line.name}
    assert set(by_name) == {NAMES[0], NAMES[1], NAMES[3]}
    assert by_name[NAMES[1]].raw == torn.decode()
    assert sum(line.name == NAMES[0] for line in found) == 1  # the same twice is one
    assert [line.raw for line in found if not line.name][2:] == ["<html>", stranger.decode().strip(), "[1]"]
    assert found[0] == ResultLine(1, NAMES[3], sent[3].decode().strip())


def test_the_batch_price_is_a_share_of_all_three_and_ones_own_comes_first() -> None:
    assert Price(input=2, output=8, cached=1, batch=0.5).in_batch() == Price(input=1, output=4, cached=0.5)
    assert Price(input=2, output=8).in_batch() == Price(input=2, output=8)
    assert {price.batch for price in shipped().price} == {0.5}
    for options, share in (
        ({}, 0.5),
        ({"price": {"input": 1, "output": 2}}, 0.5),
        ({"price": {"input": 1, "output": 2, "batch": 0.7}}, 0.7),
    ):
        price = price_of(TeacherSpec(**{**vars(OPENAI), "options": options}))
        assert price is not None
        assert price.batch == share
