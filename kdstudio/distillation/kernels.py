"""The head and the loss in one: from hidden states to losses, by chunks of tokens, never N x V numbers at once.

For each chunk the student's logits are formed, every term gives its values and gradients block by block in a core's
cache, and the gradients go back through the head at once: the student's logits are projected a single time (6 N V H
operations for a student of width H, 4 if its head is frozen), whatever the divergence. The tokens are the response's:
prompt and padding never come here.

The gradient to the head is a sum over tokens, so it is formed for equal upstream gradients, as any mean or sum has.
Where they differ (a hand-made weighting after the fact) the head's part is computed a second time, exactly; give
weights as `token_weights` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdstudio.distillation.divergences import row_blocks
from kdstudio.distillation.head_terms import BlockTerm, HeadTerm, LabelTerm, Room, dense_term, sparse_term
from kdstudio.distillation.row_threads import each_block
from kdstudio.errors import BadInput

CHUNK_ELEMENTS = 1 << 24
"""Logits formed at once, at most: 64 MiB in float32, enough tokens for the products to run at full speed."""
FEWEST_TOKENS, OF_WIDTH = 32, 8
"""Where the head learns, a chunk has an eighth of the hidden width in tokens: its logits and the teacher's then take a
quarter of the memory of the head's gradient, which is there in any case. Below 32 tokens the products become slow."""


class Signal(Protocol):
    """A stored top-k signal: `ids` [N, k], `log_probs` [N, k], `tail_log_prob` [N]."""

    @property
    def ids(self) -> Tensor:
        """Token ids, none twice in a row."""
        ...

    @property
    def log_probs(self) -> Tensor:
        """Their log-probs at temperature 1."""
        ...

    @property
    def tail_log_prob(self) -> Tensor:
        """The log of the mass outside."""
        ...


def linear_divergence(
    hidden: Tensor,
    head: Tensor,
    teacher: Signal | Tensor | tuple[Tensor, Tensor],
    name: str,
    *,
    temperature: float = 1.0,
    token_weights: Tensor | None = None,
    chunk: int | None = None,
    **parameters: float,
) -> Tensor:
    """The divergence `name` at each token, [N] nats, from the student's hidden [N, H] and head [V, H].

    `teacher`: its own (hidden [N, H'], head [V, H']), dense logits [N, V], or a stored signal with its tail. Gradients
    go to the student's hidden states and head. `token_weights` [N] multiply values and gradients. `chunk` is the number
    of tokens at once; None suits the vocabulary. Raises `BadInput` for shapes that do not fit and as `block_value`
    does.
    """
    term = _teacher_term(teacher, head, len(hidden), name, temperature, parameters)
    total, _ = fused_head(hidden, head, [(term, 1.0)], token_weights=token_weights, chunk=chunk)
    return total


def _teacher_term(
    teacher: Signal | Tensor | tuple[Tensor, Tensor],
    head: Tensor,
    count: int,
    name: str,
    temperature: float,
    parameters: dict[str, float],
) -> HeadTerm:
    if isinstance(teacher, Tensor):
        _require(name, tuple(teacher.shape), count, head)
        return dense_term(name, lambda rows, _: teacher.detach()[rows], temperature, **parameters)
    if isinstance(teacher, tuple):
        states, weight = (part.detach() for part in teacher)
        _require(name, (states.shape[0], weight.shape[0]), count, head)
        return dense_term(name, lambda rows, room: room.logits(states, states[rows], weight), temperature, **parameters)
    _require(name, (teacher.ids.shape[0], head.shape[0]), count, head)
    return sparse_term(name, teacher.ids, teacher.log_probs, teacher.tail_log_prob, temperature, **parameters)


def _require(name: str, theirs: tuple[int, ...], count: int, head: Tensor) -> None:
    ours = (count, head.shape[0])
    if len(theirs) != 2 or theirs[0] != count or (theirs != ours and name != "universal_logit"):
        raise BadInput(
            "These two cannot be compared token by token",
            f"The student has {ours[0]} tokens over {ours[1]:,} outcomes, the teacher's signal is {theirs}.",
            "Both need the same tokens and one vocabulary; across vocabularies, universal_logit or byte_aligned.",
        )


