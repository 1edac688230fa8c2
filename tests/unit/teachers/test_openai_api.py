"""The OpenAI-compatible teacher against a real server on loopback: answers, faults, retries, stops."""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.endpoint import base_url, is_local
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import asking, background_loop
from kdstudio.teachers.base import Completion, Request, Sampling
from kdstudio.teachers.openai_api import OpenAITeacher
from tests.loopback import Asked, Fault, FaultKind, Loopback, closed_port

# A connection that is cancelled while it begins leaves anyio's inner coroutine unawaited; nothing is left open.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine 'connect_tcp:RuntimeWarning")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full jitter stays, its bound shrinks: the tests are about order and counts, not about seconds."""
    monkeypatch.setattr(asking, "_BASE_WAIT", 0.01)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback() as running:
        yield running


def teacher_at(url: str, *, key: str = "", **options: Any) -> OpenAITeacher:
    spec = TeacherSpec("api", "openai", url=url, model="tiny", key_name="my key" if key else "", options=options)
    return OpenAITeacher(spec, {"my key": key})


def questions(count: int, sampling: Sampling | None = None) -> list[Request]:
    return [
        Request(f"{index}", ({"role": "user", "content": f"question {index}"},), sampling or Sampling())
        for index in range(count)
    ]


def ask(teacher: OpenAITeacher, count: int = 1, sampling: Sampling | None = None) -> list[Completion]:
    return list(teacher.generate(questions(count, sampling)))


def test_answers_come_with_their_tokens_several_at_once(server: Loopback) -> None:
    server.piece_seconds = 0.005
    found = {item.key: item for item in ask(teacher_at(server.url), 12)}
    assert len(found) == 12
    assert found["7"].text == "This is the answer to question 7"
    assert (found["7"].finish_reason, found["7"].prompt_tokens, found["7"].tokens) == ("stop", 2, 7)
    assert 2 <= server.most_at_once <= 4
    assert len(server.asked) == 12


@pytest.mark.parametrize("ending", ["", "/", "/v1/", "/v1/chat/completions", "/v1/models"])
def test_the_url_may_be_written_in_many_ways(server: Loopback, ending: str) -> None:
    assert ask(teacher_at(server.host + ending))[0].finish_reason == "stop"


def test_a_path_that_is_not_v1_is_kept() -> None:
    assert base_url("https://example.org/api/v2/") == "https://example.org/api/v2"
    assert base_url(" http://[::1]:8080 ") == "http://[::1]:8080/v1"


@pytest.mark.parametrize("url", ["", "localhost:11434", "ftp://host/v1", "http://", "http://host:99999/v1", "http://["])
def test_what_is_no_url_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(BadInput, match="not a URL"):
        teacher_at(url)


@pytest.mark.parametrize("value", ["many", 0, -1, None, float("nan")])
def test_options_that_are_no_numbers_are_refused(value: Any) -> None:
    with pytest.raises(BadInput, match="option"):
        teacher_at("http://localhost:1", requests_at_once=value)


