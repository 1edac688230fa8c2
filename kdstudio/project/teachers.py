"""The teachers of a project: where they are and what they can do. Never a key."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from typing import Any

from kdstudio.errors import BadInput
from kdstudio.jobs.events import now
from kdstudio.models.spec import TeacherSpec
from kdstudio.project.database import Database


@dataclass(frozen=True)
class StoredTeacher:
    """A teacher of the project, with what was last found out about it."""

    spec: TeacherSpec
    capabilities: dict[str, Any]
    created: str


class Teachers:
    """Adding, finding and removing teachers by name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, spec: TeacherSpec, capabilities: dict[str, Any] | None = None) -> None:
        """Add a teacher. Raises `BadInput` when the name is empty or taken."""
        if not spec.name.strip():
            raise BadInput("The teacher needs a name", "The name is empty.", "Give it a short name.")
        values = (spec.name, json.dumps(asdict(spec)), json.dumps(capabilities or {}), now())
        with self._database.write() as connection:
            try:
                connection.execute("INSERT INTO teachers VALUES (?,?,?,?)", values)
            except sqlite3.IntegrityError as error:
                raise BadInput(
                    "This name is taken", f"The project has a teacher {spec.name!r}.", "Choose another name."
                ) from error

    def get(self, name: str) -> StoredTeacher:
        """The teacher of that name. Raises `BadInput` naming the known ones."""
        row = self._database.one("SELECT * FROM teachers WHERE name = ?", (name,))
        if row is None:
            known = ", ".join(teacher.spec.name for teacher in self.list()) or "none yet"
            raise BadInput("Unknown teacher", f"The project has no teacher {name!r}.", f"Known: {known}.")
        return _stored(row)

    def list(self) -> list[StoredTeacher]:
        """All teachers, in the order in which they were added."""
        return [_stored(row) for row in self._database.all("SELECT * FROM teachers ORDER BY rowid")]

    def remove(self, name: str) -> None:
        """Forget a teacher; the rows that it made stay, with its name."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM teachers WHERE name = ?", (name,))

    def set_capabilities(self, name: str, capabilities: dict[str, Any]) -> None:
        """Keep what was found out about a teacher."""
        with self._database.write() as connection:
            connection.execute("UPDATE teachers SET capabilities = ? WHERE name = ?", (json.dumps(capabilities), name))


def _stored(row: sqlite3.Row) -> StoredTeacher:
    return StoredTeacher(TeacherSpec(**json.loads(row["spec"])), json.loads(row["capabilities"]), row["created"])