def fused_head(
    hidden: Tensor,
    head: Tensor,
    terms: Sequence[tuple[HeadTerm, float]],
    *,
    token_weights: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The weighed sum of terms at each token [N], with gradients to hidden [N, H] and head [V, H]; and each term's
    values.

    The values [terms, N] are unweighed and carry no gradient. `token_weights` [N] multiply the sum.
    """
    step = chunk or _chunk_of(head)
    total, parts = _FusedHead.apply(hidden, head, tuple(terms), token_weights, step)  # type: ignore[no-untyped-call]
    return total, parts


def _chunk_of(head: Tensor) -> int:
    """How many tokens at once suit a head [V, H]."""
    vocabulary, width = head.shape
    most = max(1, CHUNK_ELEMENTS // vocabulary)
    learns = head.requires_grad and torch.is_grad_enabled()
    return min(most, max(FEWEST_TOKENS, width // OF_WIDTH)) if learns else most


@torch.no_grad()
def label_log_probs(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """log q(label) [N] of labels [N], without gradients."""
    values, _ = _walk(hidden, head, [(LabelTerm(labels), 1.0)], None, _chunk_of(head), {})
    return values[0].neg()


def sequence_backward(hidden: Tensor, head: Tensor, labels: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradients are those of sum(gradient * log q(label)), `gradient` [N] being a constant.

    For losses of whole responses: they are computed from `label_log_probs`, and what they pass back comes in here.
    """
    total, _ = fused_head(hidden, head, [(LabelTerm(labels), 1.0)], token_weights=gradient.detach().neg())
    return total.sum()


class _FusedHead(torch.autograd.Function):
    """Everything is done in the forward pass; [N, H] and [V, H] are all that is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        terms: tuple[tuple[HeadTerm, float], ...],
        token_weights: Tensor | None,
        step: int,
    ) -> tuple[Tensor, Tensor]:
        wanted = {"hidden": ctx.needs_input_grad[0], "head": ctx.needs_input_grad[1]}
        made = {name: None for name, needed in wanted.items() if needed}
        values, gradients = _walk(hidden, head, terms, token_weights, step, made)
        ctx.terms, ctx.token_weights, ctx.step, ctx.head_gradient = terms, token_weights, step, gradients.get("head")
        ctx.save_for_backward(hidden, head, gradients.get("hidden", hidden.new_empty(0)))
        weights = values.new_tensor([weight for _, weight in terms])
        total = (weights.unsqueeze(-1) * values).sum(dim=0)  # as a product, autocast would round it to bf16
        parts = values.detach()
        ctx.mark_non_differentiable(parts)
        return total if token_weights is None else total * token_weights, parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, head, to_hidden = ctx.saved_tensors
        for_hidden = for_head = None
        if ctx.needs_input_grad[0]:
            for_hidden = (to_hidden * upstream.unsqueeze(-1).to(to_hidden.dtype)).to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            scale = float(upstream[0]) if len(upstream) else 0.0
            if ctx.head_gradient is not None and bool((upstream == scale).all()):
                for_head = ctx.head_gradient if scale == 1 else ctx.head_gradient.mul_(scale)
                ctx.head_gradient = None
            else:
                weights = upstream if ctx.token_weights is None else upstream * ctx.token_weights
                for_head = _walk(hidden, head, ctx.terms, weights, ctx.step, {"head": None})[1]["head"]
            for_head = for_head.to(head.dtype)
        return for_hidden, for_head, None, None, None


def _walk(
    hidden: Tensor,
    head: Tensor,
    terms: Sequence[tuple[HeadTerm, float]],
    token_weights: Tensor | None,
    step: int,
    wanted: dict[str, None],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Values [terms, N], and the gradients `wanted` (of "hidden" and "head") of their weighed sum."""
    exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    count, weight, room = hidden.shape[0], head.detach().to(exact), Room()
    values = hidden.new_empty(len(terms), count, dtype=exact)
    made = {
        name: torch.zeros_like(like, dtype=exact)
        for name, like in (("hidden", hidden), ("head", head))
        if name in wanted
    }
    with torch.autocast(hidden.device.type, enabled=False):
        for first in range(0, count, step):
            rows = slice(first, min(count, first + step))
            states = hidden.detach()[rows].to(exact)
            logits = room.logits(room, states, weight)
            scale = None if token_weights is None else token_weights[rows].to(exact)
            of_chunk = [(term.chunk(rows, room), factor) for term, factor in terms]
            _blocks(logits, of_chunk, rows, values, scale, formed=bool(wanted))
            if "hidden" in made:
                torch.mm(logits, weight, out=made["hidden"][rows])
            if "head" in made:
                made["head"].addmm_(logits.t(), states)
    return values, made


def _blocks(
    logits: Tensor,
    terms: Sequence[tuple[BlockTerm, float]],
    rows: slice,
    values: Tensor,
    scale: Tensor | None,
    *,
    formed: bool,
) -> None:
    """Fill in the values of a chunk, and put the gradient of the weighed sum in the place of its logits."""

    def compute(part: slice) -> None:
        at = slice(rows.start + part.start, rows.start + part.stop)
        total: Tensor | None = None
        for place, (term, weight) in enumerate(terms):
            last = place + 1 == len(terms)
            values[place, at], gradient = term(logits[part] if last else logits[part].clone(), part)
            gradient = gradient if weight == 1 else gradient.mul_(weight)
            total = gradient if total is None else total.add_(gradient)
        if formed and total is not None:
            logits[part] = total if scale is None else total.mul_(scale[part].unsqueeze(-1))

    if logits.device.type == "cpu":
        blocks = row_blocks(*logits.shape)
        each_block(compute, [slice(first, min(len(logits), first + blocks.step)) for first in blocks])
    else:
        compute(slice(0, len(logits)))
