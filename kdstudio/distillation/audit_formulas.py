"""The audit of the divergences: 0 from oneself, something to learn from the teacher, and gradients that are slopes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kdstudio.distillation.audited import Audited, Finding
from kdstudio.distillation.forward import head_logits, head_weight
from kdstudio.distillation.kernels import linear_divergence
from kdstudio.distillation.targets import DenseTarget, MixedTarget, SparseTarget, TeacherTarget

_TOKENS, _SLOPE_TOKENS, _OUTCOMES = 256, 32, 4096
_NO_DISTANCE, _NOTHING = 1e-3, 1e-4  # nats a token; what the vault rounds away of a signal is 4e-5
_STEP, _WRONG_SLOPE, _GROUND = 1e-5, 0.02, 1e-5
_CONSTANT_WEIGHTS = ("adaptive_kl",)  # their gradient is not the slope, by definition
Signal = SparseTarget | Tensor | tuple[Tensor, Tensor]
Divergence = tuple[str, dict[str, Any]]


def check_itself(audited: Audited, hidden: Tensor, target: TeacherTarget | None) -> Iterator[Finding]:
    """A student compared with itself is at no distance, by the way in which it will be compared with the teacher."""
    states, head = hidden[:_TOKENS], head_weight(audited.network).detach()
    own: Signal = (states, head)
    if isinstance(target, SparseTarget):
        states = states[:_SLOPE_TOKENS]
        own = _top_of(head_logits(states, head), target.ids.shape[1])
    for name, parameters in audited.divergences or (("forward_kl", {}),):
        with torch.no_grad():
            value = float(linear_divergence(states, head, own, name, **parameters).abs().max())
        if not value <= _NO_DISTANCE:
            yield Finding("fault", "The student differs from itself", f"Its {name} to its own logits is {value:.2g}.")
            return
    yield Finding("good", "The student's divergence from itself is 0")


def _top_of(logits: Tensor, k: int) -> SparseTarget:
    """What would be stored of a teacher with these logits [n, V]."""
    log_probs = logits.log_softmax(dim=-1)
    top, ids = log_probs.topk(min(k, log_probs.shape[1]), dim=-1)
    tail = log_probs.scatter(1, ids, -torch.inf).logsumexp(dim=-1)
    return SparseTarget(ids, top, tail, top[:, 0])


def check_gradient(audited: Audited, hidden: Tensor, target: TeacherTarget) -> Iterator[Finding]:
    """There is a distance to go, and the kernel's gradient of each divergence is the slope of its value."""
    if not audited.divergences:
        return
    head, few = _shared(head_weight(audited.network).detach(), target), slice(0, min(_TOKENS, len(hidden)))
    with torch.no_grad():  # by one measure for all: some divergences are small wherever they are
        distance = float(linear_divergence(hidden[few], head, _signal(target[few]), "forward_kl").mean())
    if distance < _NOTHING:
        detail = f"Student and teacher are {distance:.1g} nats a token apart: is this the teacher itself?"
        yield Finding("warning", "There is nothing to learn", detail)
        return
    count = min(_SLOPE_TOKENS, len(hidden))
    few_outcomes = _few_outcomes(hidden[:count], head, target[slice(0, count)])
    for divergence in audited.divergences:
        if divergence[0] in _CONSTANT_WEIGHTS:
            continue
        fault = _slope_fault(divergence, *few_outcomes)
        if fault:
            yield Finding("fault", "A gradient is not the slope of its loss", fault)
            return
    yield Finding("good", "Gradients are the slopes of their losses")


def _shared(head: Tensor, target: TeacherTarget) -> Tensor:
    """The student's head without ids that only pad its vocabulary."""
    return head if isinstance(target, SparseTarget) else head[: target.outcomes]


def _signal(target: TeacherTarget) -> Signal:
    if isinstance(target, MixedTarget):
        return target.logits()
    return (target.hidden, target.head) if isinstance(target, DenseTarget) else target


def _few_outcomes(states: Tensor, head: Tensor, target: TeacherTarget) -> tuple[Tensor, Tensor, Signal]:
    """The same comparison in float64 over at most a few thousand outcomes: whole heads in it would fill the memory."""
    states = _exact(states)
    if isinstance(target, MixedTarget):
        return states, _exact(head[:_OUTCOMES]), _exact(target.logits()[:, :_OUTCOMES])
    if isinstance(target, DenseTarget):
        theirs = (_exact(target.hidden), _exact(target.head[:_OUTCOMES]))
        return states, _exact(head[:_OUTCOMES]), theirs
    ids, label = target.ids.cpu(), _exact(target.label_log_prob)
    log_probs, tail = _exact(target.log_probs), _exact(target.tail_log_prob)
    if head.shape[0] <= _OUTCOMES:
        return states, _exact(head), SparseTarget(ids, log_probs, tail, label)
    kept = min(ids.shape[1], _OUTCOMES // 2 // len(ids))
    tail = torch.cat([log_probs[:, kept:], tail.unsqueeze(1)], dim=1).logsumexp(dim=1)
    ids, log_probs = ids[:, :kept].contiguous(), log_probs[:, :kept]
    taken = torch.zeros(head.shape[0], dtype=torch.bool)
    taken[ids.flatten()] = True
    taken[: _OUTCOMES // 2] = True
    outcomes = taken.nonzero().squeeze(1)
    renumbered = torch.searchsorted(outcomes, ids)
    return states, _exact(head[outcomes.to(head.device)]), SparseTarget(renumbered, log_probs, tail, label)


def _exact(part: Tensor) -> Tensor:
    return part.cpu().double()  # in this order: Apple's GPUs know no float64


def _slope_fault(divergence: Divergence, states: Tensor, head: Tensor, signal: Signal) -> str:
    """How the gradients to states [n, H] and to the head [V, H] differ from the rise of the value along them; "" if
    they do not.
    """
    name, parameters = divergence
    leaves = [states.clone().requires_grad_(), head.clone().requires_grad_()]
    values = linear_divergence(leaves[0], leaves[1], signal, name, **parameters)
    if float(values.detach().mean()) < _GROUND:
        return ""  # there the slope is lost in rounding
    torch.autograd.backward(values.sum())
    for place, what in enumerate(("the states", "the head")):
        gradient = leaves[place].grad
        size = 0.0 if gradient is None else float(gradient.norm())
        if gradient is None or not size:
            return f"{name} has none to {what}."
        step = gradient * (_STEP / size)
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                moved = [leaf + sign * step if leaf is leaves[place] else leaf for leaf in leaves]
                ends.append(float(linear_divergence(moved[0], moved[1], signal, name, **parameters).sum()))
        slope = (ends[0] - ends[1]) / (2 * _STEP)
        if not abs(slope - size) <= _WRONG_SLOPE * size + 1e-6:
            return f"{name} to {what}: {slope / size:.3f} instead of 1."
    return ""
