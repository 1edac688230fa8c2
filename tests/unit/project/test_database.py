"""The database's promises: all of a transaction or none, one writer, words for what the world does to a disk."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from kdstudio.errors import KnownError
from kdstudio.project import NewPrompt, Project
from kdstudio.project.database import DATABASE_NAME, Database, backup, connect


def ask(text: str) -> NewPrompt:
    return NewPrompt([{"role": "user", "content": text}])


def test_the_writer_keeps_what_it_acknowledges(tmp_path: Path) -> None:
    with Project.create(tmp_path / "p") as project:
        pragma = {
            name: project._database.writer.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "mmap_size")
        }
    assert pragma == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10000, "mmap_size": 0}


def test_a_full_disk_rolls_back_and_writing_goes_on_after(tmp_path: Path) -> None:
    with Project.create(tmp_path / "p") as project:
        project.rows.add_prompts([ask("kept")])
        writer = project._database.writer
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages + 8}")  # what SQLite sees when a disk is full
        with pytest.raises(KnownError, match="disk is full"):
            project.rows.add_prompts(ask(f"{n} " + "x" * 400) for n in range(5000))
        assert not writer.in_transaction
        assert [prompt.text for prompt in project.rows.prompts()] == ["kept"]
        writer.execute("PRAGMA max_page_count = 1000000")
        assert project.rows.add_prompts([ask("after")]) == 1
    with Project.open(tmp_path / "p.kdstudio") as again:
        assert [prompt.text for prompt in again.rows.prompts()] == ["kept", "after"]
        assert again.rows.counts() == {("prompt", "pending"): 2}


def test_a_commit_that_fails_is_rolled_back(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db", read_only=False)
    database.writer.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
    database.writer.execute("CREATE TABLE b (a REFERENCES a(id) DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError), database.write() as connection:
        connection.execute("INSERT INTO b VALUES (7)")  # is found out at COMMIT
    assert not database.writer.in_transaction
    with database.write() as connection:
        connection.execute("INSERT INTO a VALUES (1)")
    assert [row["id"] for row in database.all("SELECT id FROM a")] == [1]
    assert database.one("SELECT * FROM b") is None
    database.close()


def test_blocks_inside_blocks_are_one_transaction(tmp_path: Path) -> None:
    with Project.create(tmp_path / "p") as project:

        def give_up_midway() -> None:
            with project.transaction():
                project.rows.add_prompts([ask("a")])
                project.rows.add_prompts([ask("b")])
                raise RuntimeError("given up")

        with pytest.raises(RuntimeError, match="given up"):
            give_up_midway()
        assert list(project.rows.prompts()) == []
        assert project.rows.counts() == {}


def test_threads_write_in_turn_and_read_beside(tmp_path: Path) -> None:
    faults: list[BaseException] = []

    def work(name: str, project: Project) -> None:
        try:
            for n in range(15):
                project.rows.add_prompts([ask(f"{name} {n} {k}") for k in range(4)])
                assert len(list(project.rows.prompts())) % 4 == 0
        except BaseException as error:  # noqa: BLE001 -- carried to the test's own thread
            faults.append(error)

    with Project.create(tmp_path / "p") as project:
        threads = [threading.Thread(target=work, args=(name, project)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        assert project.rows.counts() == {("prompt", "pending"): 180}


def test_a_backup_that_is_cut_off_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Project.create(tmp_path / "p") as project:
        project.rows.add_prompts([ask("a")])
        writer = project._database.writer
        backup(writer, tmp_path / "backups" / "good.db")

        def broken(copy: sqlite3.Connection, path: Path) -> None:
            raise KnownError("The project's database is damaged", str(path))

        monkeypatch.setattr("kdstudio.project.database.quick_check", broken)
        with pytest.raises(KnownError, match="damaged"):
            backup(writer, tmp_path / "backups" / "bad.db")
    assert [entry.name for entry in (tmp_path / "backups").iterdir()] == ["good.db"]
    copy = sqlite3.connect(tmp_path / "backups" / "good.db")
    assert copy.execute("SELECT text FROM prompts").fetchall() == [("a",)]
    copy.close()


def test_a_project_copied_while_it_was_open_opens(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "p")
    project.rows.add_prompts([ask("a")])
    shutil.copytree(project.folder, tmp_path / "copy.kdstudio")
    project.close()
    with Project.open(tmp_path / "copy.kdstudio") as copy:
        assert [prompt.text for prompt in copy.rows.prompts()] == ["a"]


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "p.kdstudio"
    folder.mkdir()
    connection = connect(folder / DATABASE_NAME)
    connection.execute("CREATE TABLE theirs (id INTEGER)")
    connection.close()
    with pytest.raises(KnownError, match="not a project's database"):
        Project.open(folder)
    with pytest.raises(KnownError, match="older KD Studio"):
        Project.open(folder, read_only=True)
    connection = connect(folder / DATABASE_NAME)
    assert [row[0] for row in connection.execute("SELECT name FROM sqlite_master")] == ["theirs"]
    connection.close()


def test_temporary_files_of_a_killed_process_are_removed_at_the_next_start(tmp_path: Path) -> None:
    Project.create(tmp_path / "p").close()
    left = [tmp_path / "p.kdstudio" / part / ".kdtmp-x-1" for part in ("", "backups", "rejects")]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    Project.open(tmp_path / "p.kdstudio").close()
    assert not any(path.exists() for path in left)
