"""The supervisor and real children: started, attached to, paused, stopped, killed, continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kdstudio.errors import KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs import supervisor as supervision
from kdstudio.jobs.events import Answer, Line, Row
from kdstudio.jobs.journal import read_journal
from kdstudio.jobs.supervisor import Supervisor
from kdstudio.project import NewPrompt, Project
from kdstudio.recipe import find_elicitation_recipe, recipe_hash

PROMPTS = 30


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project.create(tmp_path / "p") as made:
        made.rows.add_prompts(NewPrompt([{"role": "user", "content": f"thing {n}"}]) for n in range(PROMPTS))
        yield made
        for run in made.runs.list():
            process = run_files.process_of(made.runs_folder / run.id)
            if process is not None:
                process.kill()


def parameters(delay: float = 0.0, **changes: Any) -> dict[str, Any]:
    recipe = find_elicitation_recipe("answer")
    script = {"default": "It is {prompt}.", "delay": delay}
    teacher = {"name": "script", "kind": "scripted", "options": {"script": script}}
    asked = {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe_hash(recipe),
        "teacher": teacher,
        "seed": 0,
    }
    return {**asked, "status": "any", "tag": "", "limit": 0, "values": {}, **changes}


def until(supervisor: Supervisor, true: Callable[[], bool], seconds: float = 30) -> list[tuple[str, Line]]:
    news: list[tuple[str, Line]] = []
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        news += supervisor.poll()
        time.sleep(0.02)
    return news


def answers(project: Project) -> int:
    return sum(project.rows.counts().get(("response", status), 0) for status in ("pending", "accepted", "rejected"))


def test_a_job_runs_to_its_end_and_its_rows_arrive(project: Project) -> None:
    supervisor = Supervisor(project)
    run_id = supervisor.start("elicit", parameters(), title="Ask")
    run = supervisor.wait(run_id, seconds=30)
    assert (run.state, run.title, run.result["rows"]) == ("finished", "Ask", PROMPTS)
    assert answers(project) == PROMPTS
    assert supervisor.active() == []
    assert run_files.read_status(project.runs_folder / run_id).attempts == 1
    with pytest.raises(KnownError, match="finished"):
        supervisor.resume(run_id)


def test_the_same_work_is_attached_to_not_started_twice(project: Project) -> None:
    supervisor = Supervisor(project)
    one = supervisor.start("elicit", parameters(0.05))
    assert supervisor.start("elicit", parameters(0.05)) == one
    assert supervisor.start("elicit", parameters(0.05), anew=True) != one
    assert sorted(Supervisor(project).active()) == sorted(supervisor.active())
    supervisor.wait(one)
    assert answers(project) >= PROMPTS


def test_a_paused_job_waits_and_a_stopped_one_is_continued(project: Project) -> None:
    supervisor = Supervisor(project)
    run_id = supervisor.start("elicit", parameters(0.05))
    until(supervisor, lambda: answers(project) >= 3)
    supervisor.pause(run_id)
    until(supervisor, lambda: project.runs.get(run_id).state == "paused")
    before = answers(project)
    time.sleep(0.4)
    supervisor.poll()
    assert answers(project) == before
    supervisor.resume(run_id)
    until(supervisor, lambda: answers(project) > before)
    supervisor.stop(run_id)
    assert supervisor.wait(run_id).state == "stopped"
    stopped_at = answers(project)
    assert before < stopped_at < PROMPTS
    assert supervisor.start("elicit", parameters(0.05)) == run_id
    assert supervisor.wait(run_id).state == "finished"
    assert answers(project) == PROMPTS


def test_kills_at_any_moment_lose_and_repeat_nothing(project: Project) -> None:
    supervisor = Supervisor(project)
    run_id = supervisor.start("elicit", parameters(0.1))  # slow enough that six kills find it at work
    for kill in range(6):
        until(supervisor, lambda wanted=3 + 4 * kill: answers(project) >= wanted)  # type: ignore[misc]
        process = run_files.process_of(project.runs_folder / run_id)
        assert process is not None
        process.kill()
        assert supervisor.wait(run_id).state == "interrupted"
        assert "signal" in project.runs.get(run_id).error["detail"]
        supervisor.resume(run_id)
    assert supervisor.wait(run_id).state == "finished"
    lines = [line.event for line in read_journal(project.runs_folder / run_id)]
    keys = [event.key for event in lines if isinstance(event, Answer)]
    rows = [event.row["key"] for event in lines if isinstance(event, Row)]
    assert len(keys) - len(set(keys)) == 0
    assert sorted(rows) == sorted(set(keys))
    assert answers(project) == PROMPTS


def test_a_job_outlives_whoever_started_it_and_the_next_one_sees_all(tmp_path: Path) -> None:
    with Project.create(tmp_path / "p") as project:
        project.rows.add_prompts(NewPrompt([{"role": "user", "content": f"thing {n}"}]) for n in range(PROMPTS))
    code = (
        "import sys, json, time; from pathlib import Path; from kdstudio.project import Project; "
        "from kdstudio.jobs.supervisor import Supervisor; "
        f"p = Project.open(Path({str(project.folder)!r})); s = Supervisor(p); "
        "print(s.start('elicit', json.loads(sys.argv[1])), flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, json.dumps(parameters(0.05))], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    run_id = starter.stdout.readline().decode().strip()
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    with Project.open(project.folder) as again:
        supervisor = Supervisor(again)
        assert supervisor.active() == [run_id]
        assert supervisor.wait(run_id, seconds=30).state == "finished"
        assert answers(again) == PROMPTS


def test_an_attached_job_ends_with_its_caller(tmp_path: Path) -> None:
    with Project.create(tmp_path / "p") as project:
        project.rows.add_prompts(NewPrompt([{"role": "user", "content": f"thing {n}"}]) for n in range(PROMPTS))
    code = (
        "import sys, json, time; from pathlib import Path; from kdstudio.project import Project; "
        "from kdstudio.jobs.supervisor import Supervisor; "
        f"p = Project.open(Path({str(project.folder)!r})); s = Supervisor(p); "
        "print(s.start('elicit', json.loads(sys.argv[1]), attached=True), flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, json.dumps(parameters(1.0))], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    folder = project.runs_folder / starter.stdout.readline().decode().strip()
    deadline = time.monotonic() + 20
    while run_files.process_of(folder) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    child = run_files.process_of(folder)
    assert child is not None
    starter.kill()
    starter.wait()
    starter.stdout.close()
    psutil.wait_procs([child], timeout=15)
    assert run_files.process_of(folder) is None


def test_a_child_that_does_not_answer_is_ended(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_TERMINATE_AFTER", 0.3)
    monkeypatch.setattr(supervision, "_KILL_AFTER", 1.0)
    supervisor = Supervisor(project)
    run_id = supervisor.start("elicit", parameters(60))
    until(supervisor, lambda: project.runs.get(run_id).state == "running")
    process = run_files.process_of(project.runs_folder / run_id)
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)  # not even the watching thread can answer
    supervisor.stop(run_id)
    assert supervisor.wait(run_id, seconds=20).state == "interrupted"


def test_a_silent_child_is_said_not_to_respond_until_it_does(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_START_SECONDS", 0.0)
    supervisor = Supervisor(project)
    run_id = supervisor.start("elicit", parameters(0.2))
    folder = project.runs_folder / run_id
    until(supervisor, (folder / run_files.HEARTBEAT_NAME).exists)
    os.utime(folder / run_files.HEARTBEAT_NAME, (time.time() - 90, time.time() - 90))
    until(supervisor, lambda: project.runs.get(run_id).state == "not responding")
    (folder / run_files.HEARTBEAT_NAME).touch()
    until(supervisor, lambda: project.runs.get(run_id).state in ("running", "finished"))
    supervisor.stop(run_id)
    supervisor.wait(run_id)


def test_a_failure_arrives_in_words(project: Project) -> None:
    supervisor = Supervisor(project)
    run_id = supervisor.start("elicit", parameters(teacher={"name": "x", "kind": "gguf", "path": "/not/there.gguf"}))
    run = supervisor.wait(run_id)
    assert run.state == "failed"
    assert run.error["title"]
    assert run.error["hint"]
    assert "Traceback" not in json.dumps({key: run.error[key] for key in ("title", "detail", "hint")})


def test_keys_reach_a_child_without_leaving_a_trace(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "canary-environment")
    supervisor = Supervisor(project)
    run_id = supervisor.start("elicit", parameters(0.05), secrets={"KEY": "canary-stdin-123"})
    until(supervisor, lambda: project.runs.get(run_id).state == "running")
    process = run_files.process_of(project.runs_folder / run_id)
    assert process is not None
    seen = json.dumps(process.environ()) + json.dumps(process.cmdline())
    assert "canary" not in seen
    supervisor.wait(run_id)
    for path in project.folder.rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes()
