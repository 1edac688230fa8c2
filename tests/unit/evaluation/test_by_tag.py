"""Figures by tag: means by hand, and a really trained student whose exam and general rows were kept apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdstudio.cli.run_verbs import _by_tag
from kdstudio.distillation.examples import Example
from kdstudio.evaluation.by_tag import by_tag
from kdstudio.evaluation.job import run
from kdstudio.jobs.child import Job
from tests.unit.distillation.setting import JournalledJob, make_project, make_run, recipe
from tests.unit.distillation.setting import teacher as tiny_teacher


def example(number: int, *tags: str) -> Example:
    none = np.zeros(1, np.int32)
    return Example(number, number, none, none, "", "", tags)


def test_a_mean_is_over_the_positions_of_the_rows_with_the_tag(tmp_path: Path) -> None:
    before = {"response_ids": [1, 2, 3], "tokens": [2, 6, 4], "nll": [3.0, 1.0, 2.0], "forward_kl": None}
    (tmp_path / "held_out_rows_before.json").write_text(json.dumps(before))
    (tmp_path / "held_out_rows.json").write_text("{half")
    rows = [{"positions": 2, "student_nll": 4.0}, {"positions": 6, "student_nll": 4.0}]
    found = by_tag([example(1, "exam"), example(2, "exam", "law"), example(3, "law")], rows, tmp_path)
    exam = {"rows": 2, "positions": 8, "student_nll": 1.0, "before": {"positions": 8, "nll": 1.5}}
    law = {"rows": 1, "positions": 6, "student_nll": 4 / 6, "before": {"positions": 6, "nll": 1.0}}
    assert found == {"exam": exam, "law": law}


def test_rows_without_tags_and_a_file_without_a_run_have_none() -> None:
    assert by_tag([example(1)], [{"positions": 1, "student_nll": 1.0}], None) == {}
    found = by_tag([example(1, "law")], [{"positions": 1, "student_nll": 1.0}], None)
    assert found == {"law": {"rows": 1, "positions": 1, "student_nll": 1.0}}


def test_rows_kept_apart_are_measured_before_and_after_and_never_learnt(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    tables = recipe(
        data={"held_out_tag": "", "held_out": 0.0, "exclude_tags": ["held"]},
        optimizer={"learning_rate": 3e-3},
        run={"steps": 8},
    )
    trained = JournalledJob(make_run(project, "run", tables)).run()
    assert trained["held_out_rows"] > 0
    assert trained["rows"] + trained["held_out_rows"] == 20
    parameters: dict[str, Any] = {"run": "run", "teacher": tiny_teacher(), "samples": 0}
    job = Job(make_run(project, "measure", {}))
    job.parameters = parameters
    result = run(job)
    job._journal.close()
    held = result["by_tag"]["held"]
    assert held["rows"] == trained["held_out_rows"] == result["rows"]
    assert held["forward_kl"] == pytest.approx(result["forward_kl"])
    assert held["before"]["forward_kl"] == pytest.approx(trained["before"]["held_out_forward_kl"])
    assert held["after"]["forward_kl"] == pytest.approx(trained["final"]["held_out_forward_kl"])
    assert held["after"]["forward_kl"] < held["before"]["forward_kl"]


def test_the_command_line_shows_a_line_for_each_tag() -> None:
    exam = {"rows": 2, "positions": 8, "forward_kl": 0.5, "before": {"positions": 8, "forward_kl": 1.0}}
    assert _by_tag({"exam": exam}) == [
        "exam: rows 2.0000, positions 8.0000, forward kl 0.5000",
        "  before: positions 8.0000, forward kl 1.0000",
    ]
