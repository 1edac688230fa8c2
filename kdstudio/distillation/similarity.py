"""How alike the student's inner states are to the teacher's: hidden vectors, samples of them, and attention.

The student comes first and gradients flow only through it (and through its projection or filter); whatever belongs to
the teacher is detached. Half-precision inputs are widened to float32. Each value is zero where both sides agree and
never negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kdstudio.distillation.divergences import forward_kl
from kdstudio.errors import BadInput


def hidden_mse(student: Tensor, teacher: Tensor, projection: Tensor | None = None) -> Tensor:
    """|W s - t|^2 / Ht for each token: [N] from states [N, Hs] and [N, Ht], with W = `projection` [Ht, Hs] or none.

    Jiao et al. 2020 (TinyBERT), https://arxiv.org/abs/1909.10351, equation 8. `BadInput` where shapes do not meet.
    """
    student, teacher = _side_by_side(student, teacher, projection)
    return (student - teacher).square().mean(dim=-1)


def hidden_cosine(student: Tensor, teacher: Tensor, projection: Tensor | None = None) -> Tensor:
    """1 - cos(W s, t) for each token, in [0, 2]: [N] from states [N, Hs] and [N, Ht], `projection` [Ht, Hs] or none.

    Sanh et al. 2019 (DistilBERT), https://arxiv.org/abs/1910.01108. Computed as half the squared distance of the two
    unit vectors, which keeps its digits where the two agree. A state of zeros has no direction: its cosine
    counts as 0 and it gets no gradient. `BadInput` where shapes do not meet.
    """
    student, teacher = _side_by_side(student, teacher, projection)
    lengths = [torch.linalg.vector_norm(side, dim=-1, keepdim=True) for side in (student, teacher)]
    units = [
        side / torch.where(length > 0, length, torch.ones_like(length))
        for side, length in zip((student, teacher), lengths, strict=True)
    ]
    distance = (units[0] - units[1]).square().sum(dim=-1) / 2
    directed = (lengths[0] > 0) & (lengths[1] > 0)
    return torch.where(directed.squeeze(-1), distance, torch.ones_like(distance))


def task_aware_layerwise(student: Tensor, teacher: Tensor, student_filter: Tensor, teacher_filter: Tensor) -> Tensor:
    """|Fs s - Ft t|^2 / D for each token: [N] from states [N, Hs], [N, Ht] and filters [D, Hs], [D, Ht].

    Liang et al. 2023 (TED), https://arxiv.org/abs/2210.01351, section 3: each filter was first trained to keep of its
    layer what the task needs; then student and student's filter learn together while the teacher's stays as it is.
    """
    _require_rank(2, teacher=teacher, teacher_filter=teacher_filter)
    if teacher_filter.shape[1] != teacher.shape[1]:
        raise BadInput(
            "The teacher's filter does not fit its hidden states",
            f"The states have width {teacher.shape[1]}, the filter has shape {list(teacher_filter.shape)}.",
            f"Give a filter of shape [D, {teacher.shape[1]}].",
        )
    filtered = functional.linear(_wide(teacher.detach()), _wide(teacher_filter.detach()))
    return hidden_mse(student, filtered, student_filter)


def maximum_mean_discrepancy(
    student: Tensor, teacher: Tensor, *, bandwidths: Sequence[float] = (0.5, 1.0, 2.0)
) -> Tensor:
    """Squared distance of the mean embeddings of two samples [N, D] and [M, D]: one number in [0, 2].

    Gretton et al. 2012, https://jmlr.org/papers/v13/gretton12a.html, equation 5: the biased V-statistic, pairs of a
    point with itself included, because it alone is never negative (the unbiased one, equation 3, can be). Used for
    distillation by Huang & Wang 2017 (NST), https://arxiv.org/abs/1707.01219.

    The kernel is the mean over `bandwidths` b of exp(-|x - y|^2 / (2 (b m)^2)) with m the median distance between two
    points of both samples together (Gretton et al., section 8; the lower of two middle ones). m is a constant for the
    gradient. If more than half of all pairs coincide, the root of their mean squared distance stands in.
    Takes (N + M)^2 numbers of memory. `BadInput` for an empty sample, other widths or a bandwidth that is not positive.
    """
    _require_rank(2, student=student, teacher=teacher)
    if student.shape[1] != teacher.shape[1]:
        raise _widths_differ(student, teacher)
    if not len(student) or not len(teacher):
        raise BadInput("Nothing to compare", f"The samples hold {len(student)} and {len(teacher)} states.")
    if not bandwidths or not all(width > 0 and math.isfinite(width) for width in bandwidths):
        raise BadInput("A bandwidth must be above zero", f"Got {list(bandwidths)}.")
    target = _wide(teacher.detach())
    origin = target.mean(dim=0)  # a shared offset would cost the squared distances their digits
    x, y = _wide(student) - origin, target - origin
    squares = [_squared_distances(*sides) for sides in ((x, x), (y, y), (x, y))]
    typical = _typical_square(*(block.detach() for block in squares))
    own, targets, across = (_mean_kernel(block / typical, bandwidths) for block in squares)
    return (own + targets - 2 * across).clamp(min=0.0)


def attention_relation(
    student_query: Tensor,
    student_key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    mask: Tensor,
    *,
    heads: int | None = None,
    causal: bool = True,
) -> Tensor:
    """KL(teacher || student) of softmax(Q K^T / sqrt(d)), mean over heads, for each query token: [B, L] nats.

    Wang et al. 2020 (MiniLM), https://arxiv.org/abs/2002.10957, equation 5. Vectors are [B, A, L, d]; d may differ
    between the sides. Keys with fewer heads than queries (grouped-query attention) are repeated for their groups.
    Without `heads` both sides need the same A; with it each side's heads are joined and cut again into so many relation
    heads (MiniLMv2, https://arxiv.org/abs/2012.15828, section 3; its Q-Q and K-K relations are `value_relation` of
    those vectors). `mask` [B, L] is true at real tokens: padded keys are left out and padded queries give 0, whatever
    their vectors hold. With `causal` a query sees no later key. `BadInput` where shapes do not meet.
    """
    student_key = _repeated(student_key, student_query)
    teacher_key = _repeated(teacher_key, teacher_query)
    allowed = _allowed(mask, causal=causal)
    student = _scores(student_query, student_key, mask, heads).masked_fill(~allowed, -torch.inf)
    with torch.no_grad():
        teacher = _scores(teacher_query, teacher_key, mask, heads).masked_fill(~allowed, -torch.inf)
    if student.shape != teacher.shape:
        raise BadInput(
            "The student's and the teacher's attention do not line up",
            f"Batch, heads and length are {list(student.shape[:3])} and {list(teacher.shape[:3])}.",
            "Set the number of relation heads if only the heads differ; otherwise feed both the same tokens.",
        )
    length = student.shape[-1]
    divergence = forward_kl(student.reshape(-1, length), teacher.reshape(-1, length))
    return divergence.view(student.shape[:3]).mean(dim=1).masked_fill(~mask.bool(), 0.0)


def value_relation(
    student_value: Tensor, teacher_value: Tensor, mask: Tensor, *, heads: int | None = None, causal: bool = True
) -> Tensor:
    """KL(teacher || student) of softmax(V V^T / sqrt(d)), mean over heads, for each query token: [B, L] nats.

    Wang et al. 2020 (MiniLM), https://arxiv.org/abs/2002.10957, equations 6 to 8. Shapes, `mask`, `heads` and `causal`
    as for `attention_relation`.
    """
    return attention_relation(
        student_value, student_value, teacher_value, teacher_value, mask, heads=heads, causal=causal
    )


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _require_rank(rank: int, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.ndim != rank:
            raise BadInput(f"{name} has the wrong shape", f"Expected {rank} dimensions, got {list(tensor.shape)}.")


def _widths_differ(student: Tensor, teacher: Tensor) -> BadInput:
    widths = student.shape[1], teacher.shape[1]
    return BadInput(
        "The student's and the teacher's hidden states differ in width",
        f"The student's are {widths[0]} wide, the teacher's {widths[1]}.",
        f"Use a projection of shape [{widths[1]}, {widths[0]}].",
    )


def _side_by_side(student: Tensor, teacher: Tensor, projection: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both states [N, Ht], the student's projected and the teacher's detached."""
    _require_rank(2, student=student, teacher=teacher)
    if len(student) != len(teacher):
        raise BadInput(
            "The student and the teacher saw different tokens",
            f"There are {len(student)} hidden states of the student and {len(teacher)} of the teacher.",
        )
    if projection is None:
        if student.shape[1] != teacher.shape[1]:
            raise _widths_differ(student, teacher)
        return _wide(student), _wide(teacher.detach())
    if projection.shape != (teacher.shape[1], student.shape[1]):
        raise BadInput(
            "The projection does not fit the hidden states",
            f"It has shape {list(projection.shape)}, the states have widths {student.shape[1]} and {teacher.shape[1]}.",
            f"Use a projection of shape [{teacher.shape[1]}, {student.shape[1]}].",
        )
    return functional.linear(_wide(student), _wide(projection)), _wide(teacher.detach())


