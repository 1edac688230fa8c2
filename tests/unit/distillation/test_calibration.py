"""Which rows a refit reads."""

from __future__ import annotations

import pytest
import torch

from kdstudio.distillation import calibration as module
from kdstudio.distillation.calibration import calibration
from tests.unit.distillation.setting import training_rows

CONFIG = {"intermediate_size": 128, "hidden_size": 64}
CPU = torch.device("cpu")


def test_every_training_row_takes_part_and_no_held_out_one() -> None:
    rows = training_rows(30, held_out=5)
    made = calibration(rows, CONFIG, CPU)
    assert sorted(row for batch in made.batches for row in batch.rows) == list(rows.training)
    assert len(made.rows.prefix) == len(rows.prefix) > 0
    for batch, ids, lengths in zip(made.batches, made.rows.batches, made.rows.lengths, strict=True):
        assert torch.equal(batch.input_ids, ids)
        for row, length in zip(batch.rows, lengths.tolist(), strict=True):
            assert length == rows.examples[row].tokens - 1 - len(rows.prefix)


def test_of_many_rows_an_even_choice_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = training_rows(60, held_out=4)
    tokens = sum(rows.examples[row].tokens - 1 - len(rows.prefix) for row in rows.training)
    monkeypatch.setattr(module, "CALIBRATION_BYTES", tokens * 4 * (128 + 4 * 64) // 4)
    chosen = sorted(row for batch in calibration(rows, CONFIG, CPU).batches for row in batch.rows)
    assert chosen == list(range(0, 56, 4))
