"""Distillation across tokenizers: both sides' distributions over the same bytes of the response, compared.

Text is grouped by bytes (`aligned_groups`), each group's tokens become one distribution (`merge_log_probs`), and two
distributions over different vocabularies are compared by `byte_aligned`: tokens of the same bytes directly, the rest by
size alone. Source: GOLD (General On-Policy Logit Distillation), Patino et al. 2025,
https://huggingface.co/spaces/HuggingFaceH4/on-policy-distillation, and TRL's `trl.experimental.gold`.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdstudio.errors import BugError
from kdstudio.models.byte_spans import Alignment, aligned_groups

__all__ = ["Alignment", "aligned_groups", "byte_aligned", "merge_log_probs"]

Ids = Tensor | npt.NDArray[np.integer[Any]]

_CHUNK_ELEMENTS = 1 << 18
"""One block of rows: 1 MiB in float32, so that its temporaries stay in a core's cache."""


def merge_log_probs(
    log_probs: Tensor, labels: Tensor, groups: Ids, *, varies: Literal["first", "last"] = "first"
) -> Tensor:
    """One log-distribution for each group of tokens; [G, V] nats, from `log_probs` [N, V] and `labels` [N].

    Row i of `log_probs` is the distribution that label i was drawn from. `groups` [G, 2]: first and last row of each,
    as `Alignment.student`. One token of the group varies over the vocabulary, the others keep their labels y:

        "first":  P(v | x) * prod_{j > first} P(y_j | x, y_<j)      GOLD as published; TRL's "observed", its default
        "last":   prod_{j < last} P(y_j | x, y_<j) * P(v | x, y_<last)               TRL's "bayesian", its pull 5905

    Neither is renormalised: a merged row sums to the probability of the tokens that do not vary. At the text that was
    written both are its probability by the chain rule; "last" is right for every v, "first" as if what follows did not
    depend on v. A group of one token is its own row. Unlike TRL nothing is clamped at 1e-8.
    """
    bounds = torch.as_tensor(groups, device=log_probs.device).long()
    first, last = bounds[:, 0], bounds[:, 1]
    merged = log_probs.index_select(0, first if varies == "first" else last)
    longest = int((last - first).max()) if len(bounds) else 0
    if longest == 0:
        return merged
    own = log_probs.gather(1, labels.long().unsqueeze(1)).squeeze(1)
    kept = first.unsqueeze(1) + torch.arange(longest, device=first.device) + (varies == "first")
    outside = kept > (last if varies == "first" else last - 1).unsqueeze(1)
    others = own[kept.clamp(max=len(own) - 1)].masked_fill(outside, 0.0)
    return merged + others.sum(dim=1, keepdim=True)


def byte_aligned(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    matched: Ids,
    *,
    beta: float = 0.5,
    matched_weight: float | None = None,
    unmatched_weight: float | None = None,
) -> Tensor:
    """GOLD's hybrid loss of each group; [G], from log-probs [G, Vs] and [G, Vt] that need not sum to one.

    `matched` [M, 2]: student and teacher ids that mean the same, no id twice (`VocabularyMap.matched`). With p, q the
    teacher's and student's masses:

        matched_weight * sum_{matched} beta p log(p / m) + (1 - beta) q log(q / m),  m = beta p + (1 - beta) q
        + unmatched_weight * sum_k |p_(k) - q_(k)|   over the others, sorted by size, the shorter list padded with zeros

    The first line is TRL's generalised Jensen-Shannon divergence (GKD, https://arxiv.org/abs/2306.13649, eq. 1) in
    nats, over the matched masses as they are: each term is at least 0 because x log x is convex. At beta = 0 it becomes
    sum p log(p / q) - p + q, at beta = 1 sum q log(q / p) - q + p: its limits divided by beta and 1 - beta. TRL omits
    - p + q there, so that with masses that do not sum to one it can fall below 0. The second line is ULD
    (https://arxiv.org/abs/2402.12030); TRL drops it when one side has no unmatched ids, here that side counts as zeros.

    By default, as in TRL, `matched_weight` is the matched share of the teacher's ids and `unmatched_weight` is
    1 - matched_weight. Zero where both sides are equal, never negative; gradients through the student only. Infinite
    only at beta 0 or 1, where one side rules out what the other does not. Raises `BugError` for a beta outside [0, 1]
    and for ids outside a vocabulary or given twice.
    """
    if not 0 <= beta <= 1:
        raise BugError(f"beta is {beta}, but a mixture's share is from 0 to 1")
    pairs = torch.as_tensor(matched, device=student_log_probs.device).long().reshape(-1, 2)
    sizes = student_log_probs.shape[1], teacher_log_probs.shape[1]
    rest = [_others(pairs[:, side], size) for side, size in enumerate(sizes)]
    if matched_weight is None:
        matched_weight = len(pairs) / max(1, sizes[1])
    if unmatched_weight is None:
        unmatched_weight = 1 - matched_weight
    ids = _Ids(pairs[:, 0].contiguous(), pairs[:, 1].contiguous(), rest[0], rest[1])
    result: Tensor = _ByteAligned.apply(  # type: ignore[no-untyped-call]
        student_log_probs, teacher_log_probs.detach(), ids, beta, (matched_weight, unmatched_weight)
    )
    return result