def _squared_distances(xs: Tensor, ys: Tensor) -> Tensor:
    # A point's distance to itself is left as it rounds: so it does between the samples, and the two cancel.
    return (xs.square().sum(dim=1).unsqueeze(1) + ys.square().sum(dim=1) - 2 * xs @ ys.T).clamp(min=0.0)


def _mean_kernel(squares: Tensor, bandwidths: Sequence[float]) -> Tensor:
    return torch.stack([torch.exp(squares / (-2 * width**2)).mean() for width in bandwidths]).mean()


def _typical_square(own: Tensor, targets: Tensor, across: Tensor) -> Tensor:
    """The median of the squared distances of two different points, or their mean, or 1 if all points coincide."""
    above = (block[torch.ones_like(block, dtype=torch.bool).triu(diagonal=1)] for block in (own, targets))
    pairs = torch.cat([*above, across.flatten()])
    median, mean = pairs.median(), pairs.mean()
    return torch.where(median > 0, median, torch.where(mean > 0, mean, torch.ones_like(mean)))


def _repeated(key: Tensor, query: Tensor) -> Tensor:
    _require_rank(4, query=query, key=key)
    groups, rest = divmod(query.shape[1], key.shape[1])
    if rest or query.shape[0] != key.shape[0] or query.shape[2:] != key.shape[2:]:
        raise BadInput("Queries and keys do not fit", f"Their shapes are {list(query.shape)} and {list(key.shape)}.")
    return key if groups == 1 else key.repeat_interleave(groups, dim=1)


