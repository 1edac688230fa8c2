"""Divergences between the teacher's and the student's distribution at each token.

Every function takes logits [N, V] (student first), returns nats per token [N] and sends gradients only through the
student. `sparse` computes any of them from stored top-k log-probs: the tokens outside the k ids are one more outcome,
the tail bucket, on both sides, so that it is zero exactly where the two bucketed distributions agree and never
negative. With k = V it is the dense divergence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_ELEMENTS = 1 << 18
"""One block of rows: 1 MiB in float32, so that its temporaries stay in a core's cache."""


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(p || q) = T^2 * sum p log(p / q) with p, q the teacher's and student's softmax at temperature T; [N] nats.

    Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2: the square keeps gradients comparable across
    temperatures. A token the teacher rules out (logit -inf) adds nothing; one that only the student rules out is +inf.
    """
    result: Tensor = _ForwardKL.apply(student_logits, teacher_logits.detach(), temperature)  # type: ignore[no-untyped-call]
    return result


def _row_blocks(logits: Tensor) -> range:
    return range(0, logits.shape[0], max(1, _CHUNK_ELEMENTS // max(1, logits.shape[1])))


def _exact(logits: Tensor) -> torch.dtype:
    """The type to compute in: half-precision logits are widened, a block at a time."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _softened(logits: Tensor, exact: torch.dtype, temperature: float) -> Tensor:
    wide = logits.to(exact)
    wide = wide - wide.amax(dim=-1, keepdim=True)
    return wide if temperature == 1 else wide.div_(temperature)


def _softmax(shifted: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities [n, V] and log-sum-exp [n] of logits whose largest is 0: one exponential each, not two."""
    mass = shifted.exp()
    total = mass.sum(dim=-1)
    return mass.div_(total.unsqueeze(-1)), total.log()


class _ForwardKL(torch.autograd.Function):
    """The gradient T * (q - p) is formed beside the value, so that one [N, V] tensor is all that is kept."""

    @staticmethod
    def forward(ctx: Any, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        count, exact = student_logits.shape[0], _exact(student_logits)
        values = student_logits.new_empty(count, dtype=exact)
        gradient = torch.empty_like(student_logits) if ctx.needs_input_grad[0] else None
        step = _row_blocks(student_logits).step
        for first in range(0, count, step):
            rows = slice(first, first + step)
            student = _softened(student_logits[rows], exact, temperature)
            teacher = _softened(teacher_logits[rows], exact, temperature)
            q, q_total = _softmax(student)
            p, p_total = _softmax(teacher)
            # sum p log(p / q) = sum p (teacher - student) - log-sum-exp(teacher) + log-sum-exp(student)
            terms = torch.sub(teacher, student).mul_(p).masked_fill_(p == 0, 0.0)
            values[rows] = terms.sum(dim=-1) - (p_total - q_total)
            if gradient is not None:
                gradient[rows] = q.sub_(p) if temperature == 1 else q.sub_(p).mul_(temperature)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return values.clamp_(min=0.0).mul_(temperature**2)  # rounding alone can fall below zero

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.unsqueeze(-1).to(gradient.dtype), None, None


Divergence = Callable[..., Tensor]

DIVERGENCES: dict[str, Divergence] = {"forward_kl": forward_kl}
"""Every divergence by name: (student_logits [N, V], teacher_logits [N, V], *, temperature, ...) -> [N]."""


def sparse(
    name: str,
    student_logits: Tensor,
    ids: Tensor,
    log_probs: Tensor,
    tail_log_prob: Tensor,
    *,
    temperature: float = 1.0,
    **parameters: float,
) -> Tensor:
    """The divergence `name` from stored top-k signals, with the tail as one bucket; [N] nats.

    `ids` [N, k] integers (no id twice in a row), `log_probs` [N, k] at temperature 1, `tail_log_prob` [N] the log of
    the mass outside `ids` (-inf for none). The teacher's k + 1 masses are normalised to sum to one, so that rounding in
    the store cannot leave a floor under the loss.

    A stored top-k says nothing about how the tail would spread at another temperature. So both sides are bucketed at
    temperature 1 first, and the temperature then softens the k + 1 outcomes. At k = V there is no tail to lose.
    """
    ids = ids.long()
    student = bucket_log_probs(student_logits, ids)
    teacher = log_probs.to(student.dtype)
    if ids.shape[1] < student_logits.shape[1]:
        teacher = torch.cat([teacher, tail_log_prob.to(student.dtype).unsqueeze(-1)], dim=-1)
    return DIVERGENCES[name](student, teacher, temperature=temperature, **parameters)


def bucket_log_probs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probs of the k `ids` and of everything else together: [N, k + 1], or [N, V] when k = V.

    The tail is a log-sum-exp over the other logits, not 1 minus the head's mass: a tail of 1e-30 keeps all its digits.
    """
    result: Tensor = _BucketLogProbs.apply(logits, ids)  # type: ignore[no-untyped-call]
    return result


class _BucketLogProbs(torch.autograd.Function):
    """Bucketing in blocks of rows; the backward pass recomputes the exponentials instead of keeping them."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        count, vocabulary = logits.shape
        k, exact, step = ids.shape[1], _exact(logits), _row_blocks(logits).step
        tail = logits.new_full((count, 1), -torch.inf, dtype=exact)  # log-sum-exp of the logits outside ids
        head = logits.gather(1, ids).to(exact)
        if k < vocabulary:
            for first in range(0, count, step):
                rows = slice(first, first + step)
                rest = logits[rows].to(exact).scatter(1, ids[rows], -torch.inf)
                tail[rows] = rest.logsumexp(dim=1, keepdim=True)
        total = torch.logaddexp(head.logsumexp(dim=1, keepdim=True), tail)
        ctx.save_for_backward(logits, ids, tail)
        buckets = torch.cat([head, tail], dim=1) if k < vocabulary else head
        result = buckets - total
        ctx.buckets = result.detach()
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        logits, ids, tail = ctx.saved_tensors
        k, step = ids.shape[1], _row_blocks(logits).step
        # With g the upstream gradient: d z_j = g_j - q_j sum(g) for j in ids, and softmax over the rest times
        # (g_tail - q_tail sum(g)) for all others.
        inner = upstream - ctx.buckets.exp() * upstream.sum(dim=1, keepdim=True)
        gradient = torch.zeros_like(logits)
        if k < logits.shape[1]:
            weight = inner[:, k:]
            finite = torch.where(torch.isfinite(tail), tail, torch.zeros_like(tail))
            for first in range(0, logits.shape[0], step):
                rows = slice(first, first + step)
                gradient[rows] = (logits[rows].to(finite.dtype) - finite[rows]).exp_().mul_(weight[rows])
        return gradient.scatter_(1, ids, inner[:, :k].to(gradient.dtype)), None
