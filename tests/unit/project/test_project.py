"""Opening, locking, migrating and closing a project."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdstudio.errors import BadInput, KnownError
from kdstudio.project import NewPrompt, Project, migrations
from kdstudio.project.database import DATABASE_NAME, connect

ASK = [{"role": "user", "content": "Why?"}]


def test_a_new_project_is_a_folder_that_opens_again(tmp_path: Path) -> None:
    with Project.create(tmp_path / "stories") as project:
        assert project.folder.name == "stories.kdstudio"
        assert project.rows.add_prompts([NewPrompt(ASK)]) == 1
    with Project.open(tmp_path / "stories.kdstudio") as again:
        assert [prompt.text for prompt in again.rows.prompts()] == ["Why?"]
    assert sorted(entry.name for entry in (tmp_path / "stories.kdstudio").iterdir() if entry.is_dir()) == [
        "exports",
        "runs",
        "vault",
    ]


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "full.kdstudio").mkdir()
    (tmp_path / "full.kdstudio" / "mine.txt").touch()
    with pytest.raises(BadInput, match="something here"):
        Project.create(tmp_path / "full")
    with pytest.raises(BadInput, match="not a project"):
        Project.open(tmp_path / "full.kdstudio")


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path: Path) -> None:
    with Project.create(tmp_path / "one") as project:
        project.rows.add_prompts([NewPrompt(ASK)])
        with pytest.raises(KnownError, match="already open") as caught:
            Project.open(project.folder)
        assert str(os.getpid()) in caught.value.detail
        with Project.open(project.folder, read_only=True) as reader:
            assert len(list(reader.rows.prompts())) == 1
            with pytest.raises(KnownError, match="read only"):
                reader.rows.add_prompts([NewPrompt(ASK)])


def test_a_killed_owner_leaves_the_lock_free(tmp_path: Path) -> None:
    Project.create(tmp_path / "p").close()
    code = (
        "import time; from pathlib import Path; from kdstudio.project import Project; "
        f"p = Project.open(Path({str(tmp_path / 'p.kdstudio')!r})); print('open', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    owner.stdout.readline()
    with pytest.raises(KnownError, match="already open"):
        Project.open(tmp_path / "p.kdstudio")
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    Project.open(tmp_path / "p.kdstudio").close()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    Project.create(tmp_path / "p").close()
    path = tmp_path / "p.kdstudio" / DATABASE_NAME
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    for read_only in (False, True):
        with pytest.raises(KnownError, match="newer KD Studio"):
            Project.open(path.parent, read_only=read_only)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (999,)
    connection.close()


def test_a_damaged_database_is_said_in_words(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "p")
    project.rows.add_prompts(NewPrompt([{"role": "user", "content": f"row {i} " * 20}]) for i in range(2000))
    project.close()
    path = project.folder / DATABASE_NAME
    data = bytearray(path.read_bytes())
    data[8192 : 8192 + 40000] = os.urandom(40000)
    path.write_bytes(data)
    (project.folder / "open").touch()  # the mark of an unclean end: only then is the whole file checked
    with pytest.raises(KnownError, match="damaged"):
        Project.open(project.folder)
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(KnownError, match="damaged"):
        Project.open(project.folder)


def test_each_migration_is_preceded_by_a_sound_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Project.create(tmp_path / "p") as project:
        project.rows.add_prompts([NewPrompt(ASK)])

    def second(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE later (id INTEGER)")

    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half (id INTEGER)")
        raise RuntimeError("the power went")

    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, broken))
    monkeypatch.setattr(migrations, "VERSION", len(migrations.MIGRATIONS))
    with pytest.raises(RuntimeError, match="power"):
        Project.open(tmp_path / "p.kdstudio")
    connection = connect(tmp_path / "p.kdstudio" / DATABASE_NAME)
    assert migrations.version_of(connection) == len(migrations.MIGRATIONS) - 1
    assert connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'half'").fetchone() is None
    connection.close()
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS[:-1], second))
    with Project.open(tmp_path / "p.kdstudio") as project:
        assert [prompt.text for prompt in project.rows.prompts()] == ["Why?"]
    backups = sorted((tmp_path / "p.kdstudio" / "backups").iterdir())
    assert len(backups) == 2
    copy = sqlite3.connect(backups[-1])
    assert copy.execute("SELECT text FROM prompts").fetchall() == [("Why?",)]
    copy.close()


def _write_forever(folder: str) -> None:
    project = Project.open(Path(folder))
    number = 0
    while True:
        number += 1
        prompts = [NewPrompt([{"role": "user", "content": f"{number} {i}"}]) for i in range(5)]
        project.rows.add_prompts(prompts)
        print(number, flush=True)


@pytest.mark.parametrize("seed", range(4))
def test_no_acknowledged_row_is_lost_when_the_writer_is_killed(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "p.kdstudio"
    Project.create(folder).close()
    code = (
        f"import sys; sys.path.insert(0, {str(Path.cwd())!r}); "
        f"from tests.unit.project.test_project import _write_forever; _write_forever({str(folder)!r})"
    )
    log = tmp_path / "out.txt"
    with log.open("wb") as out:
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=out)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and log.read_bytes().count(b"\n") < 5 + 7 * seed:
        time.sleep(0.01)
    writer.kill()
    writer.wait()
    acknowledged = log.read_bytes().count(b"\n")
    assert acknowledged >= 5
    with Project.open(folder) as project:
        rows = project.rows.counts()[("prompt", "pending")]
        assert rows % 5 == 0
        assert rows >= 5 * acknowledged
        assert rows == len(list(project.rows.prompts()))
