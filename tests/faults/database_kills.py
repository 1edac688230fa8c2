"""Kill a writer of the database again and again, and look at what it left. Run as a program of its own:

    python -m tests.faults.database_kills writer|import|migrate|ingest KILLS SEED FOLDER

It forks its victims, which a process with a window's threads should not do. A failed expectation ends it with an
`AssertionError`; else it prints how many of the kills hit while something was under way.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kdstudio.jobs.events import Event, Line, Metric, Row
from kdstudio.project import NewPrompt, Project, migrations
from kdstudio.project.database import DATABASE_NAME, connect
from kdstudio.project.exchange import import_file


def victim(work: Callable[[], None], seconds: float) -> bool:
    """Run `work` in a forked process and kill it after that long; True if it was still at work."""
    process = os.fork()
    if process == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def seconds_of(work: Callable[[], None]) -> float:
    """How long `work` takes undisturbed, in a process of its own."""
    start = time.monotonic()
    process = os.fork()
    if process == 0:
        work()
        os._exit(0)
    os.waitpid(process, 0)
    return time.monotonic() - start


def check(folder: Path) -> None:
    """The file is sound, and counts and search agree with the rows."""
    connection = connect(folder / DATABASE_NAME)
    assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    for kind, table in migrations.KIND_TABLES.items():
        rows = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        counted = connection.execute("SELECT coalesce(sum(number), 0) FROM counts WHERE kind = ?", (kind,)).fetchone()[
            0
        ]
        assert rows == counted, (kind, rows, counted)
    for index in ("prompts_search", "responses_search"):
        connection.execute(f"INSERT INTO {index}({index}, rank) VALUES ('integrity-check', 1)")
    connection.close()


def writer(kills: int, chance: random.Random, folder: Path) -> int:
    """No acknowledged row is lost, no batch is torn."""
    Project.create(folder / "p").close()
    project_folder, log, hits = folder / "p.kdstudio", folder / "acknowledged", 0
    log.touch()

    def work() -> None:
        with Project.open(project_folder) as project, log.open("ab", buffering=0) as out:
            while True:
                mark = f"{os.getpid()}-{time.monotonic_ns()}"
                project.rows.add_prompts(NewPrompt([{"role": "user", "content": f"{mark} {i}"}]) for i in range(5))
                out.write(f"{mark}\n".encode())

    for _ in range(kills):
        hits += victim(work, chance.uniform(0.005, 0.08))
        check(project_folder)
    with Project.open(project_folder) as project:
        texts = {prompt.text for prompt in project.rows.prompts()}
    assert len(texts) % 5 == 0
    acknowledged = log.read_text().split()
    assert acknowledged
    assert all(f"{mark} {i}" in texts for mark in acknowledged for i in range(5))
    return hits


def importing(kills: int, chance: random.Random, folder: Path) -> int:
    """An import happens whole or not at all."""
    source = folder / "rows.jsonl"
    source.write_bytes(b"".join(b'{"prompt":"question %d","completion":"answer %d"}\n' % (n, n) for n in range(8000)))
    project_folder, hits = folder / "p.kdstudio", 0

    def work() -> None:
        with Project.open(project_folder) as project:
            import_file(project, source)

    Project.create(project_folder).close()
    whole = seconds_of(work)
    for _ in range(kills):
        shutil.rmtree(project_folder)
        Project.create(project_folder).close()
        hits += victim(work, chance.uniform(0, whole))
        check(project_folder)
        with Project.open(project_folder) as project:
            counts = project.rows.counts()
        assert counts in ({}, {("prompt", "pending"): 8000, ("response", "pending"): 8000}), counts
    return hits


def migrate(kills: int, chance: random.Random, folder: Path) -> int:
    """A killed upgrade leaves the old schema or the new one, and every row; the next start finishes it."""
    old = folder / "old.kdstudio"
    old.mkdir()
    connection = connect(old / DATABASE_NAME)
    connection.execute("BEGIN")
    migrations.MIGRATIONS[0](connection)
    connection.executemany(
        "INSERT INTO prompts (fingerprint, messages, text, created) VALUES (?, '[]', ?, '')",
        ((str(n).encode(), f"row {n} " + "x" * 300) for n in range(4000)),
    )
    connection.execute("INSERT INTO prompts_search(prompts_search) VALUES ('rebuild')")
    connection.execute("PRAGMA user_version = 1")
    connection.execute("COMMIT")
    connection.close()
    target, hits = folder / "p.kdstudio", 0

    def work() -> None:
        Project.open(target).close()

    shutil.copytree(old, target)
    whole = seconds_of(work)
    for _ in range(kills):
        shutil.rmtree(target)
        shutil.copytree(old, target)
        hits += victim(work, chance.uniform(0, whole))
        with contextlib.closing(sqlite3.connect(target / DATABASE_NAME)) as raw:
            version = raw.execute("PRAGMA user_version").fetchone()[0]
            triggers = {row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")}
        assert version in (1, migrations.VERSION)
        assert ("prompts_counted" in triggers) == (version == 1)
        backups = [*(target / "backups").glob("project-*.db")]  # not those that were still being written
        assert version == 1 or backups
        for path in backups:  # a backup that has its name is sound
            with contextlib.closing(sqlite3.connect(path)) as copy:
                assert copy.execute("PRAGMA quick_check").fetchone()[0] == "ok"
                assert copy.execute("SELECT count(*) FROM prompts").fetchone()[0] == 4000
        check(target)
        with Project.open(target) as project:
            assert project.rows.counts() == {("prompt", "pending"): 4000}
            assert project.rows.add_prompts([NewPrompt([{"role": "user", "content": "new"}])]) == 1
            assert project.rows.counts() == {("prompt", "pending"): 4001}
        check(target)
    return hits


def ingest(kills: int, chance: random.Random, folder: Path) -> int:
    """A journal that is ingested by ever new processes, each killed, ends up as if by one that lived."""

    def event(n: int) -> Event:
        if n % 3 == 0:
            return Metric(n, {"loss": 1 / n})
        return Row("response", {"prompt_id": 1 + n % 7, "text": f"answer {n}", "key": str(n), "teacher": "T"})

    lines = [Line(n, "", event(n)) for n in range(1, 1201)]
    project_folder, hits = folder / "p.kdstudio", 0
    with Project.create(project_folder) as project:
        project.rows.add_prompts(NewPrompt([{"role": "user", "content": str(n)}]) for n in range(7))
        run = project.runs.add("elicit", "x", {})

    def work() -> None:
        with Project.open(project_folder) as project:
            for first in range(0, len(lines), 3):
                project.runs.ingest(run, lines[first : first + 3])

    for _ in range(kills):
        hits += victim(work, chance.uniform(0.01, 0.12))
        check(project_folder)
    work()
    with Project.open(project_folder) as project:
        assert project.rows.counts()[("response", "pending")] == 800
        answers = sorted(
            (response for _, response in project.rows.pairs(status="any")), key=lambda response: response.id
        )
        assert [response.text for response in answers] == [f"answer {n}" for n in range(1201) if n % 3]
        assert len(project.runs.metrics(run, "loss")[0]) == 400
    return hits


if __name__ == "__main__":
    chosen = {"writer": writer, "import": importing, "migrate": migrate, "ingest": ingest}[sys.argv[1]]
    print(chosen(int(sys.argv[2]), random.Random(int(sys.argv[3])), Path(sys.argv[4])))
