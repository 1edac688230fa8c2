"""The elicitation job with real projects, journals and teachers: whole runs, broken ones, continued ones."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from kdstudio.elicitation.answers import MAXIMUM_ANSWER_BYTES, bounded
from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.child import Job
from kdstudio.jobs.events import Answer, Row, encode
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import NewPrompt
from kdstudio.teachers.base import Completion
from tests.loopback import Fault, Loopback
from tests.unit.elicitation.runs import (
    KilledError,
    asked,
    attempt,
    drops,
    finish,
    lines,
    new_project,
    new_run,
    recipe_of,
    rows,
    warnings,
)

TWO_STEPS = """
[[step]]
type = "sample"
samples = 2
temperature = 1
into = "draft"
[[step]]
type = "prompt"
user = "Improve {{ draft }}"
[[step]]
type = "sample"
[[step]]
type = "parse"
[[step]]
type = "filter"
maximum_characters = 40
[[step]]
type = "emit"
"""
PROMPTS = ["one", "two", "", "three", "fails", "cut", "a much longer prompt than the others", "seven"]
SCRIPT: dict[str, Any] = {
    "rules": [{"match": "^Improve", "text": ["A better {prompt}", "The best {prompt}"]}],
    "default": ["First {prompt}", "Then {prompt}"],
    "errors": {"fails": "no words"},
    "cut": ["cut"],
    "out_of_order": 3,
}


def test_a_run_writes_its_rows_and_counts(tmp_path: Path) -> None:
    with new_project(tmp_path, ["a", "b", "cut"]) as project:
        folder = new_run(project, {"default": "It is {prompt}.", "cut": ["cut"]})
        result = attempt(folder)
        assert [(row["text"], row["status"]) for row in rows(folder)] == [
            ("It is a.", "pending"),
            ("It is b.", "pending"),
            ("It is cut.", "rejected"),
        ]
        assert {name: result[name] for name in ("rows", "rejected", "dropped", "tokens")} == {
            "rows": 3,
            "rejected": 1,
            "dropped": 0,
            "tokens": 9,
        }
        assert result["tokens_per_second"] > 0
        project.runs.ingest(folder.name, lines(folder))
        stored = project.rows.responses_of(1)[0]
        assert (stored.text, stored.teacher, stored.run, stored.source) == (
            "It is a.",
            "script",
            folder.name,
            "teacher",
        )


def test_an_answer_is_journalled_before_it_is_read(tmp_path: Path) -> None:
    with new_project(tmp_path, ["a", "b"]) as project:
        folder = new_run(project, {"default": " "}, recipe="chain_of_thought")
        attempt(folder)
        kinds = [line.event.event for line in lines(folder)]
        assert kinds.index("answer") < kinds.index("dropped")
        assert kinds.count("answer") == kinds.count("dropped") == 2
        assert "row" not in kinds
        assert "2 × parse: the answer is empty" in warnings(folder)[-1].detail


def test_what_cannot_be_asked_falls_with_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    with new_project(tmp_path, ["fine", " ", "far too long for this teacher", "fails", "last"]) as project:
        folder = new_run(project, {"context_tokens": 3, "errors": {"fails": "out of words"}})
        assert attempt(folder)["rows"] == 2
        assert [(number, step) for number, step, _ in drops(folder)] == [(2, "input"), (3, "sample"), (4, "sample")]
        reasons = [reason for _, _, reason in drops(folder)]
        assert "empty" in reasons[0]
        assert "does not fit" in reasons[1]
        assert reasons[2] == "out of words"


@pytest.mark.parametrize("after_writing", [True, False])
def test_killed_anywhere_and_continued_it_is_the_undisturbed_run(tmp_path: Path, after_writing: bool) -> None:
    """Every event of the run is, once, the last one before the process is gone."""
    with new_project(tmp_path, PROMPTS) as project:
        recipe = recipe_of(TWO_STEPS)
        whole = new_run(project, SCRIPT, recipe, seed=3)
        result = attempt(whole)
        expected, fallen, events = rows(whole), drops(whole), len(lines(whole))
        assert len(expected) == 12
        assert any(row["status"] == "rejected" for row in expected)
        assert len(fallen) == 3
        for moment in range(1, events + 1):
            folder = new_run(project, SCRIPT, recipe, seed=3)
            with pytest.raises(KilledError):
                attempt(folder, kill_at=moment, after_writing=after_writing)
            again = attempt(folder)
            assert rows(folder) == expected
            assert drops(folder) == fallen
            keys = [key for key in asked(folder) if key not in failed(folder)]
            assert len(keys) == len(set(keys)), "a question was asked twice"
            assert {**again, "seconds": 0, "tokens_per_second": 0} == {**result, "seconds": 0, "tokens_per_second": 0}


def failed(folder: Path) -> set[str]:
    """Keys whose request failed: those alone are asked again."""
    events = [line.event for line in lines(folder)]
    return {event.key for event in events if isinstance(event, Answer) and event.finish_reason == "error"}


def test_a_run_that_ended_does_nothing_more_when_run_again(tmp_path: Path) -> None:
    with new_project(tmp_path, ["a", "b"]) as project:
        folder = new_run(project)
        first = attempt(folder)
        before = (rows(folder), asked(folder))
        second = attempt(folder)
        assert (rows(folder), asked(folder)) == before
        assert (second["rows"], second["tokens"]) == (first["rows"], first["tokens"])


def test_a_failed_question_is_asked_again_when_the_run_is_continued(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"errors": {"b": "busy"}}))
    with new_project(tmp_path, ["a", "b"]) as project:
        folder = new_run(project, teacher=TeacherSpec("script", "scripted", path=str(script)))
        assert attempt(folder)["rows"] == 1
        script.write_text("{}")
        assert attempt(folder)["rows"] == 2
        assert [row["prompt_id"] for row in rows(folder)] == [1, 2]


def test_a_teacher_that_answers_nothing_is_a_failure_not_an_empty_success(tmp_path: Path) -> None:
    with new_project(tmp_path, ["a", "b"]) as project:
        folder = new_run(project, {"errors": {"a": "broken", "b": "broken"}})
        with pytest.raises(KnownError, match="answered nothing") as caught:
            attempt(folder)
        assert "2 × sample: broken" in caught.value.detail


def test_a_stop_keeps_what_came_and_continuing_completes_it(tmp_path: Path) -> None:
    with new_project(tmp_path, [f"p{number}" for number in range(30)]) as project:
        folder = new_run(project)
        job = Job(folder)
        emit = job.emit

        def stop_after_five(event: Any, *, durable: bool = False) -> None:
            emit(event, durable=durable)
            if isinstance(event, Row) and len(rows(folder)) == 5:
                job.stop()

        job.emit = stop_after_five  # type: ignore[method-assign]
        result = finish(job)
        assert result["rows"] == 5
        assert len(asked(folder)) == 5
        assert attempt(folder)["rows"] == 30
        assert len(asked(folder)) == len(set(asked(folder))) == 30


def test_the_prompts_of_a_run_are_chosen_once(tmp_path: Path) -> None:
    """What a person imports, rejects or answers otherwise while a run is interrupted does not shift it."""
    with new_project(tmp_path, ["a", "b", "c", "d"]) as project:
        folder = new_run(project, limit=3)
        with pytest.raises(KilledError):
            attempt(folder, kill_at=len(["progress", "answer", "row"]))
        assert [row["prompt_id"] for row in rows(folder)] == [1]
        project.rows.add_prompts([NewPrompt([{"role": "user", "content": "new"}])])
        project.rows.set_status("prompt", [1, 2], "rejected", "dull")
        result = attempt(folder)
        assert [row["prompt_id"] for row in rows(folder)] == [1, 3]
        assert drops(folder) == [(2, "input", "it was rejected before it was asked")]
        assert (result["rows"], result["dropped"]) == (2, 1)


def test_only_what_is_unanswered_is_asked_and_another_seed_asks_anew(tmp_path: Path) -> None:
    with new_project(tmp_path, ["a", "b", "c"]) as project:
        project.rows.set_status("prompt", [3], "rejected")

        def elicit(**parameters: Any) -> int:
            folder = new_run(project, **parameters)
            try:
                rows_written = int(attempt(folder)["rows"])
            finally:
                project.runs.ingest(folder.name, lines(folder))
            return rows_written

        assert elicit(limit=1) == 1
        assert elicit() == 1
        with pytest.raises(KnownError, match="nothing to ask"):
            elicit()
        assert elicit(seed=1) == 2
        assert elicit(recipe=recipe_of('[[step]]\ntype="sample"\n[[step]]\ntype="parse"\n[[step]]\ntype="emit"')) == 2


def test_an_empty_project_says_so(tmp_path: Path) -> None:
    with new_project(tmp_path, []) as project, pytest.raises(KnownError, match="nothing to ask"):
        attempt(new_run(project))


def test_values_reach_templates_and_provenance(tmp_path: Path) -> None:
    with new_project(tmp_path, ["a"]) as project:
        plain, changed = new_run(project, {"function": "echo"}), new_run(project, {"function": "echo"})
        folder = new_run(
            project,
            {"default": "It is what it is."},
            recipe="chain_of_thought",
            values={"instruction": "Be brief."},
        )
        attempt(folder)
        job = run_files.read_job(folder)
        assert rows(folder)[0]["recipe_hash"] != job.parameters["recipe_hash"]
        attempt(plain)
        assert rows(plain)[0]["recipe_hash"] == run_files.read_job(changed).parameters["recipe_hash"]
        with pytest.raises(BadInput, match="Unknown parameter"):
            attempt(new_run(project, values={"nobody": "x"}))


def test_a_hostile_template_ends_the_run_before_a_question_is_asked(tmp_path: Path) -> None:
    steps = """
    [[step]]
    type = "prompt"
    user = "{{ 'a'.ljust(10 ** 10) }}"
    [[step]]
    type = "sample"
    [[step]]
    type = "parse"
    [[step]]
    type = "emit"
    """
    with new_project(tmp_path, ["a", "b"]) as project:
        folder = new_run(project, recipe=recipe_of(steps))
        with pytest.raises(BadInput, match="stopped"):
            attempt(folder)
        assert asked(folder) == []


def test_an_answer_that_no_journal_line_can_hold_is_cut_like_by_a_token_limit(tmp_path: Path) -> None:
    huge = "\x01" * 400_000
    for text in (huge, "ü" * 900_000, "x" * 3_000_000):
        kept = bounded(Completion("k", text, "stop", reasoning=text))
        assert kept.finish_reason == "length"
        assert text.startswith(kept.text)
        assert len(json.dumps(kept.text, ensure_ascii=False).encode()) > MAXIMUM_ANSWER_BYTES * 0.9
        encode(Row("response", {"text": kept.text, "reasoning": kept.text}), 1)
    short = Completion("k", "short", "stop", reasoning="because")
    assert bounded(short) == short
    with new_project(tmp_path, ["a"]) as project:
        script = tmp_path / "script.json"
        script.write_text(json.dumps({"default": huge}))
        folder = new_run(project, teacher=TeacherSpec("script", "scripted", path=str(script)))
        attempt(folder)
        assert rows(folder)[0]["status"] == "rejected"


def test_what_no_encoding_has_is_replaced_before_it_is_journalled(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"default": "half \ud83d", "errors": {"b": "bad \udc00"}}))
    with new_project(tmp_path, ["a", "b"]) as project:
        folder = new_run(project, teacher=TeacherSpec("script", "scripted", path=str(script)))
        attempt(folder)
        project.runs.ingest(folder.name, lines(folder))
        assert project.rows.responses_of(1)[0].text == "half ?"
        assert project.runs.dropped(folder.name)[0].reason == "bad ?"


class TestOverTheNetwork:
    """The same job with an API teacher, whose answers are paid for."""

    @staticmethod
    def teacher(server: Loopback, **options: Any) -> TeacherSpec:
        return TeacherSpec("api", "openai", url=server.url, model="tiny", key_name="k", options={"tries": 2, **options})

    def test_killed_at_every_answer_no_served_answer_is_bought_again(self, tmp_path: Path) -> None:
        with Loopback() as server, new_project(tmp_path, [f"p{number}" for number in range(10)]) as project:
            folder = new_run(project, teacher=self.teacher(server, requests_at_once=1))
            kills, result = 0, {"rows": 0}
            while result["rows"] < 10:
                try:
                    result = attempt(folder, kill_at=4, k="")
                except KilledError:
                    kills += 1
            assert kills >= 5
            assert len(rows(folder)) == 10
            assert sorted(server.served) == sorted(f"p{number}" for number in range(10))

    def test_a_server_that_goes_away_fails_the_run_which_can_be_continued(self, tmp_path: Path) -> None:
        with Loopback() as server, new_project(tmp_path, [f"p{number}" for number in range(24)]) as project:
            folder = new_run(project, teacher=self.teacher(server, tries=1))
            server.fault_for = lambda item: Fault("status", 503) if item.number > 6 else None
            with pytest.raises(KnownError, match="keeps failing"):
                attempt(folder)
            answered = len(rows(folder))
            assert 0 < answered <= 6
            server.fault_for = None
            assert attempt(folder)["rows"] == 24
            assert len(server.served) == len(set(server.served)) == 24

    def test_a_refused_key_ends_the_run_and_the_right_one_continues_it(self, tmp_path: Path) -> None:
        with Loopback(key="right-key-123") as server, new_project(tmp_path, ["a", "b"]) as project:
            folder = new_run(project, teacher=self.teacher(server))
            with pytest.raises(KnownError, match="refused the key"):
                attempt(folder, k="wrong-key-123")
            assert attempt(folder, k="right-key-123")["rows"] == 2
            assert "key-123" not in (folder / "events.jsonl").read_text()

    def test_reasoning_that_comes_apart_is_kept_with_the_row(self, tmp_path: Path) -> None:
        with Loopback(reasoning="Hm.") as server, new_project(tmp_path, ["a"]) as project:
            folder = new_run(project, teacher=self.teacher(server))
            attempt(folder)
            assert (rows(folder)[0]["reasoning"], rows(folder)[0]["text"]) == ("Hm.", "This is the answer to a")

    def test_what_the_endpoint_does_not_take_is_said_once(self, tmp_path: Path) -> None:
        with Loopback(refuses=("temperature",)) as server, new_project(tmp_path, ["a", "b", "c"]) as project:
            folder = new_run(project, teacher=self.teacher(server))
            assert attempt(folder)["rows"] == 3
            assert len([item for item in warnings(folder) if "temperature" in item.title]) == 1

    def test_a_stop_reaches_a_run_that_waits_for_a_silent_server(self, tmp_path: Path) -> None:
        with Loopback() as server, new_project(tmp_path, ["a", "b"]) as project:
            server.fault_for = lambda item: Fault("slow", seconds=3)
            folder = new_run(project, teacher=self.teacher(server))
            job = Job(folder)
            threading.Timer(0.5, job.stop).start()
            assert finish(job)["rows"] == 0
            assert not server.served
