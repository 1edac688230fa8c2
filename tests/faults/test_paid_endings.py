"""How a paid run ends early: a key revoked midway, the ceiling reached with requests in flight, a clock that jumps."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from kdstudio.errors import BadInput
from kdstudio.jobs.events import Warned
from kdstudio.jobs.supervisor import Supervisor
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import asking
from kdstudio.teachers.base import Completion, Request
from kdstudio.teachers.conversing import LOCAL_AT_ONCE
from kdstudio.teachers.openai_api import OpenAITeacher
from tests.loopback import Asked, Fault, Loopback, closed_port
from tests.support.paid_runs import books_of, paid_teacher
from tests.support.paid_server import PaidServer
from tests.unit.elicitation.runs import attempt, lines, new_project, new_run

pytestmark = pytest.mark.faults
KEY = "paid-key-7781"


def test_a_key_revoked_midway_ends_the_run_and_loses_nothing_that_was_paid(tmp_path: Path) -> None:
    with (
        PaidServer(tmp_path / "server.jsonl", KEY, {"revoke_after": 60, "seconds": 0.02}) as server,
        new_project(tmp_path, [f"p{number}" for number in range(200)]) as project,
    ):
        folder = new_run(project, teacher=paid_teacher(server.url, requests_at_once=16))
        supervisor = Supervisor(project)
        supervisor.resume(folder.name, secrets={"k": KEY})
        run = supervisor.wait(folder.name, seconds=60)
        assert run.state == "failed"
        assert "refused the key" in run.error["title"]
        books, entries = books_of(folder), server.entries()
        assert {entry["name"] for entry in entries if entry["billed"]} == set(books.bodies)
        assert len(books.bodies) == books.rows.total() == 60
        assert len(entries) <= 60 + 16  # those that were in flight when the first was refused
        assert not books.unanswered


def test_the_ceiling_is_not_passed_with_requests_in_flight_and_the_rest_can_be_asked_later(tmp_path: Path) -> None:
    count, ceiling = 120, 0.003
    with (
        PaidServer(tmp_path / "server.jsonl", KEY, {"seconds": 0.01}) as server,
        new_project(tmp_path, [f"p{number}" for number in range(count)]) as project,
    ):
        teacher = paid_teacher(server.url, requests_at_once=32)
        folder = new_run(project, teacher=teacher, ceiling=ceiling)
        supervisor = Supervisor(project)
        supervisor.resume(folder.name, secrets={"k": KEY})
        run = supervisor.wait(folder.name, seconds=60)
        assert run.state == "stopped"
        books = books_of(folder)
        billed = sum(entry["cost"] for entry in server.entries())
        answered = books.rows.total()
        assert books.result["ceiling_reached"]
        assert billed == pytest.approx(books.result["spend"], abs=1e-6)
        assert ceiling * 0.5 < billed <= ceiling
        assert 0 < answered < count
        assert books.result["left"] == count - answered
        assert books.result["possibly_billed"]["count"] == 0
        assert len(server.entries()) == answered
        warned = [line.event.title for line in lines(folder) if isinstance(line.event, Warned)]
        assert any("The ceiling of $0.0030 is reached" in title for title in warned)
        supervisor.poll()
        rest = new_run(project, teacher=teacher, ceiling=1.0)
        supervisor.resume(rest.name, secrets={"k": KEY})
        assert supervisor.wait(rest.name, seconds=60).state == "finished"
        prompts = [entry["prompt"] for entry in server.entries()]
        assert sorted(prompts) == sorted(f"p{number}" for number in range(count))


def test_a_ceiling_without_a_price_or_of_no_amount_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    teacher = TeacherSpec("api", "openai", url="https://api.example.org/v1", model="a-model-of-nobody")
    with new_project(tmp_path, ["a"]) as project:
        with pytest.raises(BadInput, match="needs a price"):
            attempt(new_run(project, teacher=teacher, ceiling=1.0))
        with pytest.raises(BadInput, match="no amount of money"):
            attempt(new_run(project, teacher=teacher, ceiling="much"))


def test_a_body_in_the_journal_is_read_without_its_server(tmp_path: Path) -> None:
    """Killed between the raw body and its parsing: the next process needs no network for it."""
    with (
        PaidServer(tmp_path / "server.jsonl", KEY) as server,
        new_project(tmp_path, ["a", "b"]) as project,
    ):
        folder = new_run(project, teacher=paid_teacher(server.url))
        attempt(folder, k=KEY)
        journal = folder / "events.jsonl"
        kinds = (b'"attempt"', b'"body"', b'"started"')
        kept = [line for line in journal.read_bytes().splitlines(keepends=True) if any(kind in line for kind in kinds)]
        journal.write_bytes(b"".join(kept))
        described = (folder / "job.toml").read_text("utf-8")
        (folder / "job.toml").write_text(described.replace(server.url, f"http://127.0.0.1:{closed_port()}/v1"), "utf-8")
        result = attempt(folder, k=KEY)
        assert result["rows"] == 2
        assert result["possibly_billed"]["count"] == 0
        assert result["spend"] == pytest.approx(sum(entry["cost"] for entry in server.entries()), abs=1e-6)


def test_a_clock_that_jumps_changes_neither_waits_nor_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's clock goes years back and forth; rests, backoff and the minute's limit hold all the same."""
    chance, real = random.Random(1), time.time
    monkeypatch.setattr(time, "time", lambda: real() + chance.uniform(-1e8, 1e8))
    monkeypatch.setattr(asking, "_BASE_WAIT", 0.01)
    rested: list[float] = []

    def fault_for(asked: Asked) -> Fault | None:
        if asked.number == 5:
            rested.append(asked.at)
            return Fault("status", 429, retry_after="0.5")
        return Fault("status", 503) if asked.number % 7 == 0 else None

    with Loopback(fault_for=fault_for) as server:
        spec = TeacherSpec("api", "openai", url=server.url, model="tiny", options={"requests_per_minute": 600})
        questions = [Request(f"{index}", ({"role": "user", "content": f"q {index}"},)) for index in range(50)]
        found: list[Completion] = []
        asker = threading.Thread(target=lambda: found.extend(OpenAITeacher(spec, {}).generate(questions)))
        began = time.monotonic()
        asker.start()
        asker.join(30)
        seconds = time.monotonic() - began
        assert sorted(int(item.key) for item in found) == list(range(50))
        assert {item.finish_reason for item in found} == {"stop"}
        during = [asked.at for asked in server.asked if rested[0] < asked.at < rested[0] + 0.45]
        assert len(during) < LOCAL_AT_ONCE  # these were under way
        assert (len(server.asked) - 21) / 10 <= seconds < 25
