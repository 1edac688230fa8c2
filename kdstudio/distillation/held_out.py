"""How far the student is from its teacher on rows it never trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.distillation.divergences import forward_kl, sparse
from kdstudio.distillation.forward import Embedded, head_logits, head_weight, response_hidden
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.supervised import cross_entropy
from kdstudio.distillation.targets import DenseTarget, Targets
from kdstudio.distillation.teacher_signals import Precision, SignalSource

HEAD_ELEMENTS = 1 << 23
"""Logits formed at once (32 MiB in float32): longer batches go through the head in pieces."""


@dataclass(frozen=True)
class HeldOut:
    """Means over the response tokens of the held-out rows, in nats; None where no teacher signal is at hand."""

    nll: float
    forward_kl: float | None = None
    top1_agreement: float | None = None

    def values(self) -> dict[str, float]:
        """As metrics, by their names."""
        named = {
            "held_out_nll": self.nll,
            "held_out_forward_kl": self.forward_kl,
            "held_out_top1_agreement": self.top1_agreement,
        }
        return {name: value for name, value in named.items() if value is not None}


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
) -> HeldOut:
    """Measure `network` on the held-out rows against `source` (temperature 1). There must be held-out rows."""
    was_training = network.training
    network.train(False)
    head, prefix = head_weight(network), rows.prefix.to(device)
    sums = torch.zeros(3, dtype=torch.float64)
    for group in rows.groups(rows.held_out):
        batch = rows.batch(group, device)
        with precision():
            hidden = response_hidden(network, batch, Embedded(network, batch, prefix))
        targets = Targets(batch.labels, None if source is None else source.target(batch))
        for piece in token_pieces(len(targets), head.shape[0]):
            sums += _sums(head_logits(hidden[piece], head), targets[piece])
    network.train(was_training)
    nll, divergence, agreement = (sums / rows.response_tokens(rows.held_out)).tolist()
    return HeldOut(nll) if source is None else HeldOut(nll, divergence, agreement)


def _sums(logits: Tensor, targets: Targets) -> Tensor:
    """Sums over tokens of negative log-likelihood, forward KL and top-1 agreement."""
    nll = cross_entropy(logits, targets.labels)
    teacher = targets.teacher
    if teacher is None:
        divergence = agreement = torch.zeros_like(nll)
    elif isinstance(teacher, DenseTarget):
        expected = teacher.logits()
        divergence, agreement = forward_kl(logits, expected), logits.argmax(-1) == expected.argmax(-1)
    else:
        divergence = sparse("forward_kl", logits, teacher.ids, teacher.log_probs, teacher.tail_log_prob)
        agreement = logits.argmax(-1) == teacher.ids[:, 0]  # descending: the first is the teacher's choice
    return torch.stack([part.cpu().double().sum() for part in (nll, divergence, agreement)])
