"""The audit of what the networks compute: numbers, at the right places, the same for a row wherever it is read."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.distillation.audited import Audited, Finding
from kdstudio.distillation.batches import Batch
from kdstudio.distillation.examples import Example
from kdstudio.distillation.rollouts import evaluating
from kdstudio.distillation.targets import SparseTarget, TeacherTarget, WholeTarget
from kdstudio.distillation.teacher_signals import RunningTeacher

_NOT_NUMBERS = "Its last states or its head hold NaN or infinity."
_ROUNDING = 0.25  # of a state's length; that of bf16 leaves about 0.03
_CHANCE = 0.02
_NEW_ROW = -1  # no such row is remembered: whoever can read it has its network


def check_numbers(audited: Audited, hidden: Tensor, target: TeacherTarget | None) -> Iterator[Finding]:
    """Weights, states and signals are numbers, and stored masses sum to one."""
    for name, weight in audited.network.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            yield Finding("fault", "The student's weights hold values that are no numbers", name)
            return
    if not bool(torch.isfinite(hidden).all()):
        yield Finding("fault", "The student computes values that are no numbers", _NOT_NUMBERS)
    count = None if target is None else len(target.ids if isinstance(target, SparseTarget) else target)
    if count not in (None, len(hidden)):
        detail = f"They are of {count:,} tokens; the rows have {len(hidden):,}."
        yield Finding("fault", "The teacher's signals are of other text", detail)
    read = () if target is None or isinstance(target, SparseTarget) else target.members
    if not all(bool(part.isfinite().all()) for member in read for part in (member.hidden, member.head)):
        yield Finding("fault", "The teacher computes values that are no numbers", _NOT_NUMBERS)
    if isinstance(target, SparseTarget):
        whole = target.log_probs.exp().sum(-1) + target.tail_log_prob.exp()
        off = (whole - 1).abs()
        if not (bool((off <= 0.02).all()) and float(off.mean()) <= 0.005):  # NaN is neither
            detail = f"A token's masses sum to {float(whole.min()):.3f} at least, {float(whole.max()):.3f} at most."
            yield Finding("fault", "The stored signals are no distributions", detail)


def check_places(audited: Audited, batch: Batch, hidden: Tensor) -> Iterator[Finding]:
    """A state stands before the token it predicts, and a row computes the same alone as among longer ones."""
    for place, example in enumerate(batch.examples):
        if not _in_its_places(batch, place, example):
            detail = f"Response {example.response_id}: a state is compared with a token that does not follow it."
            yield Finding("fault", "Positions and labels are shifted", detail)
            return
    with evaluating([audited.network]):
        fault = _not_itself("student", audited, audited.network, batch, hidden)
    yield fault or Finding("good", "Positions and labels agree, and padding changes nothing")


def check_teacher_states(audited: Audited, batch: Batch, target: WholeTarget) -> Iterator[Finding]:
    """The teacher reads the very rows that the student reads; only where its network is still there."""
    teacher = audited.source if isinstance(audited.source, RunningTeacher) else audited.running
    if teacher is None or not teacher.can_read([_NEW_ROW]):
        return
    for member, found in zip(teacher.members, target.members, strict=True):
        fault = _not_itself("teacher", audited, member.network(), batch, found.hidden)
        if fault:
            yield fault
            return
    yield Finding("good", "The teacher reads the rows that the student reads")


def _in_its_places(batch: Batch, place: int, example: Example) -> bool:
    own, count = batch.owner == place, len(example.response_ids)
    ids, where = [*example.prompt_ids.tolist(), *example.response_ids.tolist()], batch.where[own]
    return (
        batch.labels[own].tolist() == ids[-count:]
        and batch.input_ids.flatten()[where].tolist() == ids[-count - 1 : -1]
        and bool((where // batch.input_ids.shape[1] == place).all())
    )


def _not_itself(who: str, audited: Audited, network: PreTrainedModel, batch: Batch, hidden: Tensor) -> Finding | None:
    """The fault of a network that computes something else for the shortest row when it is read by itself."""
    place = min(range(len(batch.examples)), key=lambda place: batch.examples[place].tokens)
    first, second = (audited.alone(network, batch.examples[place]) for _ in range(2))
    apart = _apart(second, first)
    if not apart < _CHANCE:
        detail = f"Its states differ by {apart:.0%} of their length: is dropout left on?"
        return Finding("fault", f"The {who} does not compute the same twice", detail)
    apart = _apart(hidden[batch.owner == place], first)
    if not apart < _ROUNDING:
        title = "Padding changes what the student computes" if who == "student" else "The teacher reads other rows"
        detail = f"Response {batch.examples[place].response_id}, read alone, gives states that differ by {apart:.0%}."
        return Finding("fault", title, detail)
    return None


def _apart(states: Tensor, others: Tensor) -> float:
    """How far two states [n, H] of a token are apart at most, as a share of their length."""
    return float(((states - others).norm(dim=-1) / others.norm(dim=-1).clamp_min(1e-6)).max())