class _Ids(NamedTuple):
    """Ids of either side that have a match, in the same order, and those that have none."""

    student: Tensor
    teacher: Tensor
    student_rest: Tensor
    teacher_rest: Tensor


def _others(ids: Tensor, vocabulary: int) -> Tensor:
    """All ids of a vocabulary that are not in `ids`."""
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
        raise BugError(f"matched ids lie outside a vocabulary of {vocabulary:,}")
    left = torch.ones(vocabulary, dtype=torch.bool, device=ids.device).index_fill_(0, ids, False).nonzero().squeeze(1)
    if len(left) != vocabulary - len(ids):
        raise BugError("an id is matched twice")
    return left


class _ByteAligned(torch.autograd.Function):
    """The gradient is formed beside the value, so that one [G, Vs] tensor is all that is kept."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, ids: _Ids, beta: float, weights: tuple[float, float]
    ) -> Tensor:
        exact = torch.float64 if student.dtype == torch.float64 else torch.float32
        values = student.new_empty(student.shape[0], dtype=exact)
        gradient = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        step = max(1, _CHUNK_ELEMENTS // max(1, student.shape[1], teacher.shape[1]))
        for first in range(0, student.shape[0], step):
            rows = slice(first, first + step)
            q, p = student[rows].to(exact), teacher[rows].to(exact)
            direct, slope = _generalised_jsd(q.index_select(1, ids.student), p.index_select(1, ids.teacher), beta)
            by_size, incline = _sorted_distance(
                q.index_select(1, ids.student_rest), p.index_select(1, ids.teacher_rest), slopes=gradient is not None
            )
            values[rows] = weights[0] * direct + weights[1] * by_size
            if gradient is not None:
                both = torch.empty_like(q).index_copy_(1, ids.student, slope.mul_(weights[0]))
                gradient[rows] = both.index_copy_(1, ids.student_rest, incline.mul_(weights[1]))
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.unsqueeze(-1).to(gradient.dtype), None, None, None, None


def _generalised_jsd(student: Tensor, teacher: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Value [n] and gradient [n, M] by the student's log-masses; a mass of zero adds nothing and has no slope."""
    q, p = student.exp(), teacher.exp()
    if beta == 0:
        log_ratio = (teacher - student).masked_fill_(p == 0, 0.0)
        terms, slope = p * log_ratio - p + q, q - p
    elif beta == 1:
        log_ratio = (student - teacher).masked_fill_(q == 0, 0.0)
        terms, slope = q * log_ratio - q + p, q * log_ratio
    else:
        mixture = torch.logaddexp(student + math.log1p(-beta), teacher + math.log(beta))
        slope = (student - mixture).masked_fill_(q == 0, 0.0).mul_(q).mul_(1 - beta)
        terms = (teacher - mixture).masked_fill_(p == 0, 0.0).mul_(p).mul_(beta).add_(slope)
    return terms.sum(dim=-1).clamp_(min=0.0), slope  # rounding alone can fall below zero


def _sorted_distance(student: Tensor, teacher: Tensor, *, slopes: bool) -> tuple[Tensor, Tensor]:
    """L1 distance [n] of the masses sorted by size, and its gradient [n, U] by the student's log-masses."""
    q, (p, _) = student.exp(), _ascending(teacher.exp(), order=False)
    ascending, order = _ascending(q, order=slopes)
    shared = min(q.shape[1], p.shape[1])
    # Sorted upwards, the largest are the last of both: what one side has more is its smallest, against zeros.
    difference = ascending.clone()
    difference[:, q.shape[1] - shared :] -= p[:, p.shape[1] - shared :]
    value = difference.abs().sum(dim=-1) + p[:, : p.shape[1] - shared].sum(dim=-1)
    return value, torch.zeros_like(q).scatter_(1, order, difference.sign()).mul_(q) if slopes else q


def _ascending(masses: Tensor, *, order: bool) -> tuple[Tensor, Tensor]:
    """Rows sorted upwards, and their order if asked for; on a CPU NumPy is 6 to 30 times as fast as torch."""
    if masses.device.type != "cpu":
        return masses.sort(dim=1)
    if not order:
        return torch.from_numpy(np.sort(masses.numpy(), axis=1)), masses
    places = torch.from_numpy(np.argsort(masses.numpy(), axis=1))
    return masses.gather(1, places), places
