"""Full-text search over prompts and responses: an FTS5 index beside the tables, kept in step with them.

New rows enter the index in bulk (one INSERT ... SELECT a batch, several times faster than a trigger a row); edits and
undo go through triggers. Scripts without spaces between words are searched by substring instead.
"""

from __future__ import annotations

import re
import sqlite3

SEARCHED = {"prompts": "prompts_search", "responses": "responses_search"}

SCHEMA = """
CREATE VIRTUAL TABLE {index} USING fts5(text, content='{table}', content_rowid='id', columnsize=0);
CREATE TRIGGER {table}_text AFTER UPDATE OF text ON {table} WHEN old.text <> new.text BEGIN
    INSERT INTO {index}({index}, rowid, text) VALUES ('delete', old.id, old.text);
    INSERT INTO {index}(rowid, text) VALUES (new.id, new.text);
END;
"""
_MAXIMUM_WORDS = 32
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def index_new(connection: sqlite3.Connection, table: str, after: int) -> None:
    """Enter the rows with an id above `after` into the index."""
    index = SEARCHED.get(table)
    if index is not None:
        connection.execute(
            f"INSERT INTO {index}(rowid, text) SELECT id, text FROM {table} WHERE id > ?",  # noqa: S608 -- our own names
            (after,),
        )


def last_id(connection: sqlite3.Connection, table: str) -> int:
    """The highest id of a table; 0 if it is empty."""
    return int(connection.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0])  # noqa: S608


def matching(table: str, text: str) -> tuple[str, str]:
    """A SELECT of the ids in `table` whose text holds all the words (the last as a beginning), and its one value."""
    words = re.findall(r"\w+", text)[:_MAXIMUM_WORDS]
    index = SEARCHED.get(table)
    if index is None or not words or _UNSPACED.search(text):
        return f"SELECT id FROM {table} WHERE instr(lower(text), lower(?))", text  # noqa: S608 -- our own names
    match = " ".join(f'"{word}"' for word in words) + "*"
    return f"SELECT rowid AS id FROM {index} WHERE {index} MATCH ?", match  # noqa: S608 -- our own names
