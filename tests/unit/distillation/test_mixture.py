"""Learning from the mean of several teachers: its stored signals are read, and nothing of one teacher alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdstudio.catalogue.training import TeacherTable
from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.child import Job
from kdstudio.teachers import signals_job
from tests.tiny import tiny_model
from tests.unit.distillation.setting import JournalledJob, make_project, recipe

WEIGHTS = {"one": 0.7, "two": 0.3}
FORWARD = [{"name": "forward_kl", "parameters": {}}]


def teachers() -> list[dict[str, Any]]:
    paths = [str(tiny_model(layers=4, seed=seed)) for seed in (0, 1)]
    return [{"name": name, "kind": "gguf", "path": path} for name, path in zip(WEIGHTS, paths, strict=True)]


def store(project: Path, weights: list[float]) -> dict[str, Any]:
    folder = project / "runs" / f"signals {weights}"
    specs = [{**spec, "options": {"threads": 1}} for spec in teachers()]
    parameters = {"teacher": specs[0], "teachers": specs, "weights": weights, "top_k": 20}
    run_files.write_job(folder, run_files.JobFile("signals", parameters))
    job = Job(folder)
    try:
        return signals_job.run(job)
    finally:
        job._journal.close()


def train(project: Path, name: str, weights: dict[str, float], **tables: Any) -> dict[str, Any]:
    folder = project / "runs" / name
    teacher = {"name": "", "signals": "stored", "top_k": 20, "weights": weights}
    made = recipe(teacher=teacher, objective=FORWARD, **tables)
    parameters = {"recipe": made, "recipe_hash": "", "teacher": teachers()[0], "teachers": teachers()}
    run_files.write_job(folder, run_files.JobFile("train", parameters))
    return JournalledJob(folder).run()


def test_a_student_learns_from_the_mean(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    stored = store(project, [0.7, 0.3])
    assert (stored["rows"], stored["new_rows"]) == (20, 20)
    assert store(project, [7, 3])["new_rows"] == 0  # the same shares
    trained = train(project, "1", WEIGHTS, run={"steps": 8}, optimizer={"learning_rate": 3e-3})
    assert trained["held_out_against"] == "stored"
    assert trained["final"]["held_out_forward_kl"] < trained["before"]["held_out_forward_kl"]
    with pytest.raises(KnownError, match="signals are missing"):
        train(project, "2", {"one": 0.5, "two": 0.5})


def test_what_only_a_running_teacher_gives_is_refused(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    store(project, [0.7, 0.3])
    with pytest.raises(BadInput, match="does not run beside"):
        train(project, "1", WEIGHTS, rollout={"share": 1.0, "max_tokens": 4})
    with pytest.raises(BadInput, match="does not run beside"):
        train(project, "2", WEIGHTS, student={"refit": True})


def test_the_table_must_make_sense() -> None:
    assert TeacherTable(weights=WEIGHTS).name == "one"
    assert TeacherTable(name="two", weights=WEIGHTS).name == "two"
    wrong: list[dict[str, Any]] = [
        {"weights": {"one": 0.0}},
        {"weights": {"one": float("inf")}},
        {"weights": WEIGHTS, "signals": "dense"},
        {"weights": WEIGHTS, "name": "three"},
    ]
    for table in wrong:
        with pytest.raises(ValueError, match=r"above 0|stored|no weight"):
            TeacherTable(**table)


def test_a_teacher_without_weights_here_is_refused(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    folder = project / "runs" / "1"
    made = recipe(teacher={"name": "", "signals": "stored", "weights": WEIGHTS}, objective=FORWARD)
    hosted = {"name": "two", "kind": "openai", "url": "http://localhost:1"}
    for others, words in (([hosted], "cannot be weighed"), ([], "is missing")):
        specs = [teachers()[0], *others]
        parameters = {"recipe": made, "recipe_hash": "", "teacher": specs[0], "teachers": specs}
        run_files.write_job(folder, run_files.JobFile("train", parameters))
        with pytest.raises(BadInput, match=words):
            JournalledJob(folder).run()
