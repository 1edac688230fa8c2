"""Batches: whatever goes wrong, and whenever the job is killed, nothing is lost, doubled, or sent twice."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam
from anthropic.types.messages.batch_create_params import Request as Asked

from kdstudio.jobs.child import Job
from kdstudio.jobs.events import Batch, Event
from kdstudio.jobs.journal import JournalReader
from kdstudio.jobs.supervisor import Supervisor
from kdstudio.models.spec import TeacherKind
from kdstudio.project import Project
from tests.support.batch_server import SHARE, BatchServer
from tests.support.paid_runs import PRICE, Books, books_of, living, paid_teacher
from tests.unit.elicitation.runs import KilledError, attempt, finish, lines, new_project, new_run

pytestmark = pytest.mark.faults
KEY = "batch-key-4412"
KINDS = [pytest.param("openai", id="openai"), pytest.param("anthropic", id="anthropic")]
QUICK = {"batch": True, "batch_seconds": 0.05, "price": PRICE | {"batch": SHARE}}
FAULTS = ["half", "garbage", "expired", "names", "twice", "cancelled", "torn"]
CREATES = ["429", "lost", "500", "drop", "", "429"]


def check(books: Books, server: BatchServer, rows: int) -> None:
    """Each prompt has one row, or one paid answer that cannot be used; the server sold each once."""
    unusable = {int(key.split(":")[0]) for key, answer in books.answers.items() if answer.finish_reason == "error"}
    assert set(books.rows) | unusable == set(range(1, rows + 1))
    assert set(books.rows.values()) == {1}
    assert not set(books.rows) & unusable
    sold: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in server.entries():
        if entry["batch"]:
            sold[entry["prompt"]].append(entry)
    for entries in sold.values():
        assert not any(entry["billed"] for entry in entries[:-1])  # a second batch only after the first refused it
        assert len({entry["name"] for entry in entries}) == len(entries)
    billed = sum(entry["cost"] for entry in server.entries())
    assert books.result["spend"] >= billed - 1e-6


def attempt_until(folder: Path, step: str, *, after: bool) -> None:
    """Run the job in this process until it writes the first event of a kind, which it does or does not get done."""
    job = Job(folder, {"k": KEY})
    write, dead = job.emit_all, False

    def watched(events: Iterable[Event], *, durable: bool = False) -> None:
        nonlocal dead
        given = list(events)
        if dead:
            raise KilledError
        if any(step in (event.event, getattr(event, "state", "")) for event in given):
            dead = True
            if after:
                write(given, durable=durable)
            raise KilledError
        write(given, durable=durable)

    job.emit_all = watched  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        finish(job)


STEPS = [("planned", False), ("planned", True), ("sent", False), ("sent", True), ("body", False), ("body", True)]


@pytest.mark.parametrize("kind", KINDS)
def test_killed_between_any_two_steps_a_batch_is_found_again_and_none_is_sent_twice(
    tmp_path: Path, kind: TeacherKind
) -> None:
    rows = 7
    with (
        BatchServer(tmp_path / "server.jsonl", KEY) as server,
        new_project(tmp_path, [f"p{number}" for number in range(1, rows + 1)]) as project,
    ):
        folder = new_run(project, teacher=paid_teacher(server.url, kind, **QUICK))
        for step, after in [*STEPS, ("ended", False)]:
            attempt_until(folder, step, after=after)
        result = attempt(folder, k=KEY)
        books = books_of(folder)
        books.result = result
        check(books, server, rows)
        assert result["rows"] == rows
        assert {entry["batch"] for entry in server.entries()} == {"", "batch_001"}
        assert result["possibly_billed"]["count"] == 0
        assert result["spend"] == pytest.approx(sum(entry["cost"] for entry in server.entries()), abs=1e-6)


def strangers(name: str) -> Asked:
    messages: list[MessageParam] = [{"role": "user", "content": "another's"}]
    return {"custom_id": name, "params": {"model": "tiny", "max_tokens": 9, "messages": messages}}


def test_a_lost_batch_is_told_from_a_strangers_of_the_same_size(tmp_path: Path) -> None:
    """Anthropic's batches carry no mark: the names in the results tell, once both have ended."""
    with (
        BatchServer(tmp_path / "server.jsonl", KEY, {"seconds": 0.3}) as server,
        new_project(tmp_path, ["p1", "p2", "p3"]) as project,
    ):
        folder = new_run(project, teacher=paid_teacher(server.url, "anthropic", **QUICK))
        attempt_until(folder, "sent", after=False)
        with anthropic.Anthropic(base_url=server.url.removesuffix("/v1"), api_key=KEY) as stranger:
            stranger.messages.batches.create(requests=[strangers("a"), strangers("b")])
        result = attempt(folder, k=KEY)
        assert (result["rows"], result["possibly_billed"]["count"]) == (3, 0)
        assert [entry["batch"] for entry in server.entries()] == ["", *["batch_001"] * 2, *["batch_002"] * 2]
        sent = [line.event.id for line in lines(folder) if isinstance(line.event, Batch) and line.event.state == "sent"]
        assert sent == ["batch_001"]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_goes_wrong_with_batches_each_question_is_sold_once(tmp_path: Path, kind: TeacherKind) -> None:
    rows = 64
    with (
        BatchServer(tmp_path / "server.jsonl", KEY, {"creates": CREATES, "batches": FAULTS}) as server,
        new_project(tmp_path, [f"p{number}" for number in range(1, rows + 1)]) as project,
    ):
        folder = new_run(project, teacher=paid_teacher(server.url, kind, **QUICK, batch_requests=16))
        result = attempt(folder, k=KEY)
        books = books_of(folder)
        books.result = result
        check(books, server, rows)
        outcomes = {entry["outcome"] for entry in server.entries()}
        assert outcomes >= {"answered", "429", "500", "expired", "cancelled"}
        states = [line.event.state for line in lines(folder) if isinstance(line.event, Batch)]
        assert states.count("planned") == states.count("sent") == states.count("ended") >= len(FAULTS) - 1


