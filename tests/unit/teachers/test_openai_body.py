"""Raw bodies: read as they came, kept in a journal's lines, log-probs only where they are those of the text."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdstudio.jobs.events import MAXIMUM_LINE_BYTES, Body, decode, encode
from kdstudio.teachers.bodies import PLAIN_CHARACTERS, pieces, whole
from kdstudio.teachers.openai_body import MAXIMUM_CHARACTERS, ReportedError, UnreadableError, read_body


def stream(*events: dict[str, Any] | str) -> str:
    data = (event if isinstance(event, str) else json.dumps(event) for event in events)
    return "".join(f"data: {item}\n\n" for item in data)


def delta(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "choices": [{"delta": {"content": text}, "finish_reason": finish, **more}]}


def token(text: str, value: float = -0.5, **more: Any) -> dict[str, Any]:
    return {"token": text, "logprob": value, **more}


def test_a_stream_is_read_with_its_usage_and_its_model() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    raw = ": hello\n\n" + stream(delta("Hi"), delta(" you", "stop"), {"choices": [], "usage": usage}, "[DONE]")
    found = read_body(raw, "k")
    assert (found.completion.text, found.completion.finish_reason) == ("Hi you", "stop")
    assert (found.completion.prompt_tokens, found.completion.tokens, found.cached_tokens) == (9, 2, 4)
    assert found.model == "tiny"


def test_lines_may_end_as_the_standard_lets_them() -> None:
    raw = stream(delta("Hi"), delta("!", "stop")).replace("\n", "\r\n").replace("data: ", "data:")
    assert read_body(raw, "k").completion.text == "Hi!"


def test_an_answer_in_one_piece_is_read() -> None:
    message = {"content": "Hi", "reasoning_content": "Hm"}
    found = read_body(json.dumps({"choices": [{"message": message, "finish_reason": "length"}]}), "k").completion
    assert (found.text, found.reasoning, found.finish_reason) == ("Hi", "Hm", "length")


def test_an_end_without_a_reason_is_incomplete_and_what_follows_an_end_is_not_needed() -> None:
    assert read_body(stream(delta("Hi")), "k").completion.finish_reason == "incomplete"
    assert read_body(stream(delta("Hi", "stop"), '{"broken'), "k").completion.finish_reason == "stop"


def test_an_endless_answer_is_cut_as_by_a_limit() -> None:
    found = read_body(stream(*[delta("x" * 50_000)] * 20, delta("", "stop")), "k").completion
    assert (len(found.text), found.finish_reason) == (MAXIMUM_CHARACTERS, "length")


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "{}",
        "[1]",
        "null",
        "data: [1]\n",
        "data: {\n",
        '{"choices": [{}]}',
        "<html>",
        stream({"choices": []}),
        "{" * 9999,
    ],
)
def test_what_is_no_answer_is_unreadable(raw: str) -> None:
    with pytest.raises(UnreadableError):
        read_body(raw, "k")


def test_an_errors_report_is_told_from_an_answer() -> None:
    with pytest.raises(ReportedError, match="no memory") as caught:
        read_body(stream({"error": {"message": "no memory", "code": 503}}), "k")
    assert caught.value.code == 503


def test_log_probs_come_with_their_alternatives_likeliest_first() -> None:
    tops = [token("Ho", -2.0), token("Hi", -0.5)]
    raw = stream(
        delta("Hi", logprobs={"content": [token("Hi", top_logprobs=tops)]}),
        delta(" you", "stop", logprobs={"content": [token(" you", float("-inf"))]}),
    )
    first, second = read_body(raw, "k").completion.log_probs
    assert (first.text, first.log_prob, first.alternatives) == ("Hi", -0.5, (("Hi", -0.5), ("Ho", -2.0)))
    assert second.log_prob == -9999.0


@pytest.mark.parametrize(
    "content",
    [
        [],
        None,
        "x",
        [token("Hu")],
        [token("H")],
        [{"token": "Hi"}],
        [token("Hi", 0.5)],
        [token("Hi", float("nan"))],
        [3],
    ],
)
def test_log_probs_that_are_missing_or_not_of_this_text_are_left_out(content: Any) -> None:
    found = read_body(stream(delta("Hi", "stop", logprobs={"content": content})), "k").completion
    assert (found.text, found.log_probs) == ("Hi", ())


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_body(text, "k")
    except (UnreadableError, ReportedError):
        return


@pytest.mark.parametrize("length", [0, 5, PLAIN_CHARACTERS, PLAIN_CHARACTERS + 1, 3_000_000])
def test_a_body_comes_back_from_the_journal_as_it_was(length: int) -> None:
    chance = random.Random(length)
    raw = "".join(
        chr(chance.choice((0, 34, 92, 65, 0xE9, 0x1F600, chance.randrange(32, 0xD000)))) for _ in range(length)
    )
    lines = [encode(event, number) for number, event in enumerate(pieces(("api", "k"), 1, raw), 1)]
    assert all(len(line) < MAXIMUM_LINE_BYTES for line in lines)
    kept = [line.event for raw_line in lines if (line := decode(raw_line)) is not None]
    bodies = [event for event in kept if isinstance(event, Body)]
    assert len(bodies) == len(lines) == bodies[0].parts
    assert whole(bodies[::-1]) == raw


def test_a_stream_takes_little_room() -> None:
    raw = stream(*[delta(f" word{number}") for number in range(500)])
    assert sum(len(part.text) for part in pieces(("api", "k"), 1, raw)) < len(raw) / 5
