"""What is sent for a form, for log-probs and for pictures, what is left out when refused, and who answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdstudio.models.spec import TeacherSpec
from kdstudio.models.tool_calls import with_tools
from kdstudio.teachers.base import Completion, Request, Sampling
from kdstudio.teachers.openai_api import OpenAITeacher
from tests.loopback import Fault, Loopback
from tests.support.paid_server import PaidServer

CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
OPEN = {"type": "object", "properties": {"a": {"type": "string"}}}


def ask(url: str, sampling: Sampling, content: Any = "question", count: int = 1) -> tuple[list[Completion], list[str]]:
    teacher = OpenAITeacher(TeacherSpec("api", "openai", url=url, model="tiny"), {})
    requests = [Request(f"{index}:0:1", ({"role": "user", "content": content},), sampling) for index in range(count)]
    return list(teacher.generate(requests)), teacher.notes


@pytest.mark.parametrize(("schema", "strict"), [(CLOSED, True), (OPEN, False), ({"anyOf": [CLOSED, OPEN]}, False)])
def test_a_schema_goes_along_and_is_strict_only_where_it_can_be(schema: dict[str, Any], strict: bool) -> None:
    with Loopback() as server:
        ask(server.url, Sampling(json_schema=json.dumps(schema)))
        sent = server.asked[0].body["response_format"]
        assert sent == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": strict}}


def test_log_probs_are_asked_for_and_both_parameters_left_out_where_one_is_refused() -> None:
    with Loopback() as server:
        ask(server.url, Sampling(log_probs=50))
        assert (server.asked[0].body["logprobs"], server.asked[0].body["top_logprobs"]) == (True, 20)
    with Loopback(refuses=("logprobs", "response_format")) as server:
        found, notes = ask(server.url, Sampling(log_probs=5, json_schema=json.dumps(OPEN)), count=4)
        assert [item.finish_reason for item in found] == ["stop"] * 4
        assert [item.log_probs for item in found] == [()] * 4
        assert not {"logprobs", "top_logprobs", "response_format"} & set(server.asked[-1].body)
        assert len(notes) == 2


def test_parts_of_a_message_go_through_as_they_are() -> None:
    parts = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
    ]
    with Loopback(answer=lambda prompt: "a cat") as server:
        found, _ = ask(server.url, Sampling(), parts)
        assert found[0].text == "a cat"
        assert server.asked[0].body["messages"] == [{"role": "user", "content": parts}]


def test_an_attempt_has_a_name_in_the_servers_log() -> None:
    with Loopback() as server:
        ask(server.url, Sampling())
        assert server.asked[0].headers["x-client-request-id"] == "-/api/0:0:1/1"


def test_a_server_that_goes_on_refusing_what_is_left_out_does_not_keep_us_for_ever() -> None:
    with Loopback() as server:
        server.fault_for = lambda asked: Fault("status", 400, "Unsupported parameter: 'seed'", param="seed")
        found, _ = ask(server.url, Sampling())
        assert found[0].finish_reason == "error"
        assert len(server.asked) < 20


def test_another_models_answer_is_kept_and_shown_but_not_taken(tmp_path: Path) -> None:
    with PaidServer(tmp_path / "server.jsonl", told={"faults": 0.3, "only": "wrong model"}) as server:
        found, _ = ask(server.url, Sampling(), count=40)
        texts = {item.key: item for item in found}
        faults = [entry["fault"] for entry in server.entries()]
        wrong = [entry["name"].split("/")[2] for entry in server.entries() if entry["fault"]]
        assert not faults[0]
        assert len(faults) == 40
        assert 4 < len(wrong) < 20
        for key, answer in texts.items():
            assert answer.finish_reason == ("error" if key in wrong else "stop")
        assert "another model answered: 'another' instead of 'tiny'" in texts[wrong[0]].error


def test_tools_that_messages_carry_in_memory_are_not_sent_as_part_of_a_message() -> None:
    messages = with_tools([{"role": "user", "content": "question"}], [{"type": "function", "function": {"name": "x"}}])
    with Loopback() as server:
        teacher = OpenAITeacher(TeacherSpec("api", "openai", url=server.url, model="tiny"), {})
        (answer,) = teacher.generate([Request("1:0:1", messages)])
        assert not answer.error
        assert server.asked[0].body["messages"] == [{"role": "user", "content": "question"}]
