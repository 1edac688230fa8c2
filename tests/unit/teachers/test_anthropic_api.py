"""The Anthropic teacher against a real server on loopback: answers, forms, faults, retries, stops."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.endpoint import anthropic_url, speaks_anthropic
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import asking
from kdstudio.teachers.anthropic_api import AnthropicTeacher
from kdstudio.teachers.base import Completion, Request, Sampling
from kdstudio.teachers.opening import open_teacher
from tests.anthropic_loopback import AnthropicLoopback
from tests.loopback import Fault, FaultKind, closed_port

CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
OPEN = {"type": "object", "properties": {"a": {"type": "string"}}}
ROWS = {"type": "array", "items": OPEN}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full jitter stays, its bound shrinks: the tests are about order and counts, not about seconds."""
    monkeypatch.setattr(asking, "_BASE_WAIT", 0.01)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "of the environment, never used")


@pytest.fixture
def server() -> Iterator[AnthropicLoopback]:
    with AnthropicLoopback() as running:
        yield running


def teacher_at(url: str, *, key: str = "", **options: Any) -> AnthropicTeacher:
    spec = TeacherSpec("api", "anthropic", url=url, model="tiny", key_name="my key" if key else "", options=options)
    return AnthropicTeacher(spec, {"my key": key})


def ask(
    teacher: AnthropicTeacher, count: int = 1, sampling: Sampling | None = None, system: str = ""
) -> list[Completion]:
    first = ({"role": "system", "content": system},) if system else ()
    return list(
        teacher.generate(
            Request(f"{n}", (*first, {"role": "user", "content": f"question {n}"}), sampling or Sampling())
            for n in range(count)
        )
    )


@pytest.mark.parametrize("streams", [True, False])
def test_answers_come_with_their_tokens_and_reasoning_apart(server: AnthropicLoopback, streams: bool) -> None:
    server.streams, server.reasoning, server.cached = streams, "Let me think.", 5
    found = {item.key: item for item in ask(teacher_at(server.url), 8, system="Be brief.")}
    answer = found["7"]
    assert (answer.text, answer.reasoning) == ("This is the answer to question 7", "Let me think.")
    assert (answer.finish_reason, answer.prompt_tokens, answer.tokens) == ("stop", 7, 7)
    body = server.asked[0].body
    assert body["system"] == "Be brief."
    assert [turn["role"] for turn in body["messages"]] == ["user"]


def test_what_is_sent_is_what_the_recipe_says(server: AnthropicLoopback) -> None:
    ask(teacher_at(server.url), 1, Sampling(60, 0.7, 0.9, 40, 123, ("###", " ")))
    wanted = {"max_tokens": 60, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "stop_sequences": ["###"]}
    assert {name: server.asked[0].body.get(name) for name in wanted} == wanted
    assert "seed" not in server.asked[0].body
    assert server.asked[0].headers["x-client-request-id"] == "-/api/0/1"
    ask(teacher_at(server.url, extra_body={"thinking": {"type": "adaptive"}}), 1, Sampling(temperature=0.7))
    assert server.asked[1].body["thinking"] == {"type": "adaptive"}
    assert "temperature" not in server.asked[1].body


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/messages", "/v1/models"])
def test_the_url_may_be_written_in_many_ways(server: AnthropicLoopback, ending: str) -> None:
    assert ask(teacher_at(server.host + ending))[0].finish_reason == "stop"


def test_an_empty_url_is_anthropics_own_and_a_wrong_one_is_refused() -> None:
    assert anthropic_url("") == "https://api.anthropic.com"
    assert speaks_anthropic("https://api.anthropic.com")
    assert speaks_anthropic("http://localhost:4000/v1/messages/")
    assert not speaks_anthropic("https://notanthropic.com/v1")
    with pytest.raises(BadInput, match="not a URL"):
        teacher_at("api.anthropic.com")


def test_the_price_counts_cached_tokens(server: AnthropicLoopback) -> None:
    server.cached = 100
    price = {"input": 10.0, "output": 100.0, "cached": 1.0}
    assert ask(teacher_at(server.url, price=price))[0].cost == pytest.approx((2 * 10 + 100 * 1 + 7 * 100) / 1e6)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "incomplete"),
        ("pause_turn", "incomplete"),
    ],
)
def test_why_an_answer_ended(server: AnthropicLoopback, reason: str, finish: str) -> None:
    server.stop_reason = reason
    assert ask(teacher_at(server.url))[0].finish_reason == finish


