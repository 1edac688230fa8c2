"""What the training pages say, in place, about models, rows and jobs that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtWidgets import QComboBox, QPushButton
from pytestqt.qtbot import QtBot

from kdstudio.errors import BadInput
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import NewPreference, NewPrompt, NewResponse, Project
from kdstudio.recipe import TrainingRecipe, validate_recipe
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.export import ExportPage
from kdstudio.ui.pages.train import TrainPage
from kdstudio.ui.session import Session
from kdstudio.ui.training_estimate import estimate_run
from kdstudio.ui.training_rows import row_sizes
from tests.gui.conftest import Click
from tests.tiny import tiny_gguf

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 300,
}


@pytest.fixture
def teacher(tmp_path: Path) -> TeacherSpec:
    return TeacherSpec("tiny", "gguf", path=str(tiny_gguf(tmp_path / "tiny.gguf")))


@pytest.fixture
def project(project_session: Session) -> Project:
    opened = project_session.project
    assert opened is not None
    return opened


def fill(project: Project, count: int = 20) -> None:
    project.rows.add_prompts(
        NewPrompt([{"role": "user", "content": f"thing {n}"}], ("held_out",) if n % 5 == 0 else ())
        for n in range(count)
    )
    project.rows.add_responses(
        NewResponse(n + 1, f"a story about thing {n}", status="accepted", tokens=10 + n % 7, prompt_tokens=8)
        for n in range(count)
    )


def recipe(**tables: Any) -> TrainingRecipe:
    made: dict[str, Any] = {
        "version": 1,
        "recipe": {"id": "a", "title": "A"},
        "student": {"layer_count": 2},
        "teacher": {"name": "tiny", "signals": "dense"},
        "objective": [{"name": "forward_kl"}],
    }
    return validate_recipe({**made, **tables}, TrainingRecipe, name="test")


def folder_student(folder: Path, **config: Any) -> dict[str, Any]:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    return {"source": "folder", "path": str(folder)}


def refusal(project: Project, asked: TrainingRecipe, teacher: TeacherSpec | None) -> str:
    with pytest.raises(BadInput) as refused:
        estimate_run(project, asked, teacher)
    return f"{refused.value.title}. {refused.value.detail}"


def test_what_could_not_be_trained_is_said_before(project: Project, teacher: TeacherSpec, tmp_path: Path) -> None:
    assert "no rows" in refusal(project, recipe(), teacher)
    project.rows.add_prompts([NewPrompt([{"role": "user", "content": "hello"}])])
    assert "no accepted answers" in refusal(project, recipe(), teacher)
    project.rows.add_responses([NewResponse(1, "hello", status="pending")])
    assert "wait for your decision" in refusal(project, recipe(), teacher)
    fill(project)
    gone = TeacherSpec("gone", "gguf", path=str(tmp_path / "gone.gguf"))
    assert "gone.gguf" in refusal(project, recipe(), gone)
    empty = recipe(student=folder_student(tmp_path / "empty"))
    assert "no weights" in refusal(project, empty, teacher)
    strange = recipe(student=folder_student(tmp_path / "strange", model_type="mamba"))
    assert "'mamba'" in refusal(project, strange, teacher)
    assert "folder is chosen" in refusal(project, recipe(student={"source": "folder"}), teacher)
    width = recipe(student={"source": "fresh", "layer_count": 2, "hidden_size": 50})
    assert "width of 50" in refusal(project, width, teacher)


def test_another_vocabulary_is_said_before(project: Project, teacher: TeacherSpec, tmp_path: Path) -> None:
    fill(project)
    other = tiny_gguf(tmp_path / "other.gguf", merges=60)
    refused = recipe(student={"path": str(other), "layer_count": 2})
    assert "do not share a vocabulary" in refusal(project, refused, teacher)
    table = folder_student(tmp_path / "student")
    (tmp_path / "student" / "model.safetensors").write_bytes(b"")
    (tmp_path / "student" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    assert "vocabularies seem to differ" in " ".join(estimate_run(project, recipe(student=table), teacher).notes)
    imitating = recipe(student=table, objective=[{"name": "supervised"}])
    assert "vocabularies" not in " ".join(estimate_run(project, imitating, teacher).notes)


def test_the_estimate_follows_the_recipe(project: Project, teacher: TeacherSpec) -> None:
    fill(project)
    whole = estimate_run(project, recipe(data={"held_out_tag": "held_out"}), teacher)
    assert (whole.rows, whole.held_out) == (16, 4)
    frozen = estimate_run(project, recipe(student={"layer_count": 2, "freeze_embeddings": True}), teacher)
    assert frozen.trained_parameters < whole.trained_parameters == whole.student_parameters
    lora = estimate_run(project, recipe(student={"layer_count": 2, "adapter": "lora"}), teacher)
    assert lora.trained_parameters < whole.trained_parameters
    twice = estimate_run(project, recipe(run={"steps": 10, "accumulation": 2}), teacher)
    assert twice.steps == 10
    mistaken = estimate_run(project, recipe(data={"held_out_tag": "heldout"}), teacher)
    assert "refuse to start" in " ".join(mistaken.notes)


def test_preferences_are_counted_where_they_are_read(project: Project, teacher: TeacherSpec) -> None:
    fill(project)
    dpo = recipe(objective=[{"name": "dpo"}], data={"held_out_tag": "held_out"})
    assert "no preferences" in refusal(project, dpo, teacher)
    project.rows.add_preferences(NewPreference(n + 1, ["a good answer", "bad"], [1, 0]) for n in range(10))
    assert "10 preferences wait" in refusal(project, dpo, teacher)
    project.rows.set_status("preference", range(1, 11), "accepted")
    ranked = estimate_run(project, dpo, teacher)
    assert (ranked.rows, ranked.held_out) == (8, 2)
    assert ranked.memory["reference"] == 4 * ranked.student_parameters, "the student as it began"
    lora = estimate_run(
        project, recipe(objective=[{"name": "dpo"}], student={"layer_count": 2, "adapter": "dora"}), teacher
    )
    assert lora.trained_parameters < lora.student_parameters
    assert "reference" not in lora.memory
    own = recipe(objective=[{"name": "dpo"}], rollout={"share": 1.0, "samples": 4}, reward={"kind": "judge"})
    online = estimate_run(project, own, teacher)
    assert online.rows == 18, "its own answers to the rows' prompts are compared"
    assert online.memory["teacher"] > 0, "the judge runs beside"
    assert "own answers" in " ".join(online.notes)


def test_only_objectives_that_compare_tokens_ask_for_one_vocabulary(
    project: Project, teacher: TeacherSpec, tmp_path: Path
) -> None:
    fill(project)
    other = {"path": str(tiny_gguf(tmp_path / "other.gguf", merges=60)), "layer_count": 2}
    assert "do not share" in refusal(project, recipe(student=other, objective=[{"name": "hidden_mse"}]), teacher)
    for name in ("byte_aligned", "universal_logit", "supervised", "orpo"):
        rows = {"rollout": {"share": 1.0}} if name == "orpo" else {}
        asked = recipe(student=other, objective=[{"name": name}], **rows)
        assert estimate_run(project, asked, teacher).rows == 18, name


def test_many_rows_are_sampled(project: Project) -> None:
    fill(project, 5000)
    found = row_sizes(project, recipe(data={"held_out_tag": "held_out"}))
    assert (found.training, found.held_out) == (4000, 1000)
    assert 10 <= found.response_tokens <= 16
    assert found.longest == 24


def test_a_teacher_that_is_gone_is_said_before_and_by_the_run(
    project: Project, teacher: TeacherSpec, window: MainWindow, qtbot: QtBot, click: Click
) -> None:
    fill(project)
    project.teachers.add(teacher)
    Path(teacher.path).unlink()
    window.session.teachers_changed.emit()
    window.show_page("train")
    page = window.page("train")
    assert isinstance(page, TrainPage)
    combo = page.findChild(QComboBox, "train_teacher")
    assert combo is not None
    assert combo.currentText() == "tiny"
    qtbot.waitUntil(lambda: "tiny.gguf" in page.estimate.notes.text(), timeout=10_000)
    click("train_start")
    qtbot.waitUntil(lambda: page.run.pill.word == "failed", timeout=60_000)
    qtbot.waitUntil(page.run.banner.isVisible, timeout=5_000)
    assert "tiny.gguf" in page.run.banner.detail.text()
    assert page.run.resume.isVisible()
    assert len(list(project.rows.pairs())) == 20, "nothing is lost"


def test_files_of_a_moved_project_are_found_and_missing_ones_are_said(
    project: Project, window: MainWindow, qtbot: QtBot
) -> None:
    run_id = project.runs.add("train", "My student", {})
    (project.runs_folder / run_id / "student").mkdir(parents=True)
    folder = project.exports_folder / "My-student"
    folder.mkdir(parents=True)
    (folder / "My-student-F16.gguf").write_bytes(b"GGUF")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# My student\n\n| | |\n|---|---|\n| Steps | 3 |\n")
    files = [
        {"path": f"/elsewhere/exports/My-student/My-student-{key}.gguf", "quantization": key, "passed": True}
        for key in ("F16", "Q8_0")
    ]
    exported = project.runs.add("export", "Export", {})
    project.runs.set_state(exported, "finished", result={"files": files})
    window.show_page("export")
    page = window.page("export")
    assert isinstance(page, ExportPage)

    def offered(key: str) -> QPushButton:
        found = page.findChild(QPushButton, f"export_chat_{key}")
        assert found is not None
        assert found.isVisible()
        return found

    qtbot.waitUntil(lambda: offered("F16").isEnabled(), timeout=5_000)
    assert not offered("Q8_0").isEnabled()
    assert page.card.isVisible()
    assert "license" not in page.card.view.text()
