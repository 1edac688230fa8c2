"""Losses that need no common vocabulary: sorted probabilities, and distributions over the same bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kdstudio.distillation.alignment import byte_aligned, merge_log_probs
from kdstudio.distillation.bound.base import Binder, Objective, Setting, teacher_of
from kdstudio.distillation.cross_target import CrossTarget
from kdstudio.distillation.forward import head_logits
from kdstudio.distillation.head_terms import dense_term
from kdstudio.distillation.passes import Part, Pass
from kdstudio.distillation.targets import SparseTarget
from kdstudio.errors import BugError

_LOGITS = 1 << 23  # numbers of logits formed at once


def _universal_logit(parameters: dict[str, Any], _: Setting) -> Objective:
    """Token by token from the start of each text; what one tokenizer has left over at the end is not compared (ULD)."""

    def read(view: Pass) -> list[Part]:
        teacher = _running(view, "universal_logit")
        if isinstance(teacher, CrossTarget):
            term = dense_term("universal_logit", teacher.logits_at, **parameters)
            return [Part(term=term, token_weights=(teacher.places >= 0).float())]
        return [Part(term=dense_term("universal_logit", teacher.logits_of, **parameters))]

    return Objective(read)


def _byte_aligned(parameters: dict[str, Any], _: Setting) -> Objective:
    """The sum over groups; with one tokenizer on both sides every token is a group of its own."""
    beta = parameters["beta"]

    def read(view: Pass) -> list[Part]:
        cross = _as_cross(view)
        step = max(1, _LOGITS // view.head.shape[0])
        total = view.hidden.new_zeros((), dtype=torch.float32)
        for first, last in _runs(cross.student, step):
            total = total + checkpoint(_groups, view, cross, slice(first, last), beta, use_reentrant=False)
        return [Part(total=total)]

    return Objective(read)


def _groups(view: Pass, cross: CrossTarget, chosen: slice, beta: float) -> Tensor:
    """The loss of some groups, from the tokens on either side that they are made of."""
    ours = _side(head_logits, view.hidden, view.head, view.batch.labels, cross.student[chosen])
    with torch.no_grad():
        theirs = _side(head_logits, cross.hidden, cross.head, cross.labels, cross.teacher[chosen])
    return byte_aligned(ours, theirs, cross.matched, beta=beta).sum()


def _side(logits: Any, hidden: Tensor, head: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    first, last = int(groups[0, 0]), int(groups[-1, 1]) + 1
    log_probs = logits(hidden[first:last], head).log_softmax(dim=-1)
    return merge_log_probs(log_probs, labels[first:last], groups - first)


def _runs(groups: Tensor, step: int) -> list[tuple[int, int]]:
    """Stretches of groups that are made of about `step` tokens each."""
    cuts, start = [], 0
    bounds: list[list[int]] = groups.tolist()
    for place, (_, last) in enumerate(bounds):
        if last + 1 - bounds[start][0] >= step or place + 1 == len(bounds):
            cuts.append((start, place + 1))
            start = place + 1
    return cuts


def _running(view: Pass, name: str) -> Any:
    teacher = teacher_of(view, name)
    if isinstance(teacher, SparseTarget):
        raise BugError(f"{name} was asked for with a stored signal")
    return teacher


def _as_cross(view: Pass) -> CrossTarget:
    teacher = _running(view, "byte_aligned")
    if isinstance(teacher, CrossTarget):
        return teacher
    count, vocabulary = len(view.batch.labels), view.head.shape[0]
    each = torch.arange(count, device=view.hidden.device)
    ids = torch.arange(vocabulary, device=view.hidden.device)
    pairs, same = torch.stack([each, each], dim=1), torch.stack([ids, ids], dim=1)
    return CrossTarget(teacher.hidden, teacher.head, view.batch.labels, pairs, pairs, same, each)


BINDERS: dict[str, Binder] = {"universal_logit": _universal_logit, "byte_aligned": _byte_aligned}
