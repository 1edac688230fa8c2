"""Divergence and head, forward and backward, by KD Studio: the counterpart of `peers/heads.py`, in `.venv`.

python -m tests.benchmarks.our_head FOLDER dense|sparse DIVERGENCE RUNS [CHUNK]
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor

from kdstudio.distillation.kernels import linear_divergence
from tests.benchmarks.peers.measured import Inputs, Loss, forward_and_backward


def dense(divergence: str, chunk: int | None) -> Loss:
    """From the teacher's own hidden states and head, `chunk` tokens at once (None: our choice)."""

    def loss(inputs: Inputs) -> Tensor:
        teacher = inputs.teacher_hidden[inputs.rows], inputs.teacher_head
        return linear_divergence(inputs.hidden[inputs.rows], inputs.head, teacher, divergence, chunk=chunk).mean()

    return loss


def sparse(divergence: str, chunk: int | None) -> Loss:
    """From stored top-k log-probs with their tail."""

    def loss(inputs: Inputs) -> Tensor:
        return linear_divergence(inputs.hidden[inputs.rows], inputs.head, inputs, divergence, chunk=chunk).mean()

    return loss


if __name__ == "__main__":
    folder, kind, divergence, runs, *small = sys.argv[1:]
    made = {"dense": dense, "sparse": sparse}[kind](divergence, int(small[0]) if small else None)
    forward_and_backward(made, Path(folder), "-".join([kind, divergence, *small]), int(runs))
