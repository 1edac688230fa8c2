"""A teacher whose file is gone: what it said before still teaches, and nothing else is made up."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from kdstudio.catalogue.training import StudentTable
from kdstudio.errors import KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.events import Warned
from kdstudio.students.build import build
from kdstudio.teachers.signals_job import run as store_signals
from tests.tiny import tiny_gguf, tiny_model
from tests.unit.distillation.setting import JournalledJob, journal, make_project, make_run, recipe, teacher

STORED = {"name": "tiny", "signals": "stored", "top_k": 50}


class Setting:
    """A project with a teacher, a student's folder, and the teacher's file, which can be taken away."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.project, self.file = folder, make_project(folder), folder / "teacher.gguf"
        shutil.copyfile(tiny_model(layers=4), self.file)
        self.student = folder / "start"
        build(StudentTable(layers=(0, 3)), self.file, seed=0).save(self.student, {})

    def store(self, **parameters: Any) -> None:
        run = self.project / "runs" / "signals"
        run_files.write_job(run, run_files.JobFile("signals", {"teacher": teacher(self.file), **parameters}))
        JournalledJob(run).run(store_signals)

    def train(self, name: str, student: Path | None = None, **tables: Any) -> dict[str, Any]:
        source = {"source": "folder", "path": str(student or self.student), "layer_count": 0}
        made = recipe(student=source, **{"teacher": STORED, **tables})
        return JournalledJob(make_run(self.project, name, made, teacher(self.file))).run()

    def said(self, name: str) -> list[Warned]:
        return [line.event for line in journal(self.project / "runs" / name) if isinstance(line.event, Warned)]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_stored_signals_teach_without_the_file(setting: Setting) -> None:
    setting.store(top_k=50)
    before = setting.train("before")
    setting.file.unlink()
    after = setting.train("after")
    assert (before["held_out_against"], after["held_out_against"]) == ("dense", "stored")
    assert after["final"]["loss"] == before["final"]["loss"]
    assert after["final"]["held_out_forward_kl"] < after["before"]["held_out_forward_kl"]
    assert after["final"]["held_out_forward_kl"] == pytest.approx(before["final"]["held_out_forward_kl"], rel=0.2)
    assert ["all 20 rows" in event.detail for event in setting.said("after")] == [True]
    assert not setting.said("before")


def test_stored_draws_teach_without_the_file(setting: Setting) -> None:
    setting.store(draws=8)
    setting.file.unlink()
    drawn = [{"name": "random_sampled_topk", "parameters": {"draws": 8}}]
    assert setting.train("drawn", objective=drawn)["steps"] == 4
    assert setting.train("text", objective=[{"name": "supervised"}])["held_out_against"] == ""
    assert "by their text alone" in setting.said("text")[0].detail


def test_what_is_not_stored_is_not_learnt(setting: Setting) -> None:
    setting.store(top_k=50)
    setting.file.unlink()
    wanted: list[tuple[dict[str, Any], str]] = [
        ({"teacher": {"name": "tiny", "signals": "dense"}}, "would have to run"),
        ({"teacher": {**STORED, "top_k": 20}}, "20 of 20"),
        ({"objective": [{"name": "hidden_mse"}]}, "No signals"),
        ({"rollout": {"share": 1.0, "max_tokens": 4}}, "No signals"),
    ]
    for number, (tables, words) in enumerate(wanted):
        with pytest.raises(KnownError, match="file is gone") as caught:
            setting.train(f"refused {number}", **tables)
        assert words in caught.value.detail


def test_a_student_that_cuts_the_text_otherwise_finds_nothing(setting: Setting) -> None:
    setting.store(top_k=50)
    other = setting.folder / "other"
    build(StudentTable(), tiny_gguf(setting.folder / "other.gguf", merges=100), seed=0).save(other, {})
    setting.file.unlink()
    with pytest.raises(KnownError, match="file is gone") as caught:
        setting.train("other", other)
    assert "18 of 20" in caught.value.detail  # two rows happen to be cut alike


def test_without_any_signals_the_file_is_asked_for(setting: Setting) -> None:
    setting.file.unlink()
    with pytest.raises(KnownError, match="file is gone") as caught:
        setting.train("nothing")
    assert "No signals" in caught.value.detail
    assert str(setting.file) in caught.value.detail
