"""The window onto rows: every place of every filtered, sorted table, compared with plain Python."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdstudio.project import NewPrompt, NewResponse, Project
from kdstudio.project.table import RowQuery, RowTable, Sort

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


def test_a_place_leads_back_to_its_row(table: RowTable) -> None:
    query = RowQuery("response", status="accepted", sort="tokens", descending=True)
    for place, row in enumerate(table.page(query, 0, 50)):
        assert table.ordinal(query, row.id) == place
    assert table.ordinal(query, 2) == -1


def test_an_interrupted_look_up_is_not_kept(table: RowTable) -> None:
    query = RowQuery("response", search="whale", sort="response")
    whole = list(table.ids(query))
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            table.interrupt()

    thread = threading.Thread(target=disturb)
    thread.start()
    found = [table.ids(RowQuery("response", search="whale", sort=sort)) for sort in ("response", "id") * 25]
    found = found[::2]
    stop.set()
    thread.join()
    assert all(list(one) in ([], whole) for one in found)
    assert list(table.ids(query)) == whole