def killed_at_random(project: Project, folder: Path, kills: int) -> int:
    """Run the job in a child that is killed as soon as its journal has grown by a random number of lines."""
    supervisor, done, chance = Supervisor(project), 0, random.Random(11)
    reader = JournalReader(folder)
    for _ in range(kills):
        supervisor.resume(folder.name, secrets={"k": KEY})
        process, wanted, grown = living(project, supervisor, folder), chance.randrange(2, 60), 0
        while process is not None and process.is_running() and grown < wanted:
            grown += len(reader.read())
            supervisor.poll()
            time.sleep(chance.uniform(0.001, 0.01))
        if process is None or not process.is_running():
            break
        process.kill()
        done += 1
        if supervisor.wait(folder.name, seconds=60).state == "finished":
            return done
    else:
        supervisor.resume(folder.name, secrets={"k": KEY})
    run = supervisor.wait(folder.name, seconds=300)
    assert run.state == "finished", (run.state, run.error, run.result)
    return done


def bought_through_kills(folder: Path, kind: TeacherKind, rows: int, kills: int) -> None:
    """Faults and kills together."""
    told = {"creates": CREATES, "batches": FAULTS, "seconds": 0.2}
    with (
        BatchServer(folder / "server.jsonl", KEY, told) as server,
        new_project(folder, [f"p{number}" for number in range(1, rows + 1)]) as project,
    ):
        run = new_run(project, teacher=paid_teacher(server.url, kind, **QUICK, batch_requests=max(8, rows // 6)))
        killed = killed_at_random(project, run, kills)
        books = books_of(run)
        check(books, server, rows)
        for prompt in range(1, rows + 1):
            assert len(project.rows.responses_of(prompt)) == books.rows[prompt]
        batches = {entry["batch"] for entry in server.entries()}
        print(f"{rows} rows, {killed} kills, {len(batches) - 1} batches, {books.result}")


def test_a_small_run_in_batches_with_faults_and_kills_pays_once(tmp_path: Path) -> None:
    bought_through_kills(tmp_path, "openai", 30, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_in_batches_with_twenty_kills_pays_once(tmp_path: Path, kind: TeacherKind) -> None:
    bought_through_kills(tmp_path, kind, 400, 20)