def test_text_streams_to_whoever_listens(server: AnthropicLoopback) -> None:
    pieces: list[str] = []
    request = Request("0", ({"role": "user", "content": "question 0"},))
    list(teacher_at(server.url).generate([request], on_text=lambda key, text: pieces.append(text)))
    assert "".join(pieces) == "This is the answer to question 0"
    assert len(pieces) == 7


@pytest.mark.parametrize("streams", [True, False])
def test_a_closed_schema_goes_as_output_format_an_open_one_as_a_tool(server: AnthropicLoopback, streams: bool) -> None:
    server.answer, server.streams = (lambda prompt: '{"a": "b"}'), streams
    teacher = teacher_at(server.url)
    found = [ask(teacher, 1, Sampling(json_schema=json.dumps(schema)))[0] for schema in (CLOSED, OPEN, ROWS)]
    assert [item.text for item in found] == ['{"a": "b"}'] * 3
    assert [item.finish_reason for item in found] == ["stop"] * 3
    first, second, third = (item.body for item in server.asked)
    assert first["output_config"] == {"format": {"type": "json_schema", "schema": CLOSED}}
    assert (second["tools"][0]["input_schema"], second["tool_choice"]["name"]) == (OPEN, "answer")
    assert json.dumps(ROWS) in third["system"]


def test_a_form_that_is_refused_is_asked_for_in_another_way(server: AnthropicLoopback) -> None:
    server.answer = lambda prompt: '{"a": "b"}'
    server.refused = (
        ("output_config", "output_config.format: Extra inputs are not permitted"),
        ("tool_choice", "tool_choice: forced tool use is not available"),
    )
    teacher = teacher_at(server.url)
    found = ask(teacher, 4, Sampling(json_schema=json.dumps(CLOSED)))
    assert [item.text for item in found] == ['{"a": "b"}'] * 4
    assert "JSON Schema" in server.asked[-1].body["system"]
    assert [("by a tool" in note, "in words" in note) for note in teacher.notes] == [(True, False), (False, True)]


def test_parameters_that_a_model_refuses_are_left_out_and_said(server: AnthropicLoopback) -> None:
    server.refused = (
        ("top_k", "top_k: Extra inputs are not permitted"),
        ("top_p", "`temperature` and `top_p` cannot both be specified for this model."),
        ("temperature", "`temperature` is deprecated for this model."),
    )
    teacher = teacher_at(server.url)
    found = ask(teacher, 6, Sampling(temperature=0.5, top_p=0.9, top_k=4))
    assert [item.finish_reason for item in found] == ["stop"] * 6
    assert sorted(note.split("take ")[1].split(":")[0] for note in teacher.notes) == ["temperature", "top_k", "top_p"]


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault("status", status) for status in (408, 409, 429, 500, 503, 529)),
        *(Fault(kind) for kind in ("close", "cut", "empty")),
        Fault("cut", pieces=0),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}-{fault.pieces}",
)
def test_what_may_pass_is_tried_again(server: AnthropicLoopback, fault: Fault) -> None:
    server.faults = [fault, fault]
    answer = ask(teacher_at(server.url))[0]
    assert (answer.finish_reason, answer.text) == ("stop", "This is the answer to question 0")
    assert len(server.asked) == 3


def test_retry_after_is_obeyed(server: AnthropicLoopback) -> None:
    server.faults = [Fault("status", 429, retry_after="0.4")]
    ask(teacher_at(server.url))
    assert server.asked[1].at - server.asked[0].at >= 0.39


@pytest.mark.parametrize(("after", "finish"), [(0, "error"), (2, "incomplete")])
def test_an_overload_inside_a_stream_is_tried_again_and_ends_in_words(
    server: AnthropicLoopback, after: int, finish: str
) -> None:
    server.error_after = after
    answer = ask(teacher_at(server.url, tries=2))[0]
    assert answer.finish_reason == finish
    assert len(server.asked) == 2
    assert answer.text == ("This is" if after else "")
    assert after or "529 (the server is overloaded)" in answer.error


