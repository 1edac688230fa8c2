"""From the first schema to the newest: every row comes along, every step is backed up before."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from kdstudio.project import NewPrompt, Project, migrations
from kdstudio.project.database import DATABASE_NAME, connect
from kdstudio.project.table import RowQuery, RowTable


def first_schema(folder: Path, rows: int) -> Path:
    """A project as version 1 of the schema wrote it, with its trigger for each new row."""
    folder.mkdir()
    with contextlib.closing(connect(folder / DATABASE_NAME)) as connection:
        connection.execute("BEGIN")
        migrations.MIGRATIONS[0](connection)
        connection.executemany(
            "INSERT INTO prompts (fingerprint, messages, text, created) VALUES (?, ?, ?, '')",
            ((str(n).encode(), f'[{{"content":"row {n}","role":"user"}}]', f"row {n}") for n in range(rows)),
        )
        connection.execute("INSERT INTO prompts_search(prompts_search) VALUES ('rebuild')")
        connection.execute("PRAGMA user_version = 1")
        connection.execute("COMMIT")
    return folder


def test_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    folder = first_schema(tmp_path / "old.kdstudio", 50)
    with Project.open(folder) as project:
        assert project.rows.counts() == {("prompt", "pending"): 50}
        assert project.rows.add_prompts([NewPrompt([{"role": "user", "content": "a whale"}])]) == 1
        assert project.rows.counts() == {("prompt", "pending"): 51}
        project.rows.set_status("prompt", [1, 51], "accepted")
        assert project.rows.counts() == {("prompt", "pending"): 49, ("prompt", "accepted"): 2}
        table = RowTable(folder)
        assert [row.id for row in table.page(RowQuery("prompt", search="whale"), 0, 9)] == [51]
        assert table.count(RowQuery("prompt", search="row")) == 50
        table.close()
    backups = sorted((folder / "backups").iterdir())
    assert len(backups) == 1
    with contextlib.closing(sqlite3.connect(backups[0])) as copy:
        assert copy.execute("PRAGMA user_version").fetchone() == (1,)
        assert copy.execute("SELECT count(*) FROM prompts").fetchone() == (50,)


def test_a_new_project_has_the_newest_schema_and_needs_no_backup(tmp_path: Path) -> None:
    with Project.create(tmp_path / "p") as project:
        assert migrations.version_of(project._database.writer) == migrations.VERSION
    old = first_schema(tmp_path / "old.kdstudio", 0)
    Project.open(old).close()
    schemas = []
    for folder in (tmp_path / "p.kdstudio", old):
        with contextlib.closing(connect(folder / DATABASE_NAME)) as connection:
            schemas.append({tuple(row) for row in connection.execute("SELECT type, name, sql FROM sqlite_master")})
    assert schemas[0] == schemas[1]
    assert not (tmp_path / "p.kdstudio" / "backups").exists()


def test_what_a_person_decided_before_it_was_noted_is_known_as_far_as_it_can_be(tmp_path: Path) -> None:
    folder = first_schema(tmp_path / "old.kdstudio", 3)
    rows = [
        *(("accepted", "", "run"), ("rejected", "", "run"), ("rejected", "too long", "run"), ("accepted", "", "")),
        ("rejected", "dull", "run"),
    ]
    with contextlib.closing(connect(folder / DATABASE_NAME)) as connection:
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO responses (prompt_id, fingerprint, text, status, reason, run, created) "
            "VALUES (1, ?, 'x', ?, ?, ?, '')",
            [(str(place).encode(), *row) for place, row in enumerate(rows)],
        )
        connection.execute("INSERT INTO history (id, label, created) VALUES (1, 'Reject', '')")
        connection.execute("""INSERT INTO history_rows VALUES (1, 'response', 5, '{"status":"pending","reason":""}',
            '{"status":"rejected","reason":"dull"}')""")
        connection.execute("COMMIT")
    with Project.open(folder) as project:
        found = project._database.all("SELECT id FROM responses WHERE decided = 1 ORDER BY id")
        assert [row["id"] for row in found] == [1, 2, 5]  # not what a recipe rejected, nor what came with a file
        assert project.history.undo() == "Reject"
        assert project.rows.response(5).status == "pending"
