"""Questions asked by hand: their cost is on the disk before they are sent, whoever asks and however it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdstudio.jobs.events import Attempt, Settled
from kdstudio.jobs.folder import ASKED_NAME
from kdstudio.jobs.journal import read_journal
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import asking
from kdstudio.teachers.base import Completion, Request, Sampling
from kdstudio.teachers.by_hand import HandLedger
from kdstudio.teachers.opening import open_teacher
from tests.loopback import Fault, Loopback


def asked(folder: Path, url: str, **options: object) -> Completion:
    options = {"price": {"input": 1.0, "output": 10.0}, "tries": 1, **options}
    spec = TeacherSpec("Api", "openai", url=url, model="tiny", options=dict(options))
    teacher = open_teacher(spec, {}, ledger=HandLedger(folder))
    request = Request("chat", ({"role": "user", "content": "a secret question"},), Sampling(max_tokens=20))
    return next(iter(teacher.generate([request])))


def lines(folder: Path) -> list[Attempt | Settled]:
    events = (line.event for line in read_journal(folder / ASKED_NAME))
    return [event for event in events if isinstance(event, Attempt | Settled)]


def test_each_question_is_written_before_it_is_sent_and_again_with_its_cost(tmp_path: Path) -> None:
    with Loopback() as server:
        server.answer = lambda _prompt: "yes" if len(lines(tmp_path)) % 2 else "not written"
        first, second = asked(tmp_path, server.url), asked(tmp_path, server.url)
    assert (first.text, second.text) == ("yes", "yes")
    attempt, answered, *others = lines(tmp_path)
    assert isinstance(attempt, Attempt)
    assert isinstance(answered, Settled)
    assert (attempt.teacher, attempt.key, attempt.number) == (answered.teacher, answered.key, answered.number)
    assert attempt.reserved > answered.cost == first.cost > 0
    assert {event.key for event in others}.isdisjoint({attempt.key})  # another process, as it were
    assert "secret question" not in (tmp_path / ASKED_NAME / "events.jsonl").read_text("utf-8")


def test_what_failed_stays_written_if_it_may_be_billed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_BASE_WAIT", 0.01)
    with Loopback() as server:
        server.fault_for = lambda asked: Fault("status", 500) if asked.number == 1 else Fault("close")
        with pytest.raises(Exception, match="cannot be reached or broke off"):
            asked(tmp_path, server.url, tries=2)
    first, refused, lost = lines(tmp_path)
    assert (first.number, refused.number, lost.number) == (1, 1, 2)
    assert isinstance(refused, Settled)
    assert (refused.outcome, refused.cost) == ("refused", 0.0)


def test_what_costs_nothing_leaves_no_trace(tmp_path: Path) -> None:
    with Loopback() as server:
        assert asked(tmp_path, server.url, price=None).text
    assert not (tmp_path / ASKED_NAME).exists()


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path: Path) -> None:
    journal = tmp_path / ASKED_NAME / "events.jsonl"
    journal.parent.mkdir()
    journal.write_text('{"v": 1, "seq": 1, "event": "att')
    with Loopback() as server:
        asked(tmp_path, server.url)
    assert len(lines(tmp_path)) == 2
    assert all(json.loads(line)["teacher"] == "Api" for line in journal.read_text("utf-8").splitlines()[1:])