@pytest.mark.parametrize(("kind", "begins"), [("wrong_json", "unexpected"), ("broken_json", "choices")])
def test_what_came_and_cannot_be_read_is_kept_and_shown(
    server: AnthropicLoopback, kind: FaultKind, begins: str
) -> None:
    server.faults = [Fault(kind)]
    answer, other = sorted(ask(teacher_at(server.url, requests_at_once=1), 2), key=lambda item: item.key)
    assert (answer.finish_reason, other.finish_reason) == ("error", "stop")
    assert begins in answer.error
    assert "not asked again" in answer.error
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_cannot_pass_is_not_tried_again_and_the_others_go_on(server: AnthropicLoopback, status: int) -> None:
    server.faults = [Fault("status", status, "prompt is too long: 210000 tokens > 200000 maximum")]
    found = ask(teacher_at(server.url, requests_at_once=1), 3)
    assert [item.finish_reason for item in found] == ["error", "stop", "stop"]
    assert "prompt is too long" in found[0].error
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("fault", "title"),
    [
        (Fault("status", 401), "refused the key"),
        (Fault("status", 403), "refused the key"),
        (Fault("status", 404), "does not know this"),
        (Fault("status", 402), "no credit"),
        (Fault("status", 400, "Your credit balance is too low to access the Anthropic API."), "no credit"),
        (Fault("html"), "not a chat endpoint"),
    ],
)
def test_what_no_request_can_escape_ends_the_run(server: AnthropicLoopback, fault: Fault, title: str) -> None:
    server.fault_for = lambda asked: fault
    with pytest.raises(KnownError, match=title) as caught:
        ask(teacher_at(server.url, key="sk-ant-secret", requests_at_once=1), 50)
    assert len(server.asked) == 1
    assert "sk-ant" not in f"{caught.value} {caught.value.detail} {caught.value.hint}"


def test_the_key_is_the_given_one_and_never_in_what_is_said(server: AnthropicLoopback) -> None:
    server.key = "sk-ant-right"
    assert ask(teacher_at(server.url, key="sk-ant-right"))[0].finish_reason == "stop"
    with pytest.raises(KnownError, match="asks for a key") as caught:
        ask(teacher_at(server.url))
    assert "environment" not in caught.value.detail
    with pytest.raises(KnownError, match="refused the key"):
        ask(teacher_at(server.url, key="sk-ant-wrong"))


def test_a_dead_server_ends_the_run_in_words() -> None:
    with pytest.raises(KnownError, match="cannot be reached"):
        ask(teacher_at(f"http://127.0.0.1:{closed_port()}", tries=1), 5)


def test_silence_is_told_from_a_dead_server(server: AnthropicLoopback) -> None:
    server.fault_for = lambda asked: Fault("slow", seconds=1.0)
    with pytest.raises(KnownError, match="did not answer in time"):
        ask(teacher_at(server.url, tries=1, timeout_seconds=0.2))


def test_a_stop_interrupts_a_silent_server_promptly(server: AnthropicLoopback) -> None:
    server.fault_for = lambda asked: Fault("slow", seconds=2.0)
    stopping = threading.Event()
    threading.Timer(0.3, stopping.set).start()
    requests = [Request(f"{n}", ({"role": "user", "content": "q"},)) for n in range(8)]
    began = time.monotonic()
    assert list(teacher_at(server.url).generate(requests, stop=stopping.is_set)) == []
    assert time.monotonic() - began < 1.5


def test_a_prompt_that_has_no_form_here_fails_alone_and_is_not_sent(server: AnthropicLoopback) -> None:
    odd = Request("odd", ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},))
    good = Request("good", ({"role": "user", "content": "question"},))
    found = {item.key: item for item in teacher_at(server.url).generate([odd, good])}
    assert (found["odd"].finish_reason, found["good"].finish_reason) == ("error", "stop")
    assert "neither text nor a picture" in found["odd"].error
    assert len(server.asked) == 1


def test_models_are_listed_and_the_teacher_opens_by_its_kind(server: AnthropicLoopback) -> None:
    server.models = ("tiny", "large")
    teacher = open_teacher(TeacherSpec("api", "anthropic", url=server.url, model="tiny"), {})
    assert isinstance(teacher, AnthropicTeacher)
    assert teacher.models() == ["tiny", "large"]
    with pytest.raises(KnownError, match="no log-probs"):
        teacher.score([([1], [2])], 5)
