"""Fifty thousand rows through the whole of the project: the small sister of the benchmark with a million."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdstudio.project import Project
from kdstudio.project.exchange import export_file, import_file
from kdstudio.project.table import RowQuery, RowTable

ROWS = 50_000
WORDS = ("whale", "clock", "robot", "mansion", "castle", "river", "moon", "über")
CHANCE = random.Random(0)
TEXTS = [f"{' '.join(CHANCE.choices(WORDS, k=4))} {n}" for n in range(ROWS)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("many")
    with (folder / "rows.jsonl").open("w") as stream:
        for n, text in enumerate(TEXTS):
            stream.write(json.dumps({"prompt": text, "completion": f"answer {n} {text[::-1]}"}) + "\n")
    with Project.create(folder / "many") as made:
        moved: list[int] = []
        report = import_file(made, folder / "rows.jsonl", progress=lambda done, _: moved.append(done))
        assert (report.prompts, report.responses, report.duplicates) == (ROWS, ROWS, 0)
        assert moved == sorted(moved)
        assert len(moved) == ROWS // 2000
        assert moved[-1] == (folder / "rows.jsonl").stat().st_size
        yield made


@pytest.fixture
def table(project: Project) -> Iterator[RowTable]:
    made = RowTable(project.folder)
    yield made
    made.close()


def test_any_place_shows_its_rows(table: RowTable) -> None:
    for descending in (False, True):
        query = RowQuery("response", descending=descending)
        for first in (0, ROWS - 30, *(CHANCE.randrange(ROWS - 60) for _ in range(200))):
            rows = table.page(query, first, 60)
            places = range(first, min(first + 60, ROWS))
            ids = [ROWS - place if descending else place + 1 for place in places]
            assert [row.id for row in rows] == ids
            assert [row.prompt for row in rows] == [TEXTS[number - 1] for number in ids]


def test_search_finds_what_python_finds(table: RowTable) -> None:
    for words in ("whale", "whale clock", "mans", "über 777", "Robot MOON", "nowhere"):
        *whole, start = words.lower().split()
        expected = [
            n + 1
            for n, text in enumerate(TEXTS)
            if all(word in text.split() for word in whole) and any(word.startswith(start) for word in text.split())
        ]
        assert list(table.ids(RowQuery("prompt", search=words))) == expected
        assert list(table.ids(RowQuery("prompt", search=words, descending=True))) == expected[::-1]
        assert list(table.ids(RowQuery("response", search=words))) == expected  # an answer is found by its prompt


def test_bulk_decisions_are_counted_and_undone(project: Project, table: RowTable) -> None:
    chosen = table.ids(RowQuery("prompt", search="whale"))
    assert project.rows.set_status("prompt", chosen, "rejected", "no whales") == len(chosen)
    assert project.rows.counts()[("prompt", "rejected")] == len(chosen) == table.count(RowQuery("prompt", "rejected"))
    assert project.rows.prompt(chosen[0]).reason == "no whales"
    assert project.history.undo() == f"Reject {len(chosen)} rows"
    assert table.count(RowQuery("prompt", status="pending")) == ROWS
    assert project.history.redo() == f"Reject {len(chosen)} rows"
    assert list(table.ids(RowQuery("prompt", status="rejected"))) == list(chosen)
    assert project.history.undo()
    assert project.rows.prompt(chosen[0]).reason == ""
    assert project.rows.set_status("prompt", (item for item in chosen), "accepted") == len(chosen)
    assert project.history.undo() == f"Accept {len(chosen)} rows"


def test_the_whole_comes_out_again_and_is_known_when_it_comes_back(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert export_file(project, out, "openai_messages", status="") == ROWS
    report = import_file(project, out)
    assert (report.rows, report.duplicates, report.rejected) == (0, ROWS, 0)
