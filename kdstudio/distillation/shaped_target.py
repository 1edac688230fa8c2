"""A stored top-k whose tail has a shape: a whole distribution again, formed from few numbers only when it is read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdstudio.distillation.divergences import row_blocks
from kdstudio.distillation.head_terms import Room
from kdstudio.distillation.targets import SparseTarget, sparse_target
from kdstudio.teachers.signals import SparseSignal
from kdstudio.teachers.tail_shape import TailShape, widened


@dataclass(frozen=True)
class TailFamily:
    """A teacher's `tail_shape.TailShape` as the head [V, 33] that makes tails of coordinates and a 1."""

    head: Tensor

    @classmethod
    def of(cls, shape: TailShape, outcomes: int | None, device: torch.device) -> TailFamily:
        """On the student's device, without ids beyond its `outcomes`."""
        parts = (torch.from_numpy(part.astype("float32")) for part in (shape.directions, shape.mean[None]))
        return cls(torch.cat([*parts]).t()[:outcomes].contiguous().to(device))


@dataclass(frozen=True)
class ShapedTarget(SparseTarget):
    """The top k of `SparseTarget` with the tail's mass spread by `family` at `places` [N, 33].

    p(j) = tail * softmax over the other tokens of (m + c d)(j). Whoever reads it as a `SparseTarget` sees one bucket.
    """

    places: Tensor
    family: TailFamily

    @property
    def outcomes(self) -> int:
        """How many tokens are told apart."""
        return int(self.family.head.shape[0])

    def logits(self) -> Tensor:
        """[N, V] log-probs."""
        return self._spread(self.places @ self.family.head.t(), slice(None))

    def logits_of(self, rows: slice, room: Room) -> Tensor:
        """[n, V] of some tokens."""
        return self._spread(room.logits(self.family, self.places[rows], self.family.head), rows)

    @torch.no_grad()
    def _spread(self, logits: Tensor, rows: slice) -> Tensor:
        """In their own place, tails of any mass as log-probs, and the top k among them."""
        ids, log_probs = self.ids[rows], self.log_probs[rows].to(logits.dtype)
        logits.scatter_(1, ids, -torch.inf)
        if ids.shape[1] < logits.shape[1]:
            tail, blocks = self.tail_log_prob[rows].to(logits.dtype), row_blocks(*logits.shape)
            for first in blocks:  # small enough that their exponentials stay in a core's cache
                part = slice(first, first + blocks.step)
                logits[part] += (tail[part] - logits[part].logsumexp(dim=1)).unsqueeze(1)
        return logits.scatter_(1, ids, log_probs)

    def __getitem__(self, rows: slice) -> ShapedTarget:
        return ShapedTarget(
            self.ids[rows],
            self.log_probs[rows],
            self.tail_log_prob[rows],
            self.label_log_prob[rows],
            self.places[rows],
            self.family,
        )


def shaped_target(signal: SparseSignal, family: TailFamily, device: torch.device) -> SparseTarget:
    """A signal from the vault on the student's device; one without a shape keeps its bucket."""
    plain = sparse_target(signal, device)
    if signal.shape is None:
        return plain
    codes = torch.from_numpy(widened(signal.shape)).to(device)
    places = torch.cat([codes, torch.ones_like(codes[:, :1])], dim=1)
    return ShapedTarget(plain.ids, plain.log_probs, plain.tail_log_prob, plain.label_log_prob, places, family)
