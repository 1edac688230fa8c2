"""Show 6: a canary key goes through a whole run and a crash, and can be found nowhere afterwards."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kdstudio.jobs import child
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.child import Job
from kdstudio.jobs.events import Body
from kdstudio.jobs.journal import read_journal
from kdstudio.jobs.supervisor import Supervisor
from kdstudio.models.spec import TeacherKind
from kdstudio.teachers.bodies import whole
from tests.support.paid_runs import paid_teacher
from tests.support.paid_server import PaidServer
from tests.unit.elicitation.runs import new_project, new_run

pytestmark = pytest.mark.faults
CANARY = "sk-canary-4f1d9a7733aa"
VARIABLE = "MY_TEACHER"  # a name that does not look like a secret's


def needles(key: str) -> list[bytes]:
    """The key, and its middle as base64 writes it at each of the three places it can begin at."""
    found = [key.encode(), key[3:].encode(), key.encode().hex().encode()]
    for shift in range(3):
        encoded = base64.b64encode(b"x" * shift + key.encode())
        found += [encoded[4:-4], base64.urlsafe_b64encode(b"x" * shift + key.encode())[4:-4]]
    return found


def hits(data: bytes, place: object) -> list[str]:
    return [f"{place}: {needle!r}" for needle in needles(CANARY) if needle in data]


def searched(folder: Path) -> Iterator[str]:
    """Hits in every file below a folder, and in what the journals hold compressed."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield from hits(path.read_bytes(), path)
        if path.name == "events.jsonl":
            bodies = [line.event for line in read_journal(path.parent) if isinstance(line.event, Body)]
            for body in bodies:
                yield from hits(whole([body]).encode() if body.parts == 1 else b"", f"{path}, body of {body.key}")


def verb(home: Path, *words: object) -> subprocess.Popen[str]:
    """The command line, with the key in its own environment, where a person put it."""
    environment = {**os.environ, VARIABLE: CANARY, "KDSTUDIO_HOME": str(home)}
    command = [sys.executable, "-m", "kdstudio", *map(str, words), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def said(process: subprocess.Popen[str], code: int = 0) -> str:
    """All that a verb printed."""
    out, error = process.communicate(timeout=120)
    assert process.returncode == code, error[-2000:]
    return out + error


def crashed(project: Path, process: subprocess.Popen[str]) -> list[str]:
    """Look at the job's own process while it runs, then let it crash; returns where the key was seen."""
    deadline = time.monotonic() + 60
    seen: list[str] = []
    while time.monotonic() < deadline and process.poll() is None:
        for folder in (project / "runs").glob("*-elicit-*"):
            job = run_files.process_of(folder)
            journal = folder / "events.jsonl"
            if job is not None and journal.is_file() and b'"answer"' in journal.read_bytes():
                for member in (job, *job.children(recursive=True)):
                    seen += hits(json.dumps([member.environ(), member.cmdline()]).encode(), member.name())
                job.send_signal(signal.SIGSEGV)
                psutil.wait_procs([job], timeout=30)
                return seen
        time.sleep(0.01)
    raise AssertionError("the job was never seen at work")


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_the_key_is_nowhere_after_a_short_run_whose_answers_repeat_it(tmp_path: Path, kind: TeacherKind) -> None:
    told = {"faults": 0.2, "echo": True, "late_seconds": 0.05}
    with PaidServer(tmp_path / "server.log", CANARY, told) as server, new_project(tmp_path, ["a"] * 24) as project:
        folder = new_run(project, teacher=paid_teacher(server.url, kind, requests_at_once=8, timeout_seconds=2))
        supervisor = Supervisor(project)
        supervisor.resume(folder.name, secrets={"k": CANARY})
        assert supervisor.wait(folder.name, seconds=60).state == "finished"
    (tmp_path / "server.log").unlink()
    assert (folder / "events.jsonl").read_text("utf-8").count("Bearer [key]") > 1
    assert list(searched(tmp_path)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.skipif(sys.platform == "win32", reason="a crash by signal")
def test_the_key_is_nowhere_after_a_run_and_a_crash(tmp_path: Path, kind: str) -> None:
    """The server even repeats the key in each of its answers, whole ones and refusals."""
    home, project = tmp_path / "home", tmp_path / "p.kdstudio"
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"p{n}"}) + "\n" for n in range(80)))
    told = {"seconds": 0.05, "faults": 0.2, "echo": True, "late_seconds": 0.1}
    with PaidServer(tmp_path / "server.log", CANARY, told) as server:
        printed = said(verb(home, "init", project))
        printed += said(verb(home, "import", project, tmp_path / "prompts.jsonl"))
        added = ("teacher", "add", project, "api", "--url", server.url, "--model", "tiny", "--key-name", VARIABLE)
        printed += said(verb(home, *added, "--kind", kind))
        asking = verb(home, "elicit", project, "--teacher", "api")
        seen = crashed(project, asking)
        printed += said(asking, code=1)
        printed += said(verb(home, "elicit", project, "--teacher", "api"))
        printed += said(verb(home, "rows", project, "--kind", "responses"))
        printed += said(verb(home, "dataset", project, tmp_path / "out.jsonl", "--status", "any"))
    (tmp_path / "server.log").unlink()
    assert printed.count("Bearer [key]") > 10
    logs = [path.read_bytes() for path in (project / "runs").rglob(run_files.LOG_NAME)]
    assert any(b"Segmentation fault" in log for log in logs)
    assert seen + list(searched(tmp_path)) + hits(printed.encode(), "printed") == []


def test_a_fault_of_the_program_that_names_the_key_is_written_down_without_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(job: Job) -> dict[str, object]:
        raise RuntimeError(f"headers: Bearer {job.secrets['k']} and {job.secrets['k']}")

    with new_project(tmp_path, ["a"]) as project:
        folder = new_run(project, teacher=paid_teacher("http://127.0.0.1:1/v1"))
        job = Job(folder, {"k": CANARY})
        assert job.run(broken) == child.EXIT_FAILED
        job._journal.close()
        assert "RuntimeError" in (text := capfd.readouterr().err)
        assert hits(text.encode(), "log") + list(searched(project.folder)) == []