def test_local_servers_are_asked_without_a_proxy(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    assert ask(teacher_at(server.url))[0].finish_reason == "stop"
    assert is_local("http://localhost:1/v1")
    assert is_local("http://[::1]/v1")
    assert not is_local("https://api.example.org/v1")


def test_what_is_sent_is_what_the_recipe_says(server: Loopback) -> None:
    ask(teacher_at(server.url), 1, Sampling(60, 0.7, 0.9, 40, 123, ("###",)))
    body = server.asked[0].body
    assert {name: body[name] for name in ("model", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop")} == {
        "model": "tiny",
        "max_tokens": 60,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 123,
        "stop": ["###"],
    }
    ask(teacher_at(server.url, extra_body={"chat_template_kwargs": {"enable_thinking": False}}))
    assert server.asked[1].body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "top_p" not in server.asked[1].body
    assert "top_k" not in server.asked[1].body


def test_the_token_limit_is_told_from_an_end(server: Loopback) -> None:
    assert ask(teacher_at(server.url), 1, Sampling(max_tokens=3))[0].finish_reason == "length"


def test_a_server_that_does_not_stream_is_read_whole(server: Loopback) -> None:
    server.streams = False
    answer = ask(teacher_at(server.url))[0]
    assert (answer.text, answer.finish_reason, answer.tokens) == ("This is the answer to question 0", "stop", 7)


def test_reasoning_is_kept_apart(server: Loopback) -> None:
    server.reasoning = "Let me think."
    answer = ask(teacher_at(server.url))[0]
    assert (answer.reasoning, answer.text) == ("Let me think.", "This is the answer to question 0")


def test_text_streams_to_whoever_listens(server: Loopback) -> None:
    pieces: list[str] = []
    threads: set[str] = set()

    def show(key: str, text: str) -> None:
        threads.add(threading.current_thread().name)
        pieces.append(text)

    list(teacher_at(server.url).generate(questions(1), on_text=show))
    assert "".join(pieces) == "This is the answer to question 0"
    assert len(pieces) == 7
    assert threads == {threading.current_thread().name}


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault("status", status) for status in (408, 409, 429, 500, 503, 529)),
        *(Fault(kind) for kind in ("close", "cut", "empty")),
        Fault("cut", pieces=0),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}-{fault.pieces}",
)
def test_what_may_pass_is_tried_again(server: Loopback, fault: Fault) -> None:
    server.faults = [fault, fault]
    answer = ask(teacher_at(server.url))[0]
    assert (answer.finish_reason, answer.text) == ("stop", "This is the answer to question 0")
    assert len(server.asked) == 3


@pytest.mark.parametrize(("kind", "begins"), [("wrong_json", "unexpected"), ("broken_json", "choices")])
def test_what_came_and_cannot_be_read_is_paid_for_and_so_is_kept_and_shown(
    server: Loopback, kind: FaultKind, begins: str
) -> None:
    server.faults = [Fault(kind)]
    answer, other = sorted(ask(teacher_at(server.url, requests_at_once=1), 2), key=lambda item: item.key)
    assert (answer.finish_reason, answer.text) == ("error", "")
    assert begins in answer.error
    assert "not asked again" in answer.error
    assert other.finish_reason == "stop"
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_cannot_pass_is_not_tried_again_and_the_others_go_on(server: Loopback, status: int) -> None:
    server.faults = [Fault("status", status, "maximum context length is 10 tokens")]
    found = ask(teacher_at(server.url, requests_at_once=1), 3)
    assert [item.finish_reason for item in found] == ["error", "stop", "stop"]
    assert "maximum context length" in found[0].error
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("fault", "title"),
    [
        (Fault("status", 401), "asks for a key"),
        (Fault("status", 403), "asks for a key"),
        (Fault("status", 404), "does not know this"),
        (Fault("status", 402), "no credit"),
        (Fault("status", 429, code="insufficient_quota"), "no credit"),
        (Fault("html"), "not a chat endpoint"),
    ],
)
def test_what_no_request_can_pass_ends_the_run_at_once(server: Loopback, fault: Fault, title: str) -> None:
    server.fault_for = lambda asked: fault
    with pytest.raises(KnownError, match=title) as caught:
        ask(teacher_at(server.url, requests_at_once=1), 10)
    assert caught.value.detail
    assert caught.value.hint
    assert len(server.asked) == 1


def test_a_refused_key_is_named_and_never_repeated(server: Loopback) -> None:
    server.key = "sk-right-0123456789"
    with pytest.raises(KnownError, match="refused the key") as caught:
        ask(teacher_at(server.url, key="sk-wrong-0123456789"))
    assert "my key" in caught.value.detail
    assert "sk-wrong" not in str(caught.value)
    assert ask(teacher_at(server.url, key=server.key))[0].finish_reason == "stop"


def test_the_key_stays_out_of_the_words_of_a_failure(server: Loopback) -> None:
    server.fault_for = lambda asked: Fault("status", 400, f"bad {asked.headers['authorization']} pass-phrase-77")
    failed = ask(teacher_at(server.url, key="pass-phrase-77"))[0]
    assert failed.error
    assert "pass-phrase-77" not in failed.error


