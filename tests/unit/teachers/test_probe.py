"""Testing a connection: every way to fail has words of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.child import Job
from kdstudio.jobs.events import Attempt, Settled, Warned
from kdstudio.jobs.journal import read_journal
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import asking, probe
from tests.loopback import Fault, Loopback, closed_port


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.setattr(asking, "_BASE_WAIT", 0.01)
    with Loopback(models=("tiny", "large:latest")) as running:
        yield running


def probed(folder: Path, spec: TeacherSpec, **secrets: str) -> dict[str, Any]:
    run_files.write_job(folder, run_files.JobFile("probe", {"teacher": asdict(spec)}))
    job = Job(folder, secrets)
    try:
        return probe.run(job)
    finally:
        job._journal.close()


def at(url: str, model: str = "tiny", **options: Any) -> TeacherSpec:
    return TeacherSpec("api", "openai", url=url, model=model, key_name="k", options=options)


def told(folder: Path) -> list[str]:
    return [line.event.title for line in read_journal(folder) if isinstance(line.event, Warned)]


def test_a_teacher_that_works_says_something_and_how_fast(server: Loopback, tmp_path: Path) -> None:
    result = probed(tmp_path, at(server.url))
    assert result["text"].startswith("This is the answer to Say hello")
    assert result["tokens"] == 11
    assert result["tokens_per_second"] > 0
    assert result["models"] == ["tiny", "large:latest"]
    assert result["capabilities"]["generate"]
    assert not result["capabilities"]["top_k_log_probs"]
    assert len(server.asked) == 1


def test_a_scripted_teacher_is_probed_too(tmp_path: Path) -> None:
    spec = TeacherSpec("s", "scripted", options={"script": {"default": "hello there"}})
    assert probed(tmp_path, spec)["text"] == "hello there"
    with pytest.raises(KnownError, match="did not answer"):
        probed(tmp_path, TeacherSpec("s", "scripted", options={"script": {"rules": [{"match": "", "error": "no"}]}}))


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(KnownError, match="cannot be reached") as caught:
        probed(tmp_path, at(f"http://127.0.0.1:{closed_port()}/v1"))
    assert "11434" in caught.value.hint


def test_a_name_that_no_machine_has(tmp_path: Path) -> None:
    with pytest.raises(KnownError, match="cannot be reached"):
        probed(tmp_path, at("http://no-such-host.invalid/v1"))


def test_a_key_is_missing_or_wrong(server: Loopback, tmp_path: Path) -> None:
    server.key = "right-key-1"
    with pytest.raises(KnownError, match="asks for a key") as caught:
        probed(tmp_path, at(server.url))
    assert "no key called 'k'" in caught.value.detail
    with pytest.raises(KnownError, match="refused the key"):
        probed(tmp_path, at(server.url), k="wrong-key-1")
    assert probed(tmp_path, at(server.url), k="right-key-1")["text"]


def test_an_unknown_model_is_named_beside_those_there_are(server: Loopback, tmp_path: Path) -> None:
    with pytest.raises(KnownError, match="no such model") as caught:
        probed(tmp_path, at(server.url, "huge"))
    assert "'huge'" in caught.value.detail
    assert "tiny, large:latest" in caught.value.hint


def test_a_server_that_answers_to_any_name_is_fine_and_says_so(server: Loopback, tmp_path: Path) -> None:
    server.any_model = True
    assert probed(tmp_path, at(server.url, "default"))["text"]
    assert "does not list 'default'" in told(tmp_path)[0]


def test_a_key_that_only_chat_refuses_is_not_taken_for_a_wrong_model(server: Loopback, tmp_path: Path) -> None:
    server.any_model = True
    server.fault_for = lambda asked: Fault("status", 401)
    with pytest.raises(KnownError, match="refused the key"):
        probed(tmp_path, at(server.url, "default"), k="some-key-1")


def test_an_endpoint_is_told_its_price_and_what_the_test_cost(server: Loopback, tmp_path: Path) -> None:
    result = probed(tmp_path, at(server.url, price={"input": 1.0, "output": 10.0}))
    assert result["price"] == [1.0, 10.0]
    assert result["spend"] == pytest.approx(result["cost"])
    assert result["cost"] > 0
    assert result["possibly_billed"]["count"] == 0
    events = [line.event for line in read_journal(tmp_path)]
    assert [event.teacher for event in events if isinstance(event, Attempt | Settled)] == ["api", "api"]
    assert probed(tmp_path, at(server.url))["price"] == [0.0, 0.0]  # on this machine


def test_a_test_is_asked_at_once_even_of_one_that_is_asked_in_batches(server: Loopback, tmp_path: Path) -> None:
    assert probed(tmp_path, at(server.url, batch=True))["text"]


def test_a_server_that_is_too_slow(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.fault_for = lambda asked: Fault("slow", seconds=1.5)
    monkeypatch.setattr(probe, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(KnownError, match="did not answer in time"):
        probed(tmp_path, at(server.url))
    monkeypatch.setattr(probe, "SLOW_TOKENS_PER_SECOND", 1000.0)
    server.fault_for = None
    server.piece_seconds = 0.02
    probed(tmp_path, at(server.url))
    assert told(tmp_path) == ["This teacher is slow"]


def test_a_web_page_instead_of_an_endpoint(server: Loopback, tmp_path: Path) -> None:
    server.fault_for = lambda asked: Fault("html")
    with pytest.raises(KnownError, match="not a chat endpoint"):
        probed(tmp_path, at(server.url))


def test_a_path_that_is_not_there(server: Loopback, tmp_path: Path) -> None:
    with pytest.raises(KnownError, match="does not know this") as caught:
        probed(tmp_path, at(server.host + "/api/v9"))
    assert "/v1" in caught.value.hint
    assert "<" not in caught.value.detail


def test_an_answer_without_a_word(server: Loopback, tmp_path: Path) -> None:
    server.answer = lambda prompt: ""
    with pytest.raises(KnownError, match="empty"):
        probed(tmp_path, at(server.url))


def test_no_url_at_all(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a URL"):
        probed(tmp_path, at("localhost"))
