"""Runs and their journals: ingesting twice, torn, or in parts gives the same project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdstudio.jobs.events import Dropped, Event, Finished, Metric, Progress, Row, Sample, Started, encode
from kdstudio.jobs.journal import JOURNAL_NAME, JournalReader
from kdstudio.project import NewPrompt, Project

EVENTS: list[Event] = [
    Started("elicit", 42),
    Row("response", {"prompt_id": 1, "text": "one", "key": "1:1:0", "teacher": "T", "status": "accepted"}),
    Metric(1, {"loss": 2.5, "learning_rate": 1e-3}),
    Metric(2, {"loss": 2.25}),
    Sample(2, "why", "because", "therefore"),
    Dropped(3, "filter", "too short"),
    Metric(2, {"loss": 2.125}),  # the step was done again after a crash
    Row("response", {"prompt_id": 2, "text": "two ünïcode", "key": "2:1:0", "teacher": "T"}),
    Progress(2, 2, "rows", 10.5, "tokens/s", 0.0),
    Finished({"rows": 2}),
]


def _state(project: Project, run: str) -> tuple[Any, ...]:
    rows = [(r.text, r.status, r.teacher, r.run) for _, r in project.rows.pairs(status="any")]
    return rows, project.runs.metrics(run, "loss"), project.runs.samples(run), project.runs.dropped(run)


def test_a_journal_cut_anywhere_and_read_thrice_gives_the_same(tmp_path: Path) -> None:
    whole = b"".join(encode(event, seq) for seq, event in enumerate(EVENTS, start=1))
    lines = whole.splitlines(keepends=True)
    begin = len(whole) - len(lines[-1]) - len(lines[-2])
    with Project.create(tmp_path / "reference") as reference:
        run = reference.runs.add("elicit", "x", {})
        reference.rows.add_prompts(NewPrompt([{"role": "user", "content": str(n)}]) for n in range(3))
        (tmp_path / JOURNAL_NAME).write_bytes(whole)
        assert len(reference.runs.ingest(run, JournalReader(tmp_path).read())) == len(EVENTS)
        expected = _state(reference, run)
        assert reference.runs.metrics(run, "loss") == ([1, 2], [2.5, 2.125])
    with Project.create(tmp_path / "p") as project:
        project._database.writer.execute("PRAGMA synchronous = OFF")  # a thousand commits: spare the disk
        project.rows.add_prompts(NewPrompt([{"role": "user", "content": str(n)}]) for n in range(3))
        runs = []
        for cut in range(begin, len(whole) + 1):
            runs.append(project.runs.add("elicit", "x", {}))
            for content in (whole[:cut], whole[:cut], whole[:cut], whole):
                (tmp_path / JOURNAL_NAME).write_bytes(content)
                project.runs.ingest(runs[-1], JournalReader(tmp_path).read())
        rows: dict[str, list[object]] = {run: [] for run in runs}
        for _, response in project.rows.pairs(status="any"):
            rows[response.run].append((response.text, response.status, response.teacher))
        assert list(rows.values()) == [[row[:3] for row in expected[0]]] * len(runs)
        for run in runs:
            found = project.runs.metrics(run, "loss"), project.runs.samples(run), project.runs.dropped(run)
            assert found == expected[1:]


def test_states_results_and_errors_are_kept(tmp_path: Path) -> None:
    with Project.create(tmp_path / "p") as project:
        run = project.runs.add("train", "Student", {"recipe_hash": "abc"})
        assert project.runs.get(run).state == "starting"
        project.runs.set_state(run, "failed", error={"title": "Out of memory"})
        assert project.runs.get(run).error["title"] == "Out of memory"
        project.runs.set_state(run, "running")
        assert project.runs.get(run).error == {}
        project.runs.set_state(run, "finished", result={"steps": 3})
        again = project.runs.get(run)
        assert (again.state, again.result, again.recipe_hash) == ("finished", {"steps": 3}, "abc")
        assert again.finished
        assert [item.id for item in project.runs.list("train")] == [run]
        assert project.runs.list("export") == []
