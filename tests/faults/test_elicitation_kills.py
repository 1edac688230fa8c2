"""`kill -9` of a real elicitation at ten random moments: nothing lost, nothing asked twice, no answer bought twice."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psutil
import pytest

from kdstudio.jobs import folder as run_files
from kdstudio.jobs.events import Answer
from kdstudio.jobs.supervisor import Supervisor
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from tests.loopback import Asked, Fault, Loopback
from tests.unit.elicitation.runs import attempt, lines, new_project, new_run, recipe_of, rows

pytestmark = [pytest.mark.faults, pytest.mark.slow]
KILLS = 10
STEPS = """
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
refuse_pattern = "p1.*p"
[[step]]
type = "emit"
"""


def answers(folder: Path) -> list[str]:
    events = [line.event for line in lines(folder)]
    return [event.key for event in events if isinstance(event, Answer) and event.finish_reason != "error"]


def living(project: Project, supervisor: Supervisor, folder: Path) -> psutil.Process | None:
    """The run's process as soon as it has said its number; None once the run is over."""
    deadline = time.monotonic() + 60
    while (process := run_files.process_of(folder)) is None and project.runs.get(folder.name).state != "finished":
        assert time.monotonic() < deadline
        supervisor.poll()
        time.sleep(0.01)
    return process


def killed_again_and_again(project: Project, folder: Path, total: int, keys: dict[str, str]) -> int:
    """Run a job in a child that is killed ten times, then let it end; returns how often it was killed."""
    supervisor, kills, chance = Supervisor(project), 0, random.Random(7)
    for kill in range(KILLS):
        supervisor.resume(folder.name, secrets=keys)
        process = living(project, supervisor, folder)
        wanted = total * kill // KILLS + chance.randrange(1, total // KILLS)
        while process is not None and process.is_running() and len(answers(folder)) < wanted:
            supervisor.poll()
            time.sleep(chance.uniform(0.001, 0.02))
        if process is None or not process.is_running():
            break
        process.kill()
        kills += 1
        if supervisor.wait(folder.name, seconds=60).state == "finished":
            break
    else:
        supervisor.resume(folder.name, secrets=keys)
    run = supervisor.wait(folder.name, seconds=120)
    assert run.state == "finished", run.error
    return kills


def test_a_killed_run_writes_the_rows_of_an_undisturbed_one(tmp_path: Path) -> None:
    script = {"default": ["First {prompt}", "Then {prompt}", "Last {prompt}"], "out_of_order": 3, "delay": 0.01}
    with new_project(tmp_path, [f"p{number}" for number in range(40)]) as project:
        whole, folder = (new_run(project, script, recipe_of(STEPS), seed=5, only_unanswered=False) for _ in range(2))
        attempt(whole)
        assert killed_again_and_again(project, folder, 160, {}) >= 8
        assert rows(folder) == rows(whole)
        assert len(rows(folder)) == 80
        assert len(answers(folder)) == len(set(answers(folder))) == 160
        found = [answer for prompt in range(1, 41) for answer in project.rows.responses_of(prompt)]
        stored = [answer for answer in found if answer.run == folder.name]
        assert sorted(item.text for item in stored) == sorted(row["text"] for row in rows(whole))


def test_no_answer_that_was_journalled_is_bought_again(tmp_path: Path) -> None:
    """Over the network, with a third of all requests failing. An answer on its way at a kill may be lost, not more."""
    count, at_once = 120, 4
    kinds = [
        Fault("status", 429, retry_after="0.01"),
        Fault("status", 500),
        Fault("close"),
        Fault("cut"),
        Fault("empty"),
    ]

    def fault_for(item: Asked) -> Fault | None:
        return kinds[item.number // 3 % len(kinds)] if item.number % 3 == 0 else None

    with Loopback(key="secret-key-1", piece_seconds=0.01, fault_for=fault_for) as server:
        spec = TeacherSpec(
            "api", "openai", url=server.url, model="tiny", key_name="k", options={"requests_at_once": at_once}
        )
        with new_project(tmp_path, [f"p{number}" for number in range(count)]) as project:
            folder = new_run(project, teacher=spec)
            kills = killed_again_and_again(project, folder, count, {"k": "secret-key-1"})
            assert kills >= 8
            assert len(rows(folder)) == count
            assert {row["text"] for row in rows(folder)} == {f"This is the answer to p{n}" for n in range(count)}
            assert len(answers(folder)) == len(set(answers(folder))) == count
            assert count <= len(server.served) <= count + kills * at_once
            written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
            assert b"secret-key-1" not in written
