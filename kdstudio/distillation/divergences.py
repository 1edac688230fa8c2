"""Divergences between the teacher's and the student's distribution at each token.

Every function takes logits [N, V] (student first), returns nats per token [N] and sends gradients only through the
student. With a temperature T both are softened and the result is multiplied by T^2, which keeps gradients comparable
(Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2). An outcome that both rule out (logit -inf) adds
nothing; where theory says infinity (KL(p || q) with q = 0 < p) so does the value. NaN and +inf in logits give NaN.

`sparse` computes any of them from stored top-k log-probs: the tokens outside the k ids are one more outcome, the tail
bucket, on both sides, so that it is zero exactly where the two bucketed distributions agree and never negative. With
k = V it is the dense divergence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdstudio.distillation import divergence_formulas as formulas
from kdstudio.errors import BadInput

BLOCK_ELEMENTS = 1 << 18
"""One block of rows: 1 MiB in float32, so that its temporaries stay in a core's cache."""

BlockValue = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(student logits [n, V], teacher logits [n, V']) -> the value [n] and its gradient to the student's logits [n, V]."""


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(p || q) = T^2 sum p log(p / q); [N] nats. Covers all that the teacher may say.

    Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2.
    """
    return _dense("forward_kl", student_logits, teacher_logits, temperature)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(q || p) = T^2 sum q log(q / p); [N] nats. Seeks the teacher's main mode.

    Gu et al. 2023 (MiniLLM), https://arxiv.org/abs/2306.08543, equation 1, at each token.
    """
    return _dense("reverse_kl", student_logits, teacher_logits, temperature)


def jensen_shannon(
    student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q; [N] nats, at most log 2 where beta = 1/2.

    Agarwal et al. 2023 (GKD), https://arxiv.org/abs/2306.13649, section 2, with beta on the teacher. At beta = 0 and 1
    it is 0 everywhere: JSD / beta tends to forward KL, JSD / (1 - beta) to reverse KL.
    """
    return _dense("jensen_shannon", student_logits, teacher_logits, temperature, beta=beta)


def symmetric_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, weight: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """(1 - weight) KL(p || q) + weight KL(q || p); [N] nats. At 1/2 half of Jeffreys' divergence.

    Jeffreys 1946, https://doi.org/10.1098/rspa.1946.0056; the weighted sum of Wu et al. 2024, https://arxiv.org/abs/2404.02657.
    """
    return _dense("symmetric_kl", student_logits, teacher_logits, temperature, weight=weight)


def skew_kl(student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.1, temperature: float = 1.0) -> Tensor:
    """KL(p || alpha p + (1 - alpha) q); [N] nats, at most -log alpha.

    Ko et al. 2024 (DistiLLM), https://arxiv.org/abs/2402.03898, section 3.1.
    """
    return _dense("skew_kl", student_logits, teacher_logits, temperature, alpha=alpha)


def skew_reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.1, temperature: float = 1.0
) -> Tensor:
    """KL(q || (1 - alpha) p + alpha q); [N] nats, at most -log alpha.

    Ko et al. 2024 (DistiLLM), https://arxiv.org/abs/2402.03898, section 3.1.
    """
    return _dense("skew_reverse_kl", student_logits, teacher_logits, temperature, alpha=alpha)


def total_variation(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """1/2 sum |p - q|; [N], between 0 and 1 (times T^2).

    Wen et al. 2023 (f-DISTILL), https://arxiv.org/abs/2307.15190, section 3.2.
    """
    return _dense("total_variation", student_logits, teacher_logits, temperature)


def adaptive_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, head_mass: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """Forward and reverse KL, weighed by where the two differ more: the teacher's head or its tail; [N] nats.

    Wu et al. 2024 (AKL), https://arxiv.org/abs/2404.02657, section 4. The head is the likeliest tokens with a
    cumulated p of at most `head_mass`, always with the likeliest one; the two weights carry no gradient.
    """
    return _dense("adaptive_kl", student_logits, teacher_logits, temperature, head_mass=head_mass)


def alpha_beta(
    student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.2, beta: float = 0.7, temperature: float = 1.0
) -> Tensor:
    """The alpha-beta divergence with all its limits; [N] nats. (1, 0) is forward KL, (0, 1) reverse KL.

    Wang et al. 2025 (ABKD), https://arxiv.org/abs/2505.04560, section 3, after Cichocki et al. 2011,
    https://doi.org/10.3390/e13010134.
    """
    return _dense("alpha_beta", student_logits, teacher_logits, temperature, alpha=alpha, beta=beta)


def universal_logit(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """sum |p_(i) - q_(i)| over both in falling order (times T^2); [N]. The vocabularies may differ: [N, V'] and [N, V].

    Boizard et al. 2024 (ULD), https://arxiv.org/abs/2402.12030, section 3: the Wasserstein distance of two
    distributions whose outcomes cannot be told apart by name; the shorter one is padded with zeros.
    """
    return _dense("universal_logit", student_logits, teacher_logits, temperature)


def block_value(name: str, temperature: float = 1.0, **parameters: float) -> BlockValue:
    """The divergence `name` as a function of a block of rows. Raises `BadInput` for an unknown name or parameter."""
    if name not in formulas.FORMULAS:
        raise BadInput(
            "Unknown divergence", f"There is none called {name!r}.", f"Known: {', '.join(formulas.FORMULAS)}"
        )
    parameters = {**formulas.DEFAULTS.get(name, {}), **parameters}
    formulas.check_parameters(name, temperature, parameters)
    if name == "universal_logit":
        return functools.partial(_sorted_block, temperature)
    return functools.partial(_block, functools.partial(formulas.FORMULAS[name], **parameters), temperature)


def _block(formula: formulas.Formula, temperature: float, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    both = formulas.Outcomes(student, teacher, temperature)
    return _finish(*formula(both), both.q, temperature)


def _sorted_block(temperature: float, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    q, p = (formulas.Outcomes(side, side, temperature).q for side in (student, teacher))
    return _finish(*formulas.sorted_distance(p, q), q, temperature)


def _finish(value: Tensor, slope: Tensor, q: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The value times T^2 and the gradient T (slope - q sum(slope)); rounding alone can fall below zero."""
    gradient = slope.addcmul_(q, slope.sum(dim=-1, keepdim=True), value=-1)
    if temperature != 1:
        gradient.mul_(temperature)
    return value.clamp(min=0.0).mul_(temperature**2), gradient


def row_blocks(count: int, width: int) -> range:
    """Where blocks of rows of `width` numbers begin; its step is the rows in a block."""
    return range(0, count, max(1, BLOCK_ELEMENTS // max(1, width)))


def _dense(
    name: str, student_logits: Tensor, teacher_logits: Tensor, temperature: float, **parameters: float
) -> Tensor:
    _require_shapes(name, student_logits, teacher_logits)
    block = block_value(name, temperature, **parameters)
    result: Tensor = _Dense.apply(student_logits, teacher_logits.detach(), block)  # type: ignore[no-untyped-call]
    return result


def _require_shapes(name: str, student_logits: Tensor, teacher_logits: Tensor) -> None:
    ours, theirs = tuple(student_logits.shape), tuple(teacher_logits.shape)
    if len(ours) != 2 or len(theirs) != 2 or ours[0] != theirs[0] or (ours != theirs and name != "universal_logit"):
        raise BadInput(
            "These two cannot be compared token by token",
            f"{name} was given logits of shape {ours} (student) and {theirs} (teacher).",
            "Both need the same tokens and one vocabulary; across vocabularies, universal_logit or byte_aligned.",
        )


class _Dense(torch.autograd.Function):
    """The gradient is formed beside the value, so that one [N, V] tensor is all that is kept."""

    @staticmethod
    def forward(ctx: Any, student_logits: Tensor, teacher_logits: Tensor, block: BlockValue) -> Tensor:
        exact = torch.float64 if student_logits.dtype == torch.float64 else torch.float32
        count, wanted = student_logits.shape[0], ctx.needs_input_grad[0]
        values = student_logits.new_empty(count, dtype=exact)
        gradient = torch.empty_like(student_logits) if wanted else None
        blocks = row_blocks(count, student_logits.shape[1])
        for first in blocks:
            rows = slice(first, first + blocks.step)
            values[rows], found = block(student_logits[rows], teacher_logits[rows])
            if gradient is not None:
                gradient[rows] = found
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.unsqueeze(-1).to(gradient.dtype), None, None


Divergence = Callable[..., Tensor]

DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
    "symmetric_kl": symmetric_kl,
    "skew_kl": skew_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "total_variation": total_variation,
    "adaptive_kl": adaptive_kl,
    "alpha_beta": alpha_beta,
    "universal_logit": universal_logit,
}
"""Every divergence by name: (student_logits [N, V], teacher_logits [N, V], *, temperature, ...) -> [N]."""

SPARSE = tuple(name for name in DIVERGENCES if name != "universal_logit")
"""Those that top-k signals can give. Sorting needs every probability: a bucket has no place in the order."""


def ensemble_log_probs(log_probs: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """log sum w_i p_i of several teachers' log-probs [N, V] each: the weighted mean of distributions; [N, V].

    Weights are normalised to sum to one. Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 1: an ensemble's
    arithmetic mean. Raises `BadInput` for weights that are negative, all 0, or not one for each teacher.
    """
    given = [1.0] * len(log_probs) if weights is None else list(weights)
    if not log_probs or len(given) != len(log_probs) or min(given) < 0 or sum(given) <= 0:
        raise BadInput(
            "This ensemble has no mean", f"{len(log_probs)} teachers with weights {given}.", "Give each a weight >= 0."
        )
    shares = log_probs[0].new_tensor(given).div_(sum(given)).log_()
    return torch.stack([part + share for part, share in zip(log_probs, shares, strict=True)]).logsumexp(dim=0)


def random_sampled(student_logits: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
    """-sum (counts / n) log q(ids) of n draws from the teacher; [N] nats from ids [N, k] and counts [N, k] (0 pads).

    An unbiased estimate of the cross-entropy to the whole teacher, and so of forward KL's gradient, where the k
    likeliest tokens alone would be biased. Anshumann et al. 2025 (RS-KD), https://arxiv.org/abs/2503.16870, section 4.
    """
    weights = counts.to(student_logits.dtype)
    weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1)
    chosen = student_logits.gather(1, ids.long())
    terms = (chosen - student_logits.logsumexp(dim=-1, keepdim=True)) * weights
    return terms.masked_fill(weights == 0, 0.0).sum(dim=-1).neg()


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
    require_sparse(name)
    ids = ids.long()
    student = bucket_log_probs(student_logits, ids)
    teacher = bucketed_teacher(
        log_probs.to(student.dtype), tail_log_prob, whole=ids.shape[1] == student_logits.shape[1]
    )
    return DIVERGENCES[name](student, teacher, temperature=temperature, **parameters)


def require_sparse(name: str) -> None:
    """Raises `BadInput` for a divergence that a top-k signal cannot give."""
    if name not in SPARSE:
        raise BadInput(
            "This divergence needs the whole distribution",
            f"{name} cannot be had from stored top-k signals.",
            'Set teacher.signals = "dense".',
        )


def bucketed_teacher(log_probs: Tensor, tail_log_prob: Tensor, *, whole: bool) -> Tensor:
    """[N, k + 1] log-masses of the teacher's outcomes, the tail last; [N, k] where the k are the `whole` vocabulary."""
    return log_probs if whole else torch.cat([log_probs, tail_log_prob.to(log_probs.dtype).unsqueeze(-1)], dim=-1)


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
        exact, k = (torch.float64 if logits.dtype == torch.float64 else torch.float32), ids.shape[1]
        tail = logits.new_full((count, 1), -torch.inf, dtype=exact)  # log-sum-exp of the logits outside ids
        head = logits.gather(1, ids).to(exact)
        blocks = row_blocks(count, vocabulary) if k < vocabulary else range(0)
        for first in blocks:
            rows = slice(first, first + blocks.step)
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
        k, blocks = ids.shape[1], row_blocks(*logits.shape)
        # With g the upstream gradient: d z_j = g_j - q_j sum(g) for j in ids, and softmax over the rest times
        # (g_tail - q_tail sum(g)) for all others.
        inner = upstream - ctx.buckets.exp() * upstream.sum(dim=1, keepdim=True)
        gradient = torch.zeros_like(logits)
        if k < logits.shape[1]:
            weight = inner[:, k:]
            finite = torch.where(torch.isfinite(tail), tail, torch.zeros_like(tail))
            for first in blocks:
                rows = slice(first, first + blocks.step)
                gradient[rows] = (logits[rows].to(finite.dtype) - finite[rows]).exp_().mul_(weight[rows])
        return gradient.scatter_(1, ids, inner[:, :k].to(gradient.dtype)), None