def _allowed(mask: Tensor, *, causal: bool) -> Tensor:
    """Which keys each query sees: [B, 1, L, L]. A padded query sees all, as softmax must have something to divide."""
    _require_rank(2, mask=mask)
    real, length = mask.bool(), mask.shape[1]
    allowed = real[:, None, None, :].expand(-1, 1, length, length)
    if causal:
        allowed = allowed & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    return allowed | ~real[:, None, :, None]


def _scores(query: Tensor, key: Tensor, mask: Tensor, heads: int | None) -> Tensor:
    """Q K^T / sqrt(d): [B, heads, L, L], with padded vectors set to zero."""
    if mask.shape != (query.shape[0], query.shape[2]):
        raise BadInput("The mask does not fit", f"It has shape {list(mask.shape)}, the vectors {list(query.shape)}.")
    query, key = (
        _split_again(_wide(side).masked_fill(~mask.bool()[:, None, :, None], 0.0), heads) for side in (query, key)
    )
    return query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])


def _split_again(vectors: Tensor, heads: int | None) -> Tensor:
    """[B, A, L, d] joined to [B, L, A d] and cut into `heads` equal parts: [B, heads, L, A d / heads]."""
    if heads is None:
        return vectors
    batch, count, length, width = vectors.shape
    if heads < 1 or count * width % heads:
        raise BadInput(
            "The relation heads do not fit the vectors",
            f"{count} heads of width {width} cannot be cut into {heads} equal parts.",
            f"Choose a divisor of {count * width} that divides the other model's width too.",
        )
    return vectors.transpose(1, 2).reshape(batch, length, heads, -1).transpose(1, 2)
