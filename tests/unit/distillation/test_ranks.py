"""Several processes train what one would: real processes on loopback, and a step divided by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdstudio.distillation.batches import pad
from kdstudio.distillation.ranks import Shares
from tests.unit.distillation.setting import JournalledJob, curve, examples, make_project, make_run, recipe


class Processes:
    """As much of an accelerator as a division needs."""

    def __init__(self, count: int, index: int) -> None:
        self.num_processes, self.process_index = count, index


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_row_goes_to_one_process_with_what_was_prepared_for_it(count: int) -> None:
    rows = examples(7)
    batch = pad(rows, tuple(range(7)))
    extras = {"mark": batch.labels * 10}
    seen: list[int] = []
    for index in range(count):
        share = Shares(Processes(count, index)).own(batch, extras, 0)
        if share is not None:
            seen += share[0].rows
            assert torch.equal(share[1]["mark"], share[0].labels * 10)
    assert sorted(seen) == list(range(7))


def test_more_processes_than_rows_leave_some_without_work() -> None:
    batch = pad(examples(2), (0, 1))
    assert Shares(Processes(3, 2)).own(batch, {}, 0) is None


@pytest.mark.parametrize("objective", ["forward_kl", "jensen_shannon"])
def test_two_processes_walk_the_curve_of_one(tmp_path: Path, objective: str) -> None:
    project = make_project(tmp_path)
    found: dict[int, list[float]] = {}
    for processes in (1, 2):
        tables: dict[str, Any] = recipe(
            objective=[{"name": objective}],
            rollout={"share": 0.5 if objective == "jensen_shannon" else 0.0, "max_tokens": 6},
            run={"steps": 5, "rows_per_batch": 5, "processes": processes},
        )
        folder = make_run(project, f"{objective}-{processes}", tables)
        result = JournalledJob(folder).run()
        steps = curve(folder).values()
        found[processes] = [*(float.fromhex(value) for value in steps), result["final"]["held_out_forward_kl"]]
        assert (folder / "student" / "model.safetensors").is_file()
    assert found[2] == pytest.approx(found[1], rel=1e-6)
