"""Which training rows a refit reads, in batches that the teacher's hidden states can be kept for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kdstudio.distillation.batches import Batch
from kdstudio.distillation.rows import TrainingRows
from kdstudio.students.streams import CalibrationRows

CALIBRATION_BYTES = 1 << 30
"""About what a refit may hold of the rows it reads; of more rows an even choice is taken."""


@dataclass(frozen=True)
class Calibration:
    """The same rows twice: as `batches` of training, and as token `rows` for the refit."""

    batches: tuple[Batch, ...]
    rows: CalibrationRows


def calibration(rows: TrainingRows, config: dict[str, Any], device: torch.device) -> Calibration:
    """All training rows, or as many as fit `CALIBRATION_BYTES`, in groups of similar length.

    At once in memory, in float32: the input of a down projection, and four residual streams (teacher's and student's,
    each in front of a layer and behind it).
    """
    shared = len(rows.prefix)
    token_bytes = 4 * (config["intermediate_size"] + 4 * config["hidden_size"])
    tokens = rows.tokens(rows.training) - rows.count * (shared + 1)
    count = max(1, int(rows.count * min(1.0, CALIBRATION_BYTES / max(1, tokens * token_bytes))))
    groups = rows.groups([place * rows.count // count for place in range(count)])
    batches = tuple(rows.batch(group, device) for group in groups)
    lengths = [[rows.examples[row].tokens - 1 - shared for row in group] for group in groups]
    return Calibration(
        batches,
        CalibrationRows(
            rows.prefix.to(device),
            [batch.input_ids for batch in batches],
            [torch.tensor(length, device=device) for length in lengths],
        ),
    )
