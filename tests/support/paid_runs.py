"""Real elicitations against the billing server: killed, followed, and held against the server's own ledger."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from kdstudio.jobs import folder as run_files
from kdstudio.jobs.events import Answer, Attempt, Body, Event, Finished, Row, Settled
from kdstudio.jobs.journal import JournalReader, read_journal
from kdstudio.jobs.supervisor import Supervisor
from kdstudio.models.spec import TeacherKind, TeacherSpec
from kdstudio.project import Project, Run
from tests.support.paid_server import INPUT, OUTPUT

PRICE = {"input": INPUT, "output": OUTPUT}


def paid_teacher(url: str, kind: TeacherKind = "openai", **options: Any) -> TeacherSpec:
    """A teacher with a price at a billing server."""
    return TeacherSpec(
        "api", kind, url=url, model="tiny", key_name="k", options={"price": PRICE, "tries": 14, **options}
    )


def living(project: Project, supervisor: Supervisor, folder: Path) -> psutil.Process | None:
    """The run's process as soon as it has said its number; None once the run is over."""
    deadline = time.monotonic() + 60
    while (process := run_files.process_of(folder)) is None and project.runs.get(folder.name).state != "finished":
        assert time.monotonic() < deadline
        supervisor.poll()
        time.sleep(0.01)
    return process


def killed_again_and_again(project: Project, folder: Path, total: int, kills: int, keys: dict[str, str]) -> int:
    """Run a job in a child that is killed at random moments, then let it end; returns how often it was killed."""
    supervisor, done, chance = Supervisor(project), 0, random.Random(7)
    reader, answered = JournalReader(folder), 0
    for kill in range(kills):
        supervisor.resume(folder.name, secrets=keys)
        process = living(project, supervisor, folder)
        wanted = total * kill // kills + chance.randrange(1, max(2, total // kills))
        while process is not None and process.is_running() and answered < wanted:
            answered += sum(isinstance(line.event, Answer) for line in reader.read())
            supervisor.poll()
            time.sleep(chance.uniform(0.001, 0.02))
        if process is None or not process.is_running():
            break
        process.kill()
        done += 1
        if supervisor.wait(folder.name, seconds=60).state == "finished":
            break
    else:
        supervisor.resume(folder.name, secrets=keys)
    run = supervisor.wait(folder.name, seconds=600)
    assert run.state == "finished", (run.state, run.error, run.result)
    return done


@dataclass
class Books:
    """What a run's journal says of money; names are those that the server was given."""

    run: str
    attempts: set[str] = field(default_factory=set)
    bodies: dict[str, str] = field(default_factory=dict)
    settled: dict[str, Settled] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    rows: Counter[int] = field(default_factory=Counter)
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def unanswered(self) -> set[str]:
        """Attempts that were neither answered nor refused."""
        return self.attempts - set(self.bodies) - set(self.settled)

    def name(self, event: Attempt | Body | Settled) -> str:
        """What the server knows an attempt by."""
        return "/".join(quote(part, safe=":#") for part in (self.run, event.teacher, event.key, str(event.number)))

    def add(self, event: Event) -> None:
        """Take in one event."""
        match event:
            case Attempt():
                self.attempts.add(self.name(event))
            case Body():
                self.bodies[self.name(event)] = self.bodies.get(self.name(event), "") + event.text
            case Settled():
                self.settled[self.name(event)] = event
            case Answer():
                self.answers[event.key] = event
            case Row(row=row):
                self.rows[int(row["prompt_id"])] += 1
            case Finished(result=result):
                self.result = result


def books_of(folder: Path) -> Books:
    """Read a run's journal."""
    books = Books(folder.name)
    for line in read_journal(folder):
        books.add(line.event)
    return books


def ended(project: Project, run_id: str) -> Run:
    """Start a run over, follow it to its end."""
    return Supervisor(project).wait(run_id, seconds=120)


def questions_of(names: Iterable[str]) -> Counter[str]:
    """How many of these attempts belong to each question."""
    return Counter(name.rsplit("/", 1)[0] for name in names)
