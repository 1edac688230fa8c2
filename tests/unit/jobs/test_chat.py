"""The chat server as the window uses it: a child process with JSON lines in and out; and `chat_once` in-process."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs.chat import _sampling, chat_once
from kdstudio.jobs.chat_models import LlamaChat, TeacherChat
from kdstudio.jobs.events import Settled
from kdstudio.jobs.journal import read_journal
from kdstudio.models.pictures import keep
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Request, Sampling
from kdstudio.teachers.llama import LlamaTeacher
from tests.loopback import Loopback
from tests.support.huge_gguf import huge_gguf
from tests.tiny import tiny_gguf, tiny_model

ASK = [{"role": "user", "content": "the quick brown fox"}]
GREEDY = Sampling(max_tokens=24)


def never() -> bool:
    return False


def ignore(_text: str) -> None:
    return None


class Server:
    """A running chat server."""

    def __init__(self, models: list[dict[str, Any]], secrets: dict[str, str] | None = None, **more: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kdstudio", "chat-server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.seen: list[dict[str, Any]] = []
        self.say({"models": models, "secrets": secrets or {}, **more})

    def say(self, message: dict[str, Any] | bytes) -> None:
        stream: IO[bytes] | None = self.process.stdin
        assert stream is not None
        stream.write(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")
        stream.flush()

    def ask(self, identity: str, model: str = "student", **sampling: Any) -> None:
        self.say({"id": identity, "model": model, "messages": ASK, "sampling": {"max_tokens": 24, **sampling}})

    def next(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server ended"
        message: dict[str, Any] = json.loads(line)
        self.seen.append(message)
        return message

    def until(self, key: str, identity: str = "") -> dict[str, Any]:
        while True:
            message = self.next()
            if key in message and (not identity or message.get("id") == identity):
                return message

    def close(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        code = self.process.wait(timeout=20)
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server([{"id": "student", "gguf": str(tiny_model())}, {"id": "teacher", "gguf": str(tiny_model(seed=1))}])
    yield running
    assert running.close() == 0


def test_streams_and_ends(server: Server) -> None:
    server.seen.clear()
    server.ask("one")
    done = server.until("done", "one")
    pieces = "".join(message["delta"] for message in server.seen if message.get("id") == "one" and "delta" in message)
    assert done["text"] == pieces
    assert done["tokens"] >= 1
    assert done["tokens_per_second"] > 0
    assert done["finish_reason"] in ("stop", "length")
    assert done["prompt_tokens"] > 5


def test_two_models_answer_at_the_same_time(server: Server) -> None:
    server.ask("a", "student")
    server.ask("b", "teacher")
    ends = {server.until("done")["id"], server.until("done")["id"]}
    assert ends == {"a", "b"}


def test_log_probs_come_with_the_end_where_they_are_asked_for(server: Server) -> None:
    server.ask("plain")
    assert server.until("done", "plain")["log_probs"] == []
    server.ask("coloured", log_probs=3)
    done = server.until("done", "coloured")
    assert "".join(text for text, _, _ in done["log_probs"]) == done["text"]
    for text, nats, likeliest in done["log_probs"]:
        assert nats <= 0
        assert len(likeliest) == 3
        assert likeliest[0] == [text, pytest.approx(nats, abs=1e-6)]  # greedy takes the likeliest
    assert done["cost"] == 0


def test_a_file_larger_than_the_memory_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    path = huge_gguf(tmp_path / "huge.gguf", 4 * psutil.virtual_memory().total)
    with pytest.raises(KnownError, match="not enough memory"):
        LlamaChat(path)


def test_same_seed_same_answer(server: Server) -> None:
    texts = []
    for identity, seed in (("s1", 7), ("s2", 7), ("s3", 8)):
        server.ask(identity, temperature=1.0, seed=seed, top_p=0.95, top_k=40)
        texts.append(server.until("done", identity)["text"])
    assert texts[0] == texts[1] != texts[2]


def test_cancel_ends_an_answer_and_the_next_one_works(server: Server) -> None:
    server.say({"id": "long", "model": "student", "messages": ASK, "sampling": {"max_tokens": 400, "temperature": 5.0}})
    server.say({"cancel": "long"})
    assert server.until("done", "long")["finish_reason"] in ("incomplete", "stop")
    server.say({"cancel": "nobody"})
    server.ask("after")
    assert server.until("done", "after")["tokens"] >= 1


@pytest.mark.parametrize(
    ("request_line", "words"),
    [
        ({"id": "x", "model": "nobody", "messages": ASK}, "Unknown model"),
        ({"id": "x", "model": "student", "messages": "hello"}, "conversation cannot be read"),
        ({"id": "x", "model": "student", "messages": []}, ""),
        ({"id": "x", "model": "student", "messages": ASK, "sampling": {"max_tokens": 0}}, "sampling makes no sense"),
        (
            {"id": "x", "model": "student", "messages": ASK, "sampling": {"temperature": "hot"}},
            "sampling makes no sense",
        ),
        ({"id": "x", "model": "student", "messages": [{"role": "user", "content": "fox " * 3000}]}, "longer than"),
    ],
)
def test_bad_requests_get_errors_and_the_server_goes_on(
    server: Server, request_line: dict[str, Any], words: str
) -> None:
    server.say(request_line)
    error = server.until("error", "x")["error"]
    assert words in error["title"]
    assert set(error) == {"title", "detail", "hint"}
    server.ask("still")
    assert server.until("done", "still")


def test_noise_is_answered_with_an_error(server: Server) -> None:
    server.say(b"not json\n")
    assert "cannot read" in server.until("error")["error"]["title"]


def test_a_broken_file_fails_its_requests_only(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<!DOCTYPE html><html>not found</html>")
    running = Server([{"id": "bad", "gguf": str(tmp_path / "page.gguf")}, {"id": "good", "gguf": str(tiny_model())}])
    running.ask("1", "bad")
    assert "web page" in str(running.until("error", "1")["error"])
    running.ask("2", "good")
    assert running.until("done", "2")["tokens"] >= 1
    running.ask("3", "bad")
    assert running.until("error", "3")
    assert running.close() == 0


def test_ends_when_its_input_ends_even_while_answering(tmp_path: Path) -> None:
    running = Server([{"id": "student", "gguf": str(tiny_gguf(tmp_path / "m.gguf", context=4096))}])
    running.until("ready")
    running.say({"id": "a", "model": "student", "messages": ASK, "sampling": {"max_tokens": 4000, "temperature": 9.0}})
    began = time.monotonic()
    assert running.close() == 0
    assert time.monotonic() - began < 15


def test_a_secret_never_comes_back(tmp_path: Path) -> None:
    spec = {"name": "api", "kind": "openai", "url": "http://127.0.0.1:9/v1", "model": "m", "key_name": "k"}
    options = {"options": {"timeout_seconds": 2, "tries": 1}}
    running = Server([{"id": "api", "teacher": {**spec, **options}}], {"k": "sk-canary-123456"})
    running.ask("1", "api")
    error = running.until("error", "1")
    assert "sk-canary" not in json.dumps(running.seen)
    assert error["error"]["title"]
    running.close()


def test_a_teacher_that_costs_is_counted_in_the_project_and_sees_its_pictures(tmp_path: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n and more"
    with Loopback(models=("m",)) as loopback:
        options = {"price": {"input": 1.0, "output": 1.0}}
        spec = {"name": "api", "kind": "openai", "url": loopback.url, "model": "m", "options": options}
        running = Server([{"id": "api", "teacher": spec}], project=str(tmp_path))
        parts = [{"type": "text", "text": "what is it?"}, {"type": "image", "image": keep(tmp_path, png)}]
        running.say({"id": "1", "model": "api", "messages": [{"role": "user", "content": parts}]})
        cost = running.until("done", "1")["cost"]
        assert running.close() == 0
        assert base64.b64encode(png).decode() in json.dumps(loopback.asked[0].body)
    settled = [line.event for line in read_journal(tmp_path / "asked") if isinstance(line.event, Settled)]
    assert [(event.teacher, event.cost) for event in settled] == [("api", cost)]
    assert cost > 0


def test_a_teacher_that_does_not_stream_answers_whole() -> None:
    script = {"answers": {"the quick brown fox": "Once upon a time."}, "errors": {"bad": "The teacher is away."}}
    spec = {"name": "t", "kind": "scripted", "options": {"script": script}}
    running = Server([{"id": "t", "teacher": spec}])
    running.ask("1", "t")
    done = running.until("done", "1")
    assert done["text"] == "Once upon a time."
    assert [message["delta"] for message in running.seen if "delta" in message] == ["Once upon a time."]
    running.say({"id": "2", "model": "t", "messages": [{"role": "user", "content": "bad"}]})
    assert running.until("error", "2")["error"]["title"] == "The teacher is away."
    assert running.close() == 0


def test_a_turn_reads_only_what_is_new(tmp_path: Path) -> None:
    chat = LlamaChat(tiny_model(), threads=lambda: 1)
    first = chat.answer(ASK, GREEDY, ignore, never)
    again = chat.answer(ASK, GREEDY, ignore, never)
    assert first.reused == 0
    assert again.reused == again.completion.prompt_tokens - 1
    assert again.completion.text == first.completion.text
    longer = [*ASK, {"role": "assistant", "content": first.completion.text}, {"role": "user", "content": "and then"}]
    second = chat.answer(longer, GREEDY, ignore, never)
    assert second.reused >= first.completion.prompt_tokens
    fresh = LlamaChat(tiny_model(), threads=lambda: 1)
    assert fresh.answer(longer, GREEDY, ignore, never).completion.text == second.completion.text
    chat.close()
    fresh.close()


def test_equals_the_many_at_once_teacher() -> None:
    chat = LlamaChat(tiny_model(), threads=lambda: 1)
    ours = chat.answer(ASK, GREEDY, ignore, never).completion
    chat.close()
    teacher = LlamaTeacher(TeacherSpec("t", "gguf", path=str(tiny_model()), options={"threads": 1}))
    theirs = next(iter(teacher.generate([Request("k", tuple(ASK), GREEDY)])))
    teacher.close()
    assert (ours.text, ours.tokens, ours.finish_reason) == (theirs.text, theirs.tokens, theirs.finish_reason)


def test_a_streaming_teacher_streams() -> None:
    teacher = LlamaTeacher(TeacherSpec("t", "gguf", path=str(tiny_model()), options={"threads": 1}))
    chat = TeacherChat(teacher)
    seen: list[str] = []
    turn = chat.answer(ASK, GREEDY, seen.append, never)
    assert len(seen) > 1
    assert "".join(seen) == turn.completion.text
    stopped: list[str] = []
    cut = chat.answer(ASK, Sampling(max_tokens=200, temperature=9.0), stopped.append, lambda: len(stopped) >= 2)
    assert cut.completion.finish_reason == "incomplete"
    assert cut.completion.text == "".join(stopped)
    chat.close()


def test_the_context_grows_when_a_conversation_does(tmp_path: Path) -> None:
    chat = LlamaChat(tiny_gguf(tmp_path / "m.gguf", context=8192, layers=1), threads=lambda: 1)
    chat.answer(ASK, GREEDY, ignore, never)
    long = [{"role": "user", "content": "fox " * 5000}]
    turn = chat.answer(long, GREEDY, ignore, never)
    assert turn.completion.prompt_tokens > 4096
    chat.close()


def test_context_overflow_is_said(tmp_path: Path) -> None:
    chat = LlamaChat(tiny_model(), context_tokens=40, threads=lambda: 1)
    with pytest.raises(BadInput, match="longer than the model can read") as caught:
        chat.answer([{"role": "user", "content": "fox " * 200}], GREEDY, ignore, never)
    assert "40 fit" in caught.value.detail
    cut = chat.answer([{"role": "user", "content": "fox"}], Sampling(max_tokens=500, temperature=9.0), ignore, never)
    assert cut.completion.prompt_tokens + cut.completion.tokens <= 40
    chat.close()


def test_stop_before_the_first_token() -> None:
    chat = LlamaChat(tiny_model(), threads=lambda: 1)
    turn = chat.answer(ASK, GREEDY, ignore, lambda: True)
    assert turn.completion.finish_reason == "incomplete"
    assert turn.completion.tokens == 0
    chat.close()


def _bad_files() -> list[tuple[str, bytes]]:
    data = tiny_model().read_bytes()
    return [
        ("empty", b""),
        ("truncated", data[: len(data) // 2]),
        ("header only", data[:200]),
        ("random", bytes(range(256)) * 40),
        ("html", b"<!DOCTYPE html><html><body>Access denied</body></html>" * 10),
    ]


@pytest.mark.parametrize(("name", "content"), _bad_files(), ids=lambda value: value if isinstance(value, str) else "")
def test_bad_files_are_bad_input(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        chat_once(path, ASK)
    assert caught.value.exit_code == 2
    assert caught.value.title
    assert caught.value.detail


def test_missing_file_and_vocabulary_only_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        chat_once(tmp_path / "none.gguf", ASK)
    from kdstudio.models.gguf_header import read_header
    from kdstudio.students.save import vocabulary_only

    (tmp_path / "v.gguf").write_bytes(vocabulary_only(read_header(tiny_model())))
    with pytest.raises(BadInput, match="no weights"):
        chat_once(tmp_path / "v.gguf", ASK)


def test_chat_once_keeps_its_promises(tmp_path: Path) -> None:
    shutil.copy(tiny_model(), tmp_path / "m.gguf")
    seen: list[str] = []
    answer = chat_once(tmp_path / "m.gguf", ASK, max_tokens=12, on_text=seen.append)
    assert answer["text"] == "".join(seen)
    assert answer["tokens"] >= 1
    assert answer["tokens_per_second"] > 0


def test_sampling_defaults() -> None:
    assert _sampling({}) == Sampling()
    assert _sampling({"sampling": {"stop": ["a"], "unknown": 3}}).stop == ("a",)
    with pytest.raises(KnownError):
        _sampling({"sampling": {"top_p": 0}})
