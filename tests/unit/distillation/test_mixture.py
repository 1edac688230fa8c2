"""Learning from the mean of several teachers, stored or running beside the student, and what it does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdstudio.catalogue.training import TeacherTable
from kdstudio.distillation.head_terms import Room
from kdstudio.distillation.targets import DenseTarget, MixedTarget
from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.child import Job
from kdstudio.teachers import signals_job
from tests.tiny import tiny_gguf, tiny_model
from tests.unit.distillation.setting import JournalledJob, make_project, recipe

WEIGHTS = {"one": 0.7, "two": 0.3}
FORWARD = [{"name": "forward_kl", "parameters": {}}]


def teachers() -> list[dict[str, Any]]:
    paths = [str(tiny_model(layers=4, seed=seed)) for seed in (0, 1)]
    return [{"name": name, "kind": "gguf", "path": path} for name, path in zip(WEIGHTS, paths, strict=True)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def store(project: Path, weights: list[float], top_k: int = 20) -> dict[str, Any]:
    folder = project / "runs" / f"signals {weights}"
    specs = [{**spec, "options": {"threads": 1}} for spec in teachers()]
    parameters = {"teacher": specs[0], "teachers": specs, "weights": weights, "top_k": top_k}
    run_files.write_job(folder, run_files.JobFile("signals", parameters))
    job = Job(folder)
    try:
        return signals_job.run(job)
    finally:
        job._journal.close()


def train(
    project: Path,
    name: str,
    weights: dict[str, float],
    *,
    signals: str = "stored",
    top_k: int = 20,
    specs: list[dict[str, Any]] | None = None,
    **tables: Any,
) -> dict[str, Any]:
    folder, specs = project / "runs" / name, specs or teachers()
    teacher = {"name": "", "signals": signals, "top_k": top_k, "weights": weights}
    made = recipe(teacher=teacher, **{"objective": FORWARD, **tables})
    parameters = {"recipe": made, "recipe_hash": "", "teacher": specs[0], "teachers": specs}
    run_files.write_job(folder, run_files.JobFile("train", parameters))
    return JournalledJob(folder).run()


def test_a_student_learns_from_the_mean(project: Path) -> None:
    stored = store(project, [0.7, 0.3])
    assert (stored["rows"], stored["new_rows"]) == (20, 20)
    assert store(project, [7, 3])["new_rows"] == 0  # the same shares
    trained = train(project, "1", WEIGHTS, run={"steps": 8}, optimizer={"learning_rate": 3e-3})
    assert trained["held_out_against"] == "stored"
    assert trained["final"]["held_out_forward_kl"] < trained["before"]["held_out_forward_kl"]
    with pytest.raises(KnownError, match="signals are missing"):
        train(project, "2", {"one": 0.5, "two": 0.5})


def test_teachers_that_run_give_the_mean_that_would_be_stored(project: Path) -> None:
    store(project, [0.7, 0.3], top_k=400)
    found = {
        signals: train(project, signals, WEIGHTS, signals=signals, top_k=400, run={"steps": 6})
        for signals in ("stored", "dense")
    }
    assert [found[signals]["held_out_against"] for signals in ("stored", "dense")] == ["stored", "dense"]
    for name in ("loss", "held_out_forward_kl"):
        assert found["dense"]["final"][name] == pytest.approx(found["stored"]["final"][name], rel=0.02)


def test_the_mean_is_learnt_on_own_answers_and_rows_are_remembered(project: Path) -> None:
    own: dict[str, Any] = {"rollout": {"share": 1.0, "max_tokens": 6}, "objective": [{"name": "jensen_shannon"}]}
    trained = train(project, "own", WEIGHTS, run={"steps": 3}, **own)
    assert trained["held_out_against"] == "dense"
    assert trained["final"]["held_out_forward_kl"] != trained["before"]["held_out_forward_kl"]
    alike = train(project, "alike", {"one": 1.0, "two": 1e-9}, signals="dense")
    alone = train(project, "alone", {"one": 1.0}, signals="dense")
    assert alike["final"] == pytest.approx(alone["final"], rel=1e-4)


def test_the_mean_is_over_probabilities_and_not_over_logits() -> None:
    generator = torch.Generator().manual_seed(3)
    members = [
        DenseTarget(torch.randn(5, width, generator=generator), torch.randn(9, width, generator=generator))
        for width in (4, 6)
    ]
    mixed, shares = MixedTarget(tuple(members), (0.25, 0.75)), (0.25, 0.75)
    exact = [
        (one.hidden.double() @ one.head.double().t()).softmax(-1) * w for one, w in zip(members, shares, strict=True)
    ]
    expected, labels = torch.stack(exact).sum(0).log(), torch.tensor([0, 8, 3, 3, 1])
    assert torch.allclose(mixed.logits().double(), expected, atol=1e-5)
    assert torch.allclose(mixed.logits_of(slice(1, 4), Room()).double(), expected[1:4], atol=1e-5)
    assert torch.allclose(mixed[torch.tensor([4, 0])].logits().double(), expected[[4, 0]], atol=1e-5)
    assert torch.allclose(mixed.label_log_probs(labels).double(), expected[torch.arange(5), labels], atol=1e-5)
    assert (len(mixed), mixed.outcomes) == (5, 9)


@pytest.mark.parametrize(
    "tables",
    [
        {"student": {"refit": True}},
        {"objective": [{"name": "hidden_mse"}]},
        {"objective": [{"name": "byte_aligned"}]},
        {"rollout": {"share": 1.0, "max_tokens": 4, "source": "teacher_mixed"}},
        {"rollout": {"max_tokens": 4, "samples": 2}, "objective": [{"name": "grpo"}], "reward": {"kind": "judge"}},
    ],
)
def test_what_only_one_teacher_gives_is_refused(project: Path, tables: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="asks one teacher"):
        train(project, "1", WEIGHTS, signals="dense", **tables)


def test_teachers_of_other_vocabularies_are_refused(project: Path, tmp_path: Path) -> None:
    other = {"name": "two", "kind": "gguf", "path": str(tiny_gguf(tmp_path / "other.gguf", merges=100))}
    with pytest.raises(BadInput, match="different vocabularies"):
        train(project, "1", WEIGHTS, signals="dense", specs=[teachers()[0], other])


def test_the_table_must_make_sense() -> None:
    assert TeacherTable(weights=WEIGHTS).name == "one"
    assert TeacherTable(name="two", weights=WEIGHTS).name == "two"
    wrong: list[dict[str, Any]] = [
        {"weights": {"one": 0.0}},
        {"weights": {"one": float("inf")}},
        {"weights": WEIGHTS, "name": "three"},
    ]
    for table in wrong:
        with pytest.raises(ValueError, match=r"above 0|no weight"):
            TeacherTable(**table)


def test_a_teacher_without_weights_here_is_refused(project: Path) -> None:
    folder = project / "runs" / "1"
    made = recipe(teacher={"name": "", "signals": "stored", "weights": WEIGHTS}, objective=FORWARD)
    hosted = {"name": "two", "kind": "openai", "url": "http://localhost:1"}
    for others, words in (([hosted], "cannot be weighed"), ([], "is missing")):
        specs = [teachers()[0], *others]
        parameters = {"recipe": made, "recipe_hash": "", "teacher": specs[0], "teachers": specs}
        run_files.write_job(folder, run_files.JobFile("train", parameters))
        with pytest.raises(BadInput, match=words):
            JournalledJob(folder).run()
