"""The window onto rows: every place of every filtered, sorted table, compared with plain Python."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdstudio.project import NewPrompt, NewResponse, Project
from kdstudio.project.table import RowQuery, RowTable, Sort, _united

WORDS = ("fox", "whale", "clock", "mushroom", "castle")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with Project.create(tmp_path_factory.mktemp("table") / "Rows") as project:
        project.rows.add_prompts(
            NewPrompt(
                [{"role": "user", "content": f"a {WORDS[i % 5]} number {i}"}], tags=["held_out"] if i % 7 == 0 else []
            )
            for i in range(300)
        )
        project.rows.add_responses(
            NewResponse(1 + i * 7 % 300, f"{WORDS[i % 3]} {i}", teacher=f"T{i % 2}", tokens=i * 37 % 101)
            for i in range(400)
        )
        project.rows.set_status("response", range(1, 400, 3), "accepted")
        project.rows.set_status("response", range(2, 400, 9), "rejected", "too long")
        yield project.folder


@pytest.fixture
def table(folder: Path) -> Iterator[RowTable]:
    made = RowTable(folder)
    yield made
    made.close()


def test_rows_without_gaps_need_no_list(table: RowTable) -> None:
    assert table.ids(RowQuery("prompt")) == range(1, 301)
    assert table.ids(RowQuery("response", descending=True)) == range(400, 0, -1)
    assert table.count(RowQuery("preference")) == 0


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", ["id", "tokens", "status", "source", "teacher", "response", "prompt"])
def test_sorting_is_that_of_python(table: RowTable, sort: Sort, descending: bool) -> None:
    rows = table.page(RowQuery("response"), 0, 400)
    ids = table.ids(RowQuery("response", status="pending", sort=sort, descending=descending))
    by_id = {row.id: row for row in rows if row.status == "pending"}
    assert sorted(ids) == sorted(by_id)
    if sort in ("tokens", "status", "source", "teacher", "response"):
        values = [getattr(by_id[item], sort) for item in ids]
        assert values == sorted(values, reverse=descending)
    if sort == "id":
        assert list(ids) == sorted(ids, reverse=descending)


def test_filters_narrow_and_find(table: RowTable) -> None:
    rows = {row.id: row for row in table.page(RowQuery("response"), 0, 400)}

    def wanted(**conditions: str) -> list[int]:
        return [i for i, row in rows.items() if all(value in getattr(row, name) for name, value in conditions.items())]

    assert list(table.ids(RowQuery("response", teacher="T1"))) == wanted(teacher="T1")
    assert list(table.ids(RowQuery("response", tag="held_out"))) == wanted(tags="held_out")
    assert list(table.ids(RowQuery("response", status="rejected"))) == wanted(status="rejected")
    found = set(table.ids(RowQuery("response", search="whal")))
    assert found == {i for i, row in rows.items() if "whale" in row.response or "whale" in row.prompt}
    assert table.count(RowQuery("response", search="nothing like it")) == 0


def test_two_lists_are_united_without_stopping_the_window() -> None:
    one, other = array("q", range(0, 2_000_000, 2)), array("q", range(1_500_000, 500_000, -1))
    assert list(_united(one[:4], array("q", [9, 2, 2, 3]))) == [0, 2, 3, 4, 6, 9]
    assert _united(array("q"), array("q")) == array("q")
    began = time.thread_time()  # of this thread alone: the machine may be busy with others
    assert len(_united(one, other)) == 1_500_000
    assert time.thread_time() - began < 0.3, "a hash table of these, under the interpreter's lock, takes 0.7 s"


def test_a_place_leads_back_to_its_row(table: RowTable) -> None:
    query = RowQuery("response", status="accepted", sort="tokens", descending=True)
    for place, row in enumerate(table.page(query, 0, 50)):
        assert table.ordinal(query, row.id) == place
    assert table.ordinal(query, 2) == -1


def test_an_interrupted_look_up_is_not_kept(table: RowTable) -> None:
    query = RowQuery("response", search="whale", sort="response")
    whole = list(table.ids(query))
    with disturbed(table):
        found = [table.ids(RowQuery("response", search="whale", sort=sort)) for sort in ("response", "id") * 25]
    assert all(list(one) in ([], whole) for one in found[::2])
    assert list(table.ids(query)) == whole


def test_an_interrupt_may_come_while_the_first_search_opens_its_index(folder: Path) -> None:
    for _ in range(40):
        with contextlib.closing(RowTable(folder)) as table:
            with disturbed(table):
                found = table.ids(RowQuery("prompt", search="whale"))
            assert len(found) in (0, 60)
            assert table.count(RowQuery("prompt", search="whale")) == 60


def test_an_interrupt_is_known_however_sqlite_words_it(table: RowTable, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = True

    def fail(_query: RowQuery) -> array[int]:
        if interrupted:
            table.interrupt()
        raise sqlite3.OperationalError("vtable constructor failed: prompts_search")

    monkeypatch.setattr(table, "_find", fail)
    assert table.ids(RowQuery("prompt", search="whale")) == ()
    interrupted = False
    with pytest.raises(sqlite3.OperationalError):
        table.ids(RowQuery("prompt", search="whale"))


@contextlib.contextmanager
def disturbed(table: RowTable) -> Iterator[None]:
    """Another thread interrupts the table all the time."""
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            table.interrupt()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_long_texts_are_cut_for_a_table_and_whole_for_a_program(tmp_path: Path) -> None:
    with Project.create(tmp_path / "p.kdstudio") as project:
        project.rows.add_prompts([NewPrompt([{"role": "user", "content": "p" * 5000}])])
        project.rows.add_responses([NewResponse(1, "r" * 5000)])
        table = RowTable(project.folder)
        (shown,), (whole,) = (table.page(RowQuery("response"), 0, 9, whole=whole) for whole in (False, True))
        table.close()
    assert len(shown.prompt) == len(shown.response) == 400
    assert len(whole.prompt) == len(whole.response) == 5000
