"""Each shipped recipe with rounds through the real jobs: its example speaks in round 1, a tiny student learns."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kdstudio.catalogue.elicitation import ExamplePrompt, ExampleTable
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import NewPrompt, NewResponse, Project
from kdstudio.recipe import RoundsRecipe, find_elicitation_recipe, override, shipped_rounds_recipes
from kdstudio.rounds.plan import planned
from kdstudio.rounds.standing import read_standing
from tests.tiny import tiny_model
from tests.unit.rounds.in_process import lead

EXAM = ("What is one and one?", "2")
QUICK = '"run.steps=1","run.rows_per_batch=2","run.device=cpu","run.precision=fp32","optimizer.warmup_steps=1"'


def project_of(recipe: RoundsRecipe, folder: Path) -> tuple[Project, dict[str, Any]]:
    """The example's prompts, one that is held out, and who says the example's answers."""
    example = find_elicitation_recipe(recipe.elicit.recipe).example or ExampleTable()
    project = Project.create(folder / "p.kdstudio")
    entries = [entry if isinstance(entry, ExamplePrompt) else ExamplePrompt(prompt=entry) for entry in example.prompts]
    entries.append(ExamplePrompt(prompt=EXAM[0], reference=EXAM[1], response=EXAM[1], tags=("exam",)))
    for entry in entries:
        content = [{"role": "user", "content": entry.prompt}]
        ids, _ = project.rows.put_prompts([NewPrompt(content, entry.tags, entry.reference, "example", "accepted")])
        if entry.response:
            project.rows.add_responses([NewResponse(ids[0], entry.response, finish_reason="stop", status="accepted")])
    documents = folder / "documents"
    documents.mkdir()
    for name, text in example.documents.items():
        (documents / name).write_text(text, "utf-8")
    rules = [{"match": rule.match, "text": rule.text, "finish_reason": rule.finish_reason} for rule in example.answers]
    script = {"rules": rules, "default": "The example has no answer to this."}
    return project, asdict(TeacherSpec("teacher", "scripted", options={"script": script}))


def quick(recipe: RoundsRecipe, folder: Path, count: int) -> RoundsRecipe:
    """One step of training, the teacher as the first speaker, and short answers."""
    added = [item for item in recipe.train.set if not item.startswith("run.")]
    sets = ",".join([*(json.dumps(item) for item in added), QUICK])
    changes = [f"rounds.count={count}", 'elicit.first="teacher"', 'measure.held_out_tag="exam"', f"train.set=[{sets}]"]
    changes += ["measure.max_tokens=8", "stop.tolerance=100.0"]
    if "documents" in recipe.recipe.needs:
        changes += [f"elicit.values.documents={json.dumps(str(folder / 'documents'))}", 'elicit.teacher="teacher"']
    return override(recipe, changes)


@pytest.mark.parametrize("name", shipped_rounds_recipes())
def test_a_round_trains_on_what_its_example_keeps(name: str, tmp_path: Path) -> None:
    _go(name, tmp_path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_rounds_recipes())
def test_two_rounds_end_in_words(name: str, tmp_path: Path) -> None:
    result = _go(name, tmp_path, 2)
    assert result["ended"] in ("All 2 rounds are done.", "Round 2 made no rows to train on.")


def _go(name: str, folder: Path, count: int) -> dict[str, Any]:
    shipped = shipped_rounds_recipes()[name]
    project, teacher = project_of(shipped, folder)
    with project:
        recipe = quick(shipped, folder, count)
        plan = planned(project, recipe, teacher, student=str(tiny_model(layers=2)))
        result = lead(project, plan)
        first = read_standing(project, plan).rounds[0]
        example = find_elicitation_recipe(recipe.elicit.recipe).example or ExampleTable()
        expected = [row for row in example.expect if row["kind"] != "prompt"]
        assert first.made == len(example.expect)
        others = 0 if not recipe.train.with_accepted else project.rows.counts().get(("response", "accepted"), 0) - 1
        assert first.learnt == len(expected) + others
        assert first.after is not None
        assert first.before is not None
        assert result["rounds"][0]["value"] == first.after
    return result
