"""Runs a recipe's `[example]` through the real pipeline: a project, a run folder, a journal, and a scripted teacher."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdstudio.catalogue.elicitation import ExamplePrompt, ExampleTable
from kdstudio.elicitation import job as elicitation
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.child import Job
from kdstudio.jobs.events import Dropped, Row
from kdstudio.jobs.journal import read_journal
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import NewPrompt, NewResponse, Project
from kdstudio.recipe import ElicitationRecipe, recipe_hash

Rows = list[dict[str, Any]]


def run_example(recipe: ElicitationRecipe, folder: Path) -> tuple[Rows, dict[str, int]]:
    """The rows that the example's run wrote, as a person would expect them, and how many fell in each type of step."""
    example = recipe.example or ExampleTable()
    with Project.create(folder / "example") as project:
        _fill(project, example)
        run = _run_folder(project, recipe, example, folder)
        job = Job(run)
        try:
            elicitation.run(job)
        finally:
            job._journal.close()
        lines = list(read_journal(run))
        project.runs.ingest(run.name, lines)
        project.runs.ingest(run.name, lines)
        unusable = [drop for drop in project.runs.dropped(run.name) if drop.step == "ingest"]
        assert not unusable, unusable
        rows = _shown(project, [line.event for line in lines if isinstance(line.event, Row)])
    falls: dict[str, int] = {}
    for line in lines:
        if isinstance(line.event, Dropped):
            falls[line.event.step] = falls.get(line.event.step, 0) + 1
    return rows, falls


def _fill(project: Project, example: ExampleTable) -> None:
    entries = [entry if isinstance(entry, ExamplePrompt) else ExamplePrompt(prompt=entry) for entry in example.prompts]
    prompts = [
        NewPrompt([{"role": "user", "content": _content(entry)}], entry.tags, entry.reference, "example", "accepted")
        for entry in entries
    ]
    ids, _ = project.rows.put_prompts(prompts)
    project.rows.add_responses(
        NewResponse(number, entry.response, teacher=entry.teacher, status="accepted", source="example")
        for number, entry in zip(ids, entries, strict=True)
        if entry.response
    )


def _content(entry: ExamplePrompt) -> str | list[dict[str, Any]]:
    """The text, or the text and the picture as parts."""
    if not entry.image:
        return entry.prompt
    return [{"type": "text", "text": entry.prompt}, {"type": "image_url", "image_url": {"url": entry.image}}]


def _run_folder(project: Project, recipe: ElicitationRecipe, example: ExampleTable, folder: Path) -> Path:
    values = dict(example.values)
    if example.documents:
        documents = folder / "documents"
        documents.mkdir()
        for name, text in example.documents.items():
            (documents / name).write_text(text, "utf-8")
        values.setdefault(recipe.input.paths, str(documents))
    rules = [{"match": rule.match, "text": rule.text, "finish_reason": rule.finish_reason} for rule in example.answers]
    script = {"rules": rules, "default": "The example has no answer to this."}
    specs = [asdict(TeacherSpec(name, "scripted", options={"script": script})) for name in example.teachers]
    speakers = {str(getattr(step, "speaker", "")) for step in recipe.step}
    parameters = {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe_hash(recipe),
        "teacher": specs[0],
        **({"teachers": specs} if len(specs) > 1 else {}),
        **({"student": {**specs[0], "name": "student"}} if "student" in speakers else {}),
        "values": values,
        "limit": example.limit,
        "seed": 0,
    }
    run_id = project.runs.add("elicit", recipe.recipe.title, parameters)
    run = project.runs_folder / run_id
    run_files.write_job(run, run_files.JobFile("elicit", parameters))
    return run


def _shown(project: Project, events: list[Row]) -> Rows:
    """Journal rows with their kind and the text of their prompt. A label is a response with its labels."""
    texts = {prompt.fingerprint.hex(): prompt.text for prompt in project.rows.prompts()}
    rows = []
    for event in events:
        row = dict(event.row)
        labelled = event.kind == "response" and "labels" in row.get("extras", {})
        row["kind"] = "label" if labelled else event.kind
        if event.kind == "prompt":
            row["text"] = str(row["messages"][-1]["content"])
        elif "prompt" in row:
            row["prompt"] = texts[row["prompt"]]
        else:
            row["prompt"] = project.rows.prompt(row["prompt_id"]).text
        rows.append(row)
    return rows


def faults_of(rows: Rows, expected: Rows) -> str:
    """What of the expectation is not met, in words; "" when each row is expected and each expected row is there."""
    left = list(rows)
    for wanted in expected:
        found = next((row for row in left if _fits(row, wanted)), None)
        if found is None:
            return f"not written: {wanted}\nwritten: {_listed(left)}"
        left.remove(found)
    return f"not expected: {_listed(left)}" if left else ""


def _fits(row: dict[str, Any], wanted: dict[str, Any]) -> bool:
    kinds = {row["kind"]} | ({"response"} if row["kind"] == "label" else set())
    return wanted.get("kind", row["kind"]) in kinds and all(
        row.get(name) == value for name, value in wanted.items() if name != "kind"
    )


def _listed(rows: Rows) -> str:
    hidden = ("extras", "sampling", "seed", "recipe_hash", "key")
    shown = [{name: value for name, value in row.items() if name not in hidden} for row in rows]
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in shown)
