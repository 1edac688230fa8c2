"""Show 4: a server with 30 % faults, a job killed again and again: nothing lost, doubled, bought twice or unlisted."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdstudio.models.spec import TeacherKind
from kdstudio.project import Project
from tests.support.paid_runs import Books, books_of, killed_again_and_again, paid_teacher, questions_of
from tests.support.paid_server import PaidServer
from tests.unit.elicitation.runs import new_project, new_run

pytestmark = pytest.mark.faults
AT_ONCE, AHEAD = 32, 8
KEY = "paid-key-7781"
CEILING = 20.0


def bought_through_kills(
    folder: Path, rows: int, kills: int, late_seconds: float, kind: TeacherKind = "openai"
) -> None:
    """The whole show; each `check_` says what must hold."""
    told = {"faults": 0.3, "seconds": 0.005, "late_seconds": late_seconds}
    with PaidServer(folder / "server.jsonl", KEY, told) as server:
        spec = paid_teacher(server.url, kind, requests_at_once=AT_ONCE, timeout_seconds=late_seconds / 2)
        with new_project(folder, [f"p{number}" for number in range(1, rows + 1)]) as project:
            run = new_run(project, teacher=spec, ceiling=CEILING)
            killed = killed_again_and_again(project, run, rows, kills, {"k": KEY})
            assert killed >= kills * 9 // 10
            books = books_of(run)
            check_rows(project, books, rows)
            check_no_body_is_bought_again(books, server)
            check_what_may_be_billed(books, server, killed)
            check_spend(books, server)
            print(f"{rows:,} rows, {killed} kills: {summary(books, server)}")


def summary(books: Books, server: PaidServer) -> str:
    """The figures, for whoever runs this with -s."""
    entries = server.entries()
    faults = sum(bool(entry["fault"]) for entry in entries)
    billed = sum(entry["cost"] for entry in entries)
    return (
        f"{len(entries):,} requests, {faults:,} faults, {len(books.bodies):,} bodies, {books.rows.total():,} rows,"
        f" {books.result['possibly_billed']['count']:,} possibly billed, spend ${books.result['spend']:.4f}"
        f" (the server billed ${billed:.4f})"
    )


def check_rows(project: Project, books: Books, rows: int) -> None:
    """Every prompt has one row, or one paid answer that cannot be used and is shown."""
    assert set(books.rows.values()) == {1}
    unusable = {key for key, answer in books.answers.items() if answer.finish_reason == "error"}
    assert all("paid for and not asked again" in books.answers[key].error for key in unusable)
    assert set(books.rows) | {int(key.split(":")[0]) for key in unusable} == set(range(1, rows + 1))
    assert len(books.rows) + len(unusable) == rows
    for prompt in range(1, rows + 1, max(1, rows // 200)):
        stored = project.rows.responses_of(prompt)
        assert len(stored) == books.rows[prompt]
        assert all(answer.text.startswith(f"Answer to p{prompt} word0") for answer in stored)


def check_no_body_is_bought_again(books: Books, server: PaidServer) -> None:
    """A question whose body is journalled was not sent again: its body belongs to the last attempt that arrived."""
    assert set(questions_of(books.bodies).values()) == {1}
    with_body = {name.rsplit("/", 1)[0]: int(name.rsplit("/", 1)[1]) for name in books.bodies}
    names = [entry["name"] for entry in server.entries()]
    assert len(set(names)) == len(names)
    for name in names:
        question, number = name.rsplit("/", 1)
        assert int(number) <= with_body[question]


def check_what_may_be_billed(books: Books, server: PaidServer, kills: int) -> None:
    """The list holds each request that the server billed and we have no answer to; the rest was in flight at a kill.

    Such a one may not have left yet, or its refusal was not heard: nobody but the server can know.
    """
    entries = {entry["name"]: entry for entry in server.entries()}
    assert set(entries) <= books.attempts
    billed = {name for name, entry in entries.items() if entry["billed"]}
    assert billed - set(books.bodies) <= books.unanswered
    surplus = books.unanswered - billed
    assert len(surplus) <= kills * (AT_ONCE + AHEAD)
    listed = books.result["possibly_billed"]
    assert listed["count"] == len(books.unanswered)
    known = {name.split("/")[2] for name in books.unanswered}
    assert set(listed["keys"]) <= known
    assert len(listed["keys"]) == min(1000, len(known))
    for name in set(books.settled) - set(books.bodies):
        assert name not in billed


def check_spend(books: Books, server: PaidServer) -> None:
    """An answer costs what the server billed for it, an unreadable one at most more; all is below the ceiling."""
    billed = {entry["name"]: entry["cost"] for entry in server.entries()}
    for name in books.bodies:
        settled = books.settled[name]
        assert settled.cost >= billed[name] - 1e-9
        assert settled.tokens == 0 or settled.cost == pytest.approx(billed[name], abs=1e-9)
    assert sum(billed.values()) <= books.result["spend"] <= CEILING


@pytest.mark.parametrize("kind", ["openai", pytest.param("anthropic", marks=pytest.mark.slow)])
def test_a_small_run_with_faults_and_kills_pays_once(tmp_path: Path, kind: TeacherKind) -> None:
    bought_through_kills(tmp_path, 300, 4, 0.6, kind)


@pytest.mark.slow
def test_ten_thousand_rows_and_fifty_kills_pay_once(tmp_path: Path) -> None:
    bought_through_kills(tmp_path, 10_000, 50, 1.6)
