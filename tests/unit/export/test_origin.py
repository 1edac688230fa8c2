"""An exported student says under which terms each row was made that it learnt from."""

from __future__ import annotations

import json
from pathlib import Path

from kdstudio.export.origin import origin_of
from kdstudio.jobs import folder as run_files
from kdstudio.project import NewPreference, NewResponse, Project
from tests.unit.export.trained import RUN, trained_project


def test_the_rows_of_the_run_count_not_those_of_the_project(tmp_path: Path) -> None:
    folder = trained_project(tmp_path)
    run_folder = folder / "runs" / RUN
    before = origin_of(folder, run_folder)
    assert (before.terms, before.learnt, before.reason) == ("apache-2.0", (), "")
    assert "kdstudio.terms" not in dict(before.identity("x").extra)
    assert before.identity("x").license == "apache-2.0"
    with Project.open(folder) as project:
        project.rows.add_responses(
            [
                NewResponse(1, "by a provider", teacher="gpt", terms="openai", status="accepted"),
                NewResponse(2, "accepted later", teacher="gemma", terms="gemma", status="accepted"),
            ]
        )
        learnt = project.rows.responses_of(1)[-1].id
    rows = (run_folder / "rows.jsonl").read_text().splitlines()
    rows.append(json.dumps({**json.loads(rows[0]), "response_id": learnt}))
    (run_folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    job = run_files.read_job(run_folder)
    parameters = {**job.parameters, "terms_reason": "an experiment", "restricted_terms": ["openai"]}
    run_files.write_job(run_folder, run_files.JobFile(job.kind, parameters))
    after = origin_of(folder, run_folder)
    assert [(use.stamp, use.rows) for use in after.learnt] == [("openai", 1)]
    assert dict(after.identity("x").extra)["kdstudio.terms"] == "apache-2.0 + openai"
    assert after.identity("x").license == "other"
    assert (after.facts("x").learnt, after.facts("x").reason) == (after.learnt, "an experiment")


def test_preferences_count_by_their_own_terms(tmp_path: Path) -> None:
    folder = trained_project(tmp_path)
    run_folder = folder / "runs" / RUN
    with Project.open(folder) as project:
        project.rows.add_preferences([NewPreference(1, ["a", "b"], [1.0, 0.0], terms="gemma", status="accepted")])
    row = json.loads((run_folder / "rows.jsonl").read_text().splitlines()[0])
    lines = [json.dumps({**row, "response_id": 1, "group": 1, "score": score}) for score in (1.0, 0.0)]
    (run_folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    assert [(use.stamp, use.rows) for use in origin_of(folder, run_folder).learnt] == [("gemma", 1)]


def test_a_run_without_its_rows_still_has_its_teachers_terms(tmp_path: Path) -> None:
    folder = trained_project(tmp_path)
    for torn in ("{", "[1]", '{"response_id": "x"}'):
        (folder / "runs" / RUN / "rows.jsonl").write_text(torn + "\n")
        found = origin_of(folder, folder / "runs" / RUN)
        assert (found.terms, found.learnt) == ("apache-2.0", ())
    (folder / "runs" / RUN / "rows.jsonl").unlink()
    assert origin_of(folder, folder / "runs" / RUN).learnt == ()
