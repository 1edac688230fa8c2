"""How documents were read is said once in a run's notes, and in a trial; what could not be read, in the funnel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdstudio.cli.trials import trial_in_words
from kdstudio.elicitation.reading_notes import MOST
from kdstudio.jobs.events import Funnel, Row, Traced
from kdstudio.recipe import ElicitationRecipe, parse_recipe
from tests.unit.elicitation.document_files import encrypted_pdf, pdf
from tests.unit.elicitation.runs import KilledError, attempt, drops, lines, new_project, new_run, warnings

RECIPE = """
version = 1
[recipe]
id = "read"
title = "Read"
[input]
source = "documents"
[parameters.documents]
type = "files"
help = "x"
[[step]]
type = "prompt"
start = ""
user = "What is {{ title }} about?"
[[step]]
type = "sample"
[[step]]
type = "emit"
kind = "prompt"
text = "answer"
[[step]]
type = "loop"
rounds = 2
maximum_slide = 0
"""


def recipe() -> ElicitationRecipe:
    return parse_recipe(RECIPE, ElicitationRecipe)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(pdf(["A page of text about whales.", ""]))
    (folder / "b.txt").write_bytes("Café crème, très bien".encode("latin-1"))
    (folder / "c.pdf").write_bytes(encrypted_pdf("secret", "nobody knows"))
    (folder / "d.pdf").write_bytes(pdf(["", ""]))
    (folder / "e.md").write_text("# Fine\n\nNothing to say of this one.")
    return folder


def test_a_run_says_once_what_was_not_read_and_names_what_could_not_be(documents: Path, tmp_path: Path) -> None:
    with new_project(tmp_path, []) as project:
        folder = new_run(project, {"function": "echo"}, recipe(), values={"documents": str(documents)})
        for kill in (4, 9):
            with pytest.raises(KilledError):
                attempt(folder, kill_at=kill)
        attempt(folder)
        said = [(event.title, event.detail) for event in warnings(folder) if "not read just" in event.title]
        assert said == [
            ("a.pdf was not read just as it stands", "1 of 2 pages hold no text: they are empty or scanned."),
            (
                "b.txt was not read just as it stands",
                "It is not UTF-8; it was read as Latin-1, so that accents may be wrong.",
            ),
        ]
        assert len([line for line in lines(folder) if isinstance(line.event, Row)]) == 6
        steps: list[dict[str, Any]] = [line.event for line in lines(folder) if isinstance(line.event, Funnel)][-1].steps
        assert (steps[0]["step"], steps[0]["type"], steps[0]["entered"]) == (-1, "input", 4)
        assert [reason.split(":")[0] for reason in steps[0]["fell"]] == ["c.pdf", "d.pdf"]
        assert "password" in next(iter(steps[0]["fell"]))
        assert {step for _, step, _ in drops(folder)} == {"input"}
        assert len(drops(folder)) == 4


def test_a_trial_shows_them_with_the_row(documents: Path, tmp_path: Path) -> None:
    with new_project(tmp_path, []) as project:
        folder = new_run(project, {"function": "echo"}, recipe(), values={"documents": str(documents)}, trial=3)
        attempt(folder)
        shown = [line.event for line in lines(folder) if isinstance(line.event, Traced) and line.event.step == -1]
        assert [(trace.key, trace.type) for trace in shown][:3] == [("d1", "input"), ("d2", "input"), ("d3", "input")]
        assert "scanned" in shown[0].columns["notes"]
        words = trial_in_words(project, folder.name)
        assert "     input        notes = 1 of 2 pages hold no text" in words
        assert "fell: c.pdf" in words


def test_of_many_documents_the_first_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(MOST + 3):
        (folder / f"{number:03}.txt").write_bytes(b"caf\xe9 " * 3)
    with new_project(tmp_path, []) as project:
        run = new_run(project, {"function": "echo"}, recipe(), values={"documents": str(folder)})
        attempt(run)
        titles = [event.title for event in warnings(run) if "not read just" in event.title]
        assert len(titles) == MOST + 1
        assert titles[-1] == "3 more documents were not read just as they stand"
