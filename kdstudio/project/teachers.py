"""The teachers of a project: where they are and what they can do. Never a key."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from kdstudio.errors import BadInput
from kdstudio.jobs.events import now
from kdstudio.models.spec import TeacherSpec
from kdstudio.models.terms import MAXIMUM_STAMP_CHARACTERS, single
from kdstudio.models.terms_stamp import OPTION, terms_stamp
from kdstudio.project.database import Database


@dataclass(frozen=True)
class StoredTeacher:
    """A teacher of the project, with what was last found out about it."""

    spec: TeacherSpec
    capabilities: dict[str, Any]
    created: str

    @property
    def terms(self) -> str:
        """The stamp of its terms of use (`models.terms`)."""
        return terms_stamp(self.spec, self.capabilities)


class Teachers:
    """Adding, finding and removing teachers by name; noting what their terms of use are."""

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

    def set_terms(self, name: str, terms: str) -> None:
        """Note a person's word on a teacher's terms of use; "" goes back to what its file or provider says.

        A licence's or provider's key, or words after "free: " or "restricted: ". Rows that are there keep their stamps.
        Raises `BadInput` for an unknown teacher and for words that are too long.
        """
        if len(terms.strip()) > MAXIMUM_STAMP_CHARACTERS:
            raise BadInput(
                "The terms are too long",
                f"They have {len(terms.strip()):,} characters.",
                f"Use at most {MAXIMUM_STAMP_CHARACTERS}: the name of a licence, or a few words.",
            )
        self.set_options(name, {OPTION: single(terms)})

    def set_options(self, name: str, options: Mapping[str, Any]) -> None:
        """Change some of a teacher's options; None and "" remove one. Raises `BadInput` for an unknown teacher."""
        spec = self.get(name).spec
        kept = {key: value for key, value in {**spec.options, **options}.items() if value not in (None, "")}
        with self._database.write() as connection:
            changed = json.dumps(asdict(replace(spec, options=kept)))
            connection.execute("UPDATE teachers SET spec = ? WHERE name = ?", (changed, name))


def _stored(row: sqlite3.Row) -> StoredTeacher:
    return StoredTeacher(TeacherSpec(**json.loads(row["spec"])), json.loads(row["capabilities"]), row["created"])
