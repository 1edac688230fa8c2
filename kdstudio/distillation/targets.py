"""What the objectives read at each response token besides the student's logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdstudio.distillation.forward import head_logits
from kdstudio.distillation.head_terms import Room
from kdstudio.distillation.kernels import label_log_probs
from kdstudio.teachers.signals import SparseSignal


@dataclass(frozen=True)
class DenseTarget:
    """The teacher's last hidden states [N, H] and its head [V, H]: V logits a token, formed only when read."""

    hidden: Tensor
    head: Tensor

    def logits(self) -> Tensor:
        """[N, V] in float32."""
        with torch.no_grad():
            return head_logits(self.hidden, self.head)

    def logits_of(self, rows: slice, room: Room) -> Tensor:
        """[n, V] of some tokens, in float32."""
        return room.logits(self, self.hidden[rows], self.head)

    def label_log_probs(self, labels: Tensor) -> Tensor:
        """[N] log p(label)."""
        return label_log_probs(self.hidden, self.head, labels)

    @property
    def outcomes(self) -> int:
        """How many tokens are told apart."""
        return int(self.head.shape[0])

    @property
    def members(self) -> tuple[DenseTarget, ...]:
        """Itself: a mixture has several."""
        return (self,)

    def __len__(self) -> int:
        return int(self.hidden.shape[0])

    def __getitem__(self, rows: slice | Tensor) -> DenseTarget:
        return DenseTarget(self.hidden[rows], self.head)


@dataclass(frozen=True)
class MixedTarget:
    """The mean of several teachers' distributions over one vocabulary: log sum w_i p_i, formed only when read.

    Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 1. `shares` sum to 1; all members tell the same
    `outcomes` apart at the same N tokens. Teachers are mixed at temperature 1, as stored mixtures are.
    """

    members: tuple[DenseTarget, ...]
    shares: tuple[float, ...]

    @property
    def outcomes(self) -> int:
        """How many tokens are told apart."""
        return self.members[0].outcomes

    def logits(self) -> Tensor:
        """[N, V] log-probs in float32."""
        return self._mean([member.logits() for member in self.members])

    def logits_of(self, rows: slice, room: Room) -> Tensor:
        """[n, V] of some tokens, in float32."""
        return self._mean([member.logits_of(rows, room) for member in self.members])

    @torch.no_grad()
    def _mean(self, logits: list[Tensor]) -> Tensor:
        """log sum w_i softmax(logits_i) [n, V]."""
        mean: Tensor | None = None
        for one, share in zip(logits, self.shares, strict=True):
            weighed = one.log_softmax(dim=-1).add_(math.log(share))
            mean = weighed if mean is None else torch.logaddexp(mean, weighed, out=mean)
        return mean if mean is not None else logits[0]

    def label_log_probs(self, labels: Tensor) -> Tensor:
        """[N] log p(label)."""
        known = torch.stack([member.label_log_probs(labels) for member in self.members])
        return (known + known.new_tensor(self.shares).log().unsqueeze(1)).logsumexp(dim=0)

    def __len__(self) -> int:
        return len(self.members[0])

    def __getitem__(self, rows: slice | Tensor) -> MixedTarget:
        return MixedTarget(tuple(member[rows] for member in self.members), self.shares)


@dataclass(frozen=True)
class SparseTarget:
    """A stored top-k signal as tensors: `ids` [N, k] int64, `log_probs` [N, k], the tail's and the labels' [N]."""

    ids: Tensor
    log_probs: Tensor
    tail_log_prob: Tensor
    label_log_prob: Tensor

    def label_log_probs(self, labels: Tensor) -> Tensor:  # noqa: ARG002 - the dense signal reads it
        """[N] log p(label), as it was stored for these very labels."""
        return self.label_log_prob

    def __getitem__(self, rows: slice) -> SparseTarget:
        return SparseTarget(self.ids[rows], self.log_probs[rows], self.tail_log_prob[rows], self.label_log_prob[rows])


def within(signal: SparseSignal, outcomes: int) -> SparseSignal:
    """The signal over ids below `outcomes`: what a padded vocabulary has beyond them joins the tail.

    All tokens keep the same k, so where one loses ids the least likely ones of the others join their tails as well.
    """
    inside = signal.ids < outcomes
    if inside.all():
        return signal
    kept = int(inside.sum(axis=1).min())
    order = np.argsort(~inside, axis=1, kind="stable")
    ids, log_probs = np.take_along_axis(signal.ids, order, axis=1), np.take_along_axis(signal.log_probs, order, axis=1)
    rest = np.concatenate([log_probs[:, kept:], signal.tail_log_prob[:, None]], axis=1)
    tail = np.logaddexp.reduce(rest, axis=1)
    return SparseSignal(ids[:, :kept], log_probs[:, :kept], tail, signal.label_log_prob, signal.shape)


def sparse_target(signal: SparseSignal, device: torch.device) -> SparseTarget:
    """A signal from the vault on the student's device. The store is only ever read: its memory is copied."""
    return SparseTarget(
        torch.from_numpy(signal.ids.astype("int64")).to(device),
        torch.from_numpy(signal.log_probs.astype("float32")).to(device),
        torch.from_numpy(signal.tail_log_prob.astype("float32")).to(device),
        torch.from_numpy(signal.label_log_prob.astype("float32")).to(device),
    )


WholeTarget = DenseTarget | MixedTarget
TeacherTarget = WholeTarget | SparseTarget


@dataclass(frozen=True)
class Targets:
    """The signals of N response tokens: `labels` [N] int64, and the teacher's where a teacher takes part."""

    labels: Tensor
    teacher: TeacherTarget | None = None

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def __getitem__(self, rows: slice) -> Targets:
        return Targets(self.labels[rows], None if self.teacher is None else self.teacher[rows])
