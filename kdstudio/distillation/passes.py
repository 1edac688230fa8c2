"""One forward pass over a batch, as objectives read it, and what they give back.

Objectives never see the network. They read the pass (hidden states at the response's tokens, the log-probs of its
labels, inner states, the teacher's side, the reference's log-probs) and return parts: either a term for the head's
kernel, or a scalar that autograd carries back to what was read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from kdstudio.distillation.batches import Batch
from kdstudio.distillation.cross_target import CrossTarget
from kdstudio.distillation.head_terms import HeadTerm
from kdstudio.distillation.inner_states import InnerStates
from kdstudio.distillation.kernels import fused_head, label_log_probs, sequence_backward
from kdstudio.distillation.stored_signals import DrawnTarget
from kdstudio.distillation.targets import TeacherTarget
from kdstudio.errors import BugError

Per = Literal["token", "row", "unit"]
"""What a loss is a mean over, in a whole step: response tokens, rows, or units (a preference, a prompt's answers)."""


@dataclass
class Pass:
    """What may be read of one forward pass over N response tokens. `share` of the run is done, 0..1.

    `hidden` [N, H] and the student's `inner` states are leaves: gradients gather there. `extras` are what an objective
    prepared when the batch was new (advantages, old log-probs), by its own names.
    """

    batch: Batch
    hidden: Tensor
    head: Tensor
    teacher: TeacherTarget | CrossTarget | DrawnTarget | None = None
    inner: InnerStates | None = None
    teacher_inner: InnerStates | None = None
    reference: Tensor | None = None
    share: float = 0.0
    extras: dict[str, Tensor] = field(default_factory=dict)

    @functools.cached_property
    def log_probs(self) -> Tensor:
        """[N] log q(label): a leaf whose gradient goes back through the head after the objectives have read it."""
        return label_log_probs(self.hidden, self.head, self.batch.labels).requires_grad_()

    @functools.cached_property
    def teacher_log_probs(self) -> Tensor:
        """[N] log p(label). There must be a teacher."""
        if self.teacher is None or isinstance(self.teacher, CrossTarget):
            raise BugError("the teacher does not speak of these tokens")
        return self.teacher.label_log_probs(self.batch.labels)


@dataclass(frozen=True)
class Part:
    """A share of an objective's loss over a pass, as a sum.

    `term`: at each token, times `token_weights` [N] where given; or `total`: a scalar with gradients to what was read.
    The loss is the sum over the step divided by how many tokens, rows or units (`per`) the step has. `figures` are sums
    of what a person wants to see beside the loss, divided in the same way.
    """

    per: Per = "token"
    term: HeadTerm | None = None
    token_weights: Tensor | None = None
    total: Tensor | None = None
    figures: dict[str, Tensor] = field(default_factory=dict)


def run_parts(
    view: Pass, parts: Sequence[tuple[Part, float]], counts: dict[Per, int], *, backward: bool
) -> list[Tensor]:
    """The value of each (part, weight), unweighed, over the step's `counts`; with `backward`, gradients into the
    leaves.

    Terms with the same token weights share one walk through the head.
    """
    values: list[Tensor] = [view.hidden.new_zeros(()) for _ in parts]
    for weights in _distinct(part.token_weights for part, _ in parts if part.term is not None):
        chosen = [place for place, (part, _) in enumerate(parts) if part.term and part.token_weights is weights]
        terms = [(parts[place][0].term, parts[place][1] / counts[parts[place][0].per]) for place in chosen]
        total, found = fused_head(
            view.hidden, view.head, [(term, weight) for term, weight in terms if term], token_weights=weights
        )
        if backward:
            torch.autograd.backward(total.sum())
        for place, row in zip(chosen, found, strict=True):
            values[place] = (row if weights is None else row * weights).sum() / counts[parts[place][0].per]
    _run_totals(view, parts, counts, values, backward=backward)
    return [value.detach() for value in values]


def _run_totals(
    view: Pass, parts: Sequence[tuple[Part, float]], counts: dict[Per, int], values: list[Tensor], *, backward: bool
) -> None:
    loss: Tensor | None = None
    for place, (part, weight) in enumerate(parts):
        if part.total is not None:
            values[place] = part.total / counts[part.per]
            loss = values[place] * weight if loss is None else loss + values[place] * weight
    if not backward or loss is None or not loss.requires_grad:
        return
    torch.autograd.backward(loss)
    gradient = view.log_probs.grad if "log_probs" in vars(view) else None
    if gradient is not None:
        torch.autograd.backward(sequence_backward(view.hidden, view.head, view.batch.labels, gradient))


def _distinct(items: Iterable[Tensor | None]) -> list[Tensor | None]:
    seen: list[Tensor | None] = []
    for item in items:
        if not any(item is other for other in seen):
            seen.append(item)
    return seen


def no_value(like: Tensor) -> Tensor:
    """A scalar zero without gradients, for passes in which an objective found nothing to compare."""
    return torch.zeros((), dtype=like.dtype, device=like.device)
