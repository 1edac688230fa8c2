"""The ledger: shared waits for the disk, what a run has spent, and what may have been billed."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kdstudio.errors import KnownError
from kdstudio.jobs.child import Job
from kdstudio.jobs.events import Event, Metric, Warned
from kdstudio.jobs.journal import read_journal
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Completion, Request, Sampling
from kdstudio.teachers.group_commit import GroupCommit
from kdstudio.teachers.ledger import JournalLedger, ledger_of
from kdstudio.teachers.prices import Price
from kdstudio.teachers.spend import Spend, most_cost, most_tokens
from kdstudio.teachers.wire import Answered
from tests.unit.elicitation.runs import new_project, new_run

QUESTION = ("api", "1:0:0")


def run_folder(tmp_path: Path, **parameters: Any) -> Path:
    with new_project(tmp_path, ["a"]) as project:
        return new_run(project, **parameters)


def answered(cost: float) -> Answered:
    return Answered(Completion(QUESTION[1], "text", "stop", prompt_tokens=3, tokens=5, cost=cost), "tiny", 1)


def test_many_who_wait_for_the_disk_share_a_few_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(run_folder(tmp_path))
    ledger = ledger_of(job)
    assert ledger is ledger_of(job)
    syncs, sync = [0], os.fsync

    def counted(descriptor: int) -> None:
        syncs[0] += 1
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)

    async def ask(number: int) -> None:
        question = ("api", f"{number}:0:0")
        assert await ledger.begin(question, 0.001) == 1
        await ledger.keep(question, 1, "{}")

    async def ask_all() -> None:
        await asyncio.gather(*(ask(number) for number in range(200)))

    asyncio.run(ask_all())
    job._journal.close()
    kinds = [line.event.event for line in read_journal(job.run_folder)]
    assert kinds.count("attempt") == kinds.count("body") == 200
    assert syncs[0] < 60


def test_nothing_goes_on_before_it_is_on_the_disk_and_a_full_one_is_heard() -> None:
    written: list[list[Event]] = []

    def write(events: list[Event]) -> None:
        if any(isinstance(event, Warned) for event in events):
            raise KnownError("The disk is full")
        written.append(events)

    async def scene() -> None:
        commit = GroupCommit(write)
        await commit.written([Metric(1)])
        assert written == [[Metric(1)]]
        with pytest.raises(KnownError, match="full"):
            await commit.written([Warned("x")])
        commit.write([Metric(2)])
        await commit.written([Metric(3)])
        assert [event for events in written for event in events] == [Metric(1), Metric(2), Metric(3)]

    asyncio.run(scene())


def test_a_later_process_finds_what_was_spent_and_what_may_have_been_billed(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, ceiling=1.0)
    job = Job(folder)
    ledger = ledger_of(job)

    async def scene() -> None:
        first = await ledger.begin(QUESTION, 0.5)
        ledger.settle(QUESTION, first, None)
        second = await ledger.begin(QUESTION, 0.25)
        third = await ledger.begin(QUESTION, 0.125)
        await ledger.keep(QUESTION, third, "raw")
        other = await ledger.begin(("api", "2:0:0"), 0.0625)
        ledger.settle(("api", "2:0:0"), other, answered(0.01))
        assert (first, second, third, other) == (1, 2, 3, 1)

    asyncio.run(scene())
    job._journal.close()
    again = Job(folder)
    later = ledger_of(again)
    assert later.spend.spent == pytest.approx(0.25 + 0.125 + 0.01)
    assert later.body(QUESTION) == (3, "raw")
    assert later.body(("api", "2:0:0")) is None
    assert later.answered("api")
    assert not later.answered("another")
    later.settle(QUESTION, 3, answered(0.02))
    assert later.spend.spent == pytest.approx(0.25 + 0.02 + 0.01)
    assert later.body(QUESTION) is None
    report = later.report()
    assert report["possibly_billed"] == {"count": 1, "dollars": 0.25, "keys": [QUESTION[1]]}
    assert report["spend"] == pytest.approx(0.28)
    again._journal.close()
    events = [line.event for line in read_journal(folder)]
    assert [event.title for event in events if isinstance(event, Warned)] == [
        "1 request may have been billed without an answer"
    ]
    assert [event for event in events if isinstance(event, Metric)][-1].values == {"spend": pytest.approx(0.28)}


def test_a_run_that_asked_nobody_who_costs_reports_nothing(tmp_path: Path) -> None:
    job = Job(run_folder(tmp_path))
    assert JournalLedger(job).report() == {}
    job._journal.close()


def test_the_ceiling_is_the_runs_own_or_the_least_of_its_teachers(tmp_path: Path) -> None:
    def ceiling(name: str, **parameters: Any) -> float:
        (tmp_path / name).mkdir()
        job = Job(run_folder(tmp_path / name, **parameters))
        try:
            return JournalLedger(job).spend.ceiling
        finally:
            job._journal.close()

    limits: tuple[dict[str, Any], ...] = ({"ceiling": 5}, {"ceiling": 2.5}, {})
    specs = [TeacherSpec(str(number), "scripted", options=options) for number, options in enumerate(limits)]
    two = [asdict(spec) for spec in specs]
    assert ceiling("own", ceiling=1, teachers=two) == 1
    assert ceiling("several", teachers=two) == 2.5
    assert ceiling("one", teacher=specs[0]) == 5
    assert ceiling("none", teacher=specs[2]) == 0
    with pytest.raises(KnownError, match="no amount of money"):
        ceiling("wrong", teacher=TeacherSpec("a", "scripted", options={"ceiling": "much"}))


def test_reservations_never_pass_the_ceiling_and_wait_for_each_other() -> None:
    async def scene() -> None:
        purse = Spend(1.0)
        assert await purse.reserve(0.6)
        waiting = asyncio.create_task(purse.reserve(0.6))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        purse.settle(0.6, 0.1)
        assert await waiting
        purse.settle(0.6, 0.6)
        assert not await purse.reserve(0.6)
        assert purse.spent == pytest.approx(0.7)

    asyncio.run(scene())


def test_a_reservation_is_the_most_that_a_request_can_cost() -> None:
    parts = [{"type": "text", "text": "héllo"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    request = Request("k", ({"role": "system", "content": "ab"}, {"role": "user", "content": parts}), Sampling(100))
    assert most_tokens(request) == (2 + 16 + 6 + 2048 + 16, 100)
    assert most_cost(request, Price(input=1, output=10)) == pytest.approx((2088 + 1000) / 1e6)
    assert most_cost(request, None) == 0