def test_retry_after_is_obeyed_in_seconds_and_as_a_date(server: Loopback) -> None:
    server.faults = [Fault("status", 429, retry_after="0.4")]
    ask(teacher_at(server.url))
    assert server.asked[1].at - server.asked[0].at >= 0.4
    date = email.utils.formatdate(time.time() + 1.5, usegmt=True)
    server.faults = [Fault("status", 503, retry_after=date)]
    ask(teacher_at(server.url))
    assert server.asked[3].at - server.asked[2].at >= 0.2


def test_tries_are_bounded_and_the_row_fails_with_its_reason(server: Loopback) -> None:
    server.fault_for = lambda asked: Fault("status", 500, "no memory") if asked.prompt == "question 0" else None
    found = {item.key: item for item in ask(teacher_at(server.url, tries=3), 4)}
    assert found["0"].finish_reason == "error"
    assert "no memory" in found["0"].error
    assert server.prompts().count("question 0") == 3
    assert sum(item.finish_reason == "stop" for item in found.values()) == 3


def test_a_server_that_is_not_there_ends_the_run_instead_of_failing_row_by_row() -> None:
    with pytest.raises(KnownError, match="cannot be reached") as caught:
        ask(teacher_at(f"http://127.0.0.1:{closed_port()}", tries=2), 100)
    assert "11434" in caught.value.hint


def test_a_server_that_goes_away_ends_the_run_and_keeps_what_came(server: Loopback) -> None:
    got: list[Completion] = []

    def leave_after_ten() -> None:
        for completion in teacher_at(server.url, tries=1, requests_at_once=2).generate(questions(1000)):
            got.append(completion)
            if len(got) == 10:
                server.hang_up()

    with pytest.raises(KnownError, match="cannot be reached"):
        leave_after_ten()
    assert sum(item.finish_reason == "stop" for item in got) >= 10
    assert len(got) < 30


def test_a_server_that_keeps_failing_ends_the_run(server: Loopback) -> None:
    server.fault_for = lambda asked: Fault("status", 503, "overloaded")
    with pytest.raises(KnownError, match="keeps failing") as caught:
        ask(teacher_at(server.url, tries=2), 1000)
    assert "overloaded" in caught.value.detail
    assert len(server.asked) < 30


def test_silence_is_told_from_a_dead_server(server: Loopback) -> None:
    server.fault_for = lambda asked: Fault("slow", seconds=1.0)
    with pytest.raises(KnownError, match="did not answer in time"):
        ask(teacher_at(server.url, tries=1, timeout_seconds=0.2))


def test_a_slow_answer_that_keeps_coming_is_not_cut(server: Loopback) -> None:
    server.piece_seconds = 0.1
    assert ask(teacher_at(server.url, timeout_seconds=0.5, tries=1))[0].finish_reason == "stop"


def test_an_end_without_a_finish_reason_is_incomplete(server: Loopback) -> None:
    server.faults = [Fault("ends", pieces=3)]
    answer = ask(teacher_at(server.url))[0]
    assert (answer.text, answer.finish_reason) == ("This is the", "incomplete")
    assert len(server.asked) == 1


def test_an_answer_that_breaks_off_each_time_is_kept_as_incomplete(server: Loopback) -> None:
    server.fault_for = lambda asked: Fault("cut", pieces=2)
    answer = ask(teacher_at(server.url, tries=3))[0]
    assert (answer.text, answer.finish_reason, answer.tokens) == ("This is", "incomplete", 2)
    assert len(server.asked) == 3


def test_text_that_was_shown_is_not_said_twice(server: Loopback) -> None:
    server.faults = [Fault("cut", pieces=2)]
    shown: list[str] = []
    found = list(teacher_at(server.url).generate(questions(1), on_text=lambda key, text: shown.append(text)))
    assert (found[0].finish_reason, "".join(shown)) == ("incomplete", "This is")


