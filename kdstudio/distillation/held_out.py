"""How far the student is from its teacher on rows it never trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio import files
from kdstudio.distillation.bound.row_level import Pairs
from kdstudio.distillation.divergences import forward_kl, sparse
from kdstudio.distillation.forward import Embedded, head_logits, head_weight, response_hidden
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.shaped_target import ShapedTarget
from kdstudio.distillation.supervised import cross_entropy
from kdstudio.distillation.targets import Targets, WholeTarget
from kdstudio.distillation.teacher_signals import Precision, SignalSource

HEAD_ELEMENTS = 1 << 23
"""Logits formed at once (32 MiB in float32): longer batches go through the head in pieces."""
HELD_OUT_NAME, BEFORE_NAME = "held_out_rows.json", "held_out_rows_before.json"
Scorer = Callable[[Tensor], Tensor]
_FIGURES = ("nll", "forward_kl", "top1_agreement")


@dataclass(frozen=True)
class HeldOut:
    """Means over the response tokens of the held-out rows, in nats; None where no teacher signal is at hand.

    `preference_accuracy`: how often the better response of a held-out preference is the likelier one, by its mean
    log-prob. `rows`: the same figures for each row, with `response_ids` and `tokens`.
    """

    nll: float
    forward_kl: float | None = None
    top1_agreement: float | None = None
    preference_accuracy: float | None = None
    rows: dict[str, list[Any] | None] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """As metrics, by their names."""
        named = {
            "held_out_nll": self.nll,
            "held_out_forward_kl": self.forward_kl,
            "held_out_top1_agreement": self.top1_agreement,
            "held_out_preference_accuracy": self.preference_accuracy,
        }
        return {name: value for name, value in named.items() if value is not None}

    def write(self, folder: Path, *, before: bool = False) -> None:
        """Keep each row's figures in the run's folder, for comparing runs row by row.

        Those from `before` the first step are kept beside them: what the student knew, by tag.
        """
        text = json.dumps(self.rows)
        for name in (BEFORE_NAME, HELD_OUT_NAME) if before else (HELD_OUT_NAME,):
            files.write_text(folder / name, text)


def token_pieces(count: int, vocabulary: int) -> Iterator[slice]:
    """Slices over `count` tokens such that each piece's logits fit `HEAD_ELEMENTS`."""
    step = max(1, HEAD_ELEMENTS // vocabulary)
    for first in range(0, count, step):
        yield slice(first, min(count, first + step))


@torch.no_grad()
def measure(
    network: PreTrainedModel,
    rows: TrainingRows,
    source: SignalSource | None,
    device: torch.device,
    precision: Precision,
    scorer: Scorer | None = None,
) -> HeldOut:
    """Measure `network` on the held-out rows against `source` (temperature 1). There must be held-out rows.

    `scorer` says what a response is worth from its last state [B, H]; without one its mean log-prob does.
    """
    was_training = network.training
    network.train(False)
    head, prefix = head_weight(network), rows.prefix.to(device)
    found: dict[int, list[float]] = {}  # by row: sums over its tokens
    scored: dict[int, float] = {}
    for group in rows.groups(rows.held_out):
        batch = rows.batch(group, device)
        with precision():
            hidden = response_hidden(network, batch, Embedded(network, batch, prefix))
        targets = Targets(batch.labels, None if source is None else source.target(batch))
        pieces = [
            _figures(head_logits(hidden[piece], head), targets[piece])
            for piece in token_pieces(len(targets), head.shape[0])
        ]
        sums = torch.stack([batch.sum_of_rows(values) for values in torch.cat(pieces, dim=1)])
        if scorer is not None:
            ends = batch.sum_of_rows(torch.ones_like(batch.labels)).cumsum(0) - 1
            scored.update(zip(group, scorer(hidden[ends].float()).cpu().tolist(), strict=True))
        found.update(zip(group, sums.t().cpu().tolist(), strict=True))
    network.train(was_training)
    return _summary(rows, found, scored, with_teacher=source is not None)


def _figures(logits: Tensor, targets: Targets) -> Tensor:
    """[3, n] of each token: negative log-likelihood, forward KL and top-1 agreement."""
    nll = cross_entropy(logits, targets.labels)
    teacher = targets.teacher
    if teacher is None:
        divergence = agreement = torch.zeros_like(nll)
    elif isinstance(teacher, WholeTarget | ShapedTarget):
        expected = teacher.logits()
        shared = logits[:, : expected.shape[1]]
        divergence, agreement = forward_kl(shared, expected), shared.argmax(-1) == expected.argmax(-1)
    else:
        divergence = sparse("forward_kl", logits, teacher.ids, teacher.log_probs, teacher.tail_log_prob)
        agreement = logits.argmax(-1) == teacher.ids[:, 0]  # descending: the first is the teacher's choice
    # Sums in double precision where the device has it: Apple's GPUs do not
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    return torch.stack([part.to(exact) for part in (nll, divergence, agreement)])


def _summary(
    rows: TrainingRows, found: dict[int, list[float]], scored: dict[int, float], *, with_teacher: bool
) -> HeldOut:
    order = list(rows.held_out)
    examples = [rows.examples[row] for row in order]
    tokens = [len(example.response_ids) for example in examples]
    whole = [sum(found[row][place] for row in order) / sum(tokens) for place in range(len(_FIGURES))]
    by_row: dict[str, list[Any] | None] = {"response_ids": [e.response_id for e in examples], "tokens": list(tokens)}
    for place, name in enumerate(_FIGURES):
        values = [found[row][place] / count for row, count in zip(order, tokens, strict=True)]
        by_row[name] = values if with_teacher or name == "nll" else None
    accuracy = None
    if any(example.group for example in examples):
        pairs = Pairs.of(examples)
        worth = [scored.get(row, -found[row][0] / count) for row, count in zip(order, tokens, strict=True)]
        leads = [worth[better] > worth[worse] for better, worse in zip(pairs.better, pairs.worse, strict=True)]
        accuracy = sum(leads) / len(leads) if leads else None
    if not with_teacher:
        return HeldOut(whole[0], preference_accuracy=accuracy, rows=by_row)
    return HeldOut(whole[0], whole[1], whole[2], accuracy, by_row)
