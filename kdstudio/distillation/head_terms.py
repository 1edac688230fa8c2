"""What the head's kernel computes at each token: terms of a loss over the student's logits, with their gradient.

A term first looks at a chunk of tokens (and does its large products there), then answers for each block of that chunk:
the student's logits [n, V] in, values [n] and gradients [n, V] out. A block is small enough for a core's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kdstudio.distillation.divergences import BlockValue, block_value, bucketed_teacher, require_sparse
from kdstudio.networks.heads import head_logits

BlockTerm = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""(student logits [n, V], which it may overwrite; their rows within the chunk) -> values [n], gradients [n, V]."""


TeacherLogits = Callable[[slice, "Room"], Tensor]
"""(tokens of the batch; room for numbers that come and go with them) -> the teacher's logits [c, V']."""


class Room:
    """Memory that every chunk of a walk over the tokens uses again.

    Taken anew each time, blocks of 20 MB come from a heap that does not give them back: chunks of 40 tokens would leave
    more behind than one of 110 needs.
    """

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def logits(self, whose: object, hidden: Tensor, head: Tensor) -> Tensor:
        """[c, V] of hidden states [c, H] and a head [V, H], without gradients, in float32 at least.

        They last until the next logits of the same owner, whom its id tells from others.
        """
        kept = self._kept.get(id(whose))
        if kept is None or len(kept) < len(hidden):
            kept = self._kept[id(whose)] = head_logits(hidden, head)
            return kept
        return head_logits(hidden, head, kept[: len(hidden)])


class HeadTerm(Protocol):
    """One term of the loss at N tokens."""

    def chunk(self, rows: slice, room: Room) -> BlockTerm:
        """What answers for the blocks of these tokens, before the next chunk begins."""
        ...


@dataclass(frozen=True)
class LabelTerm:
    """-log q(label): labels [N] int64. With `smoothing` e the target is (1 - e) at the label plus e / V everywhere."""

    labels: Tensor
    smoothing: float = 0.0

    def chunk(self, rows: slice, room: Room) -> BlockTerm:  # noqa: ARG002 - others need it
        """Nothing to prepare."""
        labels = self.labels[rows].unsqueeze(-1)

        def block(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            chosen, vocabulary = labels[part], logits.shape[-1]
            logits = logits.sub_(logits.amax(dim=-1, keepdim=True))
            at_label = logits.gather(-1, chosen)
            mean = logits.mean(dim=-1, keepdim=True) if self.smoothing else None
            mass = logits.exp_()
            total = mass.sum(dim=-1, keepdim=True)
            values = total.log() - (1 - self.smoothing) * at_label
            gradient = mass.div_(total)
            if mean is not None:
                values -= self.smoothing * mean
                gradient -= self.smoothing / vocabulary
            gradient.scatter_add_(-1, chosen, torch.full_like(at_label, self.smoothing - 1))
            return values.squeeze(-1), gradient

        return block


@dataclass(frozen=True)
class DenseTerm:
    """A divergence from the teacher's whole distribution; `logits` forms it when it is needed.

    With one `vocabulary` a teacher of fewer outcomes leaves out ids that only pad the student's: they stand for nothing
    and are compared with nothing.
    """

    logits: TeacherLogits
    value: BlockValue
    vocabulary: bool = True

    def chunk(self, rows: slice, room: Room) -> BlockTerm:
        """Form the teacher's logits of the chunk."""
        teacher = self.logits(rows, room)
        shared = teacher.shape[1]

        def block(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            theirs = teacher[part].to(logits.dtype)
            if not self.vocabulary or logits.shape[1] == shared:
                return self.value(logits, theirs)
            values, inner = self.value(logits[:, :shared].contiguous(), theirs)
            gradient = torch.zeros_like(logits)
            gradient[:, :shared] = inner
            return values, gradient

        return block


@dataclass(frozen=True)
class SparseTerm:
    """A divergence over k + 1 outcomes: stored ids [N, k], log_probs [N, k] and the tail's log-mass [N].

    Only one exponential of the student's logits is taken: that of the tail serves its mass and its gradient.
    """

    ids: Tensor
    log_probs: Tensor
    tail_log_prob: Tensor
    value: BlockValue

    def chunk(self, rows: slice, room: Room) -> BlockTerm:  # noqa: ARG002 - as above
        """Widen the stored numbers."""
        ids = self.ids[rows].long()

        def block(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            chosen = ids[part]
            at = slice(rows.start + part.start, rows.start + part.stop)
            stored, tail = self.log_probs[at].to(logits.dtype), self.tail_log_prob[at].to(logits.dtype)
            if chosen.shape[1] == logits.shape[1]:
                values, inner = self.value(logits.gather(1, chosen), stored)
                return values, torch.empty_like(logits).scatter_(1, chosen, inner)
            logits = logits.sub_(logits.amax(dim=-1, keepdim=True))
            head = logits.gather(1, chosen)
            logits.scatter_(1, chosen, -torch.inf)
            # The rest's own largest logit, so that a tail of 1e-30 keeps all its digits
            largest = logits.amax(dim=-1, keepdim=True).clamp_min_(torch.finfo(logits.dtype).min)
            mass = logits.sub_(largest).exp_()
            rest = mass.sum(dim=-1, keepdim=True)
            student = torch.cat([head, rest.log() + largest], dim=-1)
            values, inner = self.value(student, bucketed_teacher(stored, tail, whole=False))
            share = torch.where(rest > 0, inner[:, -1:] / rest, torch.zeros_like(rest))
            return values, mass.mul_(share).scatter_(1, chosen, inner[:, :-1])

        return block


@dataclass(frozen=True)
class SampledTerm:
    """`divergences.random_sampled`: the cross-entropy to draws from the teacher, as ids [N, k] and counts [N, k]."""

    ids: Tensor
    counts: Tensor

    def chunk(self, rows: slice, room: Room) -> BlockTerm:  # noqa: ARG002 - as above
        """Widen the ids."""
        ids, counts = self.ids[rows].long(), self.counts[rows]

        def block(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            chosen, drawn_counts = ids[part], counts[part].to(logits.dtype)
            share = drawn_counts / drawn_counts.sum(dim=-1, keepdim=True).clamp_min(1)
            logits = logits.sub_(logits.amax(dim=-1, keepdim=True))
            drawn = logits.gather(1, chosen)
            mass = logits.exp_()
            total = mass.sum(dim=-1, keepdim=True)
            values = ((total.log() - drawn) * share).masked_fill(share == 0, 0.0).sum(dim=-1)
            return values, mass.div_(total).scatter_add_(1, chosen, share.neg())

        return block


def dense_term(name: str, logits: TeacherLogits, temperature: float = 1.0, **parameters: float) -> HeadTerm:
    """The divergence `name` from the teacher's logits. Raises `BadInput` as `block_value` does."""
    return DenseTerm(logits, block_value(name, temperature, **parameters), name != "universal_logit")


def sparse_term(
    name: str,
    ids: Tensor,
    log_probs: Tensor,
    tail_log_prob: Tensor,
    temperature: float = 1.0,
    **parameters: float,
) -> HeadTerm:
    """The divergence `name` from stored signals, as `divergences.sparse` defines it."""
    require_sparse(name)
    return SparseTerm(ids, log_probs, tail_log_prob, block_value(name, temperature, **parameters))
