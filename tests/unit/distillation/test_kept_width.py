"""A run whose student is pruned in width: chosen on its rows, the same after a break, and exported as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdstudio.distillation.kept_width import CHOICE_NAME
from kdstudio.errors import KnownError
from kdstudio.export.job import run as export
from kdstudio.students.save import open_student
from tests.unit.distillation.setting import JournalledJob, curve, make_project, make_run, recipe
from tests.unit.export.trained import job_in

NARROW: dict[str, Any] = {"layer_count": 3, "kept_width": 32, "kept_feed_forward": 64, "kept_heads": 2}


def test_a_narrow_student_learns_and_goes_on_as_it_was_chosen(tmp_path: Path) -> None:
    project, tables = (
        make_project(tmp_path),
        recipe(student=NARROW, run={"steps": 6}, optimizer={"learning_rate": 3e-3}),
    )
    whole = JournalledJob(make_run(project, "whole", tables)).run()
    assert whole["final"]["held_out_forward_kl"] < whole["before"]["held_out_forward_kl"]
    folder = make_run(project, "broken", tables)
    stopped = JournalledJob(folder, 6).run()
    assert 0 < stopped["steps"] < 6
    assert JournalledJob(folder).run()["final"] == whole["final"]
    assert curve(folder) == curve(project / "runs" / "whole")
    network, _, config = open_student(folder / "student")
    assert (config["hidden_size"], config["num_attention_heads"], config["head_dim"]) == (32, 2, 16)
    assert network(torch.tensor([[5, 80]])).logits.shape[-1] == config["vocab_size"]
    with job_in(project, "export", {"run": "whole", "quantizations": ["F16"], "name": "Narrow"}) as job:
        (written,) = export(job)["files"]
    assert (written["passed"], written["top1_agreement"] > 0.98) == (True, True)  # in llama.cpp
    (folder / CHOICE_NAME).write_text("{}")
    with pytest.raises(KnownError, match="cannot be read"):
        JournalledJob(folder).run()


def test_a_refit_mends_what_was_pruned_inside_the_blocks(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    inside = {"layer_count": 4, "kept_feed_forward": 64, "kept_heads": 2, "refit": True}
    refitted = JournalledJob(make_run(project, "run", recipe(student=inside, run={"steps": 1}))).run()
    assert refitted["refitted"]["held_out_forward_kl"] < 0.9 * refitted["before"]["held_out_forward_kl"]