def test_parameters_that_the_endpoint_refuses_are_left_out_and_said(server: Loopback) -> None:
    server.refuses = ("max_tokens", "temperature", "stream_options", "top_k")
    teacher = teacher_at(server.url)
    found = ask(teacher, 8, Sampling(top_k=5, max_tokens=2))
    assert [item.finish_reason for item in found] == ["length"] * 8
    assert "max_tokens" not in server.asked[-1].body
    assert server.asked[-1].body["max_completion_tokens"] == 2
    assert sorted(note.split("take ")[1].split(":")[0] for note in teacher.notes) == ["temperature", "top_k"]


def test_a_parameter_that_is_out_of_range_is_a_plain_failure(server: Loopback) -> None:
    server.faults = [Fault("status", 400, "max_tokens is too large: 256", param="max_tokens")]
    assert ask(teacher_at(server.url))[0].finish_reason == "error"
    assert len(server.asked) == 1


def test_a_stop_interrupts_a_silent_server_promptly(server: Loopback) -> None:
    server.fault_for = lambda asked: Fault("slow", seconds=2.0)
    stopping = threading.Event()
    threading.Timer(0.3, stopping.set).start()
    began = time.monotonic()
    assert list(teacher_at(server.url).generate(questions(8), stop=stopping.is_set)) == []
    assert time.monotonic() - began < 1.5


def test_a_stop_interrupts_a_long_wait_promptly(server: Loopback) -> None:
    server.fault_for = lambda asked: Fault("status", 429, retry_after="60")
    stopping = threading.Event()
    threading.Timer(0.3, stopping.set).start()
    began = time.monotonic()
    assert list(teacher_at(server.url).generate(questions(8), stop=stopping.is_set)) == []
    assert time.monotonic() - began < 2.0


def test_a_pause_lets_answers_in_and_begins_nothing(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """`stop` blocks while a job is paused; answers under way are paid for and must still be handed out."""
    monkeypatch.setattr(background_loop, "_FRESH_SECONDS", 0.4)
    server.piece_seconds = 0.02
    resumed = threading.Event()
    found: list[Completion] = []
    before: list[int] = []

    def stop() -> bool:
        if len(server.asked) >= 2:
            resumed.wait(10)
        return False

    def go_on() -> None:
        before.extend((len(server.asked), len(found)))
        resumed.set()

    timer = threading.Timer(1.2, go_on)
    timer.start()
    found.extend(teacher_at(server.url, requests_at_once=2).generate(questions(24), stop=stop))
    timer.join()
    asked, answered = before
    assert asked == answered < 24
    assert len(found) == 24


def test_what_stop_raises_is_raised_here(server: Loopback) -> None:
    def stop() -> bool:
        raise KnownError("The disk is full")

    with pytest.raises(KnownError, match="disk"):
        list(teacher_at(server.url).generate(questions(3), stop=stop))


def test_requests_are_read_in_the_callers_thread_and_only_as_needed(server: Loopback) -> None:
    seen: list[str] = []

    def lazily() -> Iterator[Request]:
        for request in questions(50):
            seen.append(threading.current_thread().name)
            yield request

    for _ in teacher_at(server.url, requests_at_once=3).generate(lazily()):
        break
    assert set(seen) == {threading.current_thread().name}
    assert len(seen) <= 4


def test_faults_of_every_kind_lose_and_repeat_nothing(server: Loopback) -> None:
    faults = [
        Fault("status", 429, retry_after="0.01"),
        Fault("status", 500),
        Fault("close"),
        Fault("cut", pieces=2),
        Fault("empty"),
    ]
    tried: dict[str, int] = {}

    def fault_for(asked: Asked) -> Fault | None:
        tried[asked.prompt] = tried.get(asked.prompt, 0) + 1
        odd = sum(asked.prompt.encode()) % 2
        return faults[asked.number % len(faults)] if odd and tried[asked.prompt] < 3 else None

    server.fault_for = fault_for
    found = ask(teacher_at(server.url), 60)
    assert sorted(item.key for item in found) == sorted(str(index) for index in range(60))
    assert all(item.finish_reason == "stop" for item in found)
    assert len(server.served) == len(set(server.served)) == 60
