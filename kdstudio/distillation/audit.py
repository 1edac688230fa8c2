"""What is looked at before the first step, on a few rows: whether the numbers on the screen will mean what they say.

Most faults of distillation are silent. A teacher shifted by one token, a mask over the wrong text, a temperature on one
side only: the loss falls all the same, and the student learns something else. Each check here would catch one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.distillation.batches import Batch
from kdstudio.distillation.examples import Example
from kdstudio.distillation.forward import Embedded, head_weight, response_hidden
from kdstudio.distillation.kernels import label_log_probs, linear_divergence
from kdstudio.distillation.reporter import Reporter
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.targets import DenseTarget, SparseTarget, TeacherTarget
from kdstudio.distillation.teacher_signals import DenseTeacher, SignalSource
from kdstudio.errors import KnownError
from kdstudio.jobs.events import Checked
from kdstudio.models.conversation import Tokenizer

Level = Literal["good", "warning", "fault"]
_ROWS = 8
_TOKENS = 256
_NOT_NUMBERS = "Its last states hold NaN or infinity."
_ENOUGH_MASS, _LITTLE_MASS = 0.95, 0.5


@dataclass(frozen=True)
class Finding:
    """One line of the audit."""

    level: Level
    title: str
    detail: str = ""


@dataclass
class Audited:
    """What is checked. `source`: what objectives read of the teacher; `running`: its network where that is at hand."""

    network: PreTrainedModel
    tokenizer: Tokenizer
    rows: TrainingRows
    device: torch.device
    precision: Callable[[], AbstractContextManager[object]]
    source: SignalSource | None = None
    running: DenseTeacher | None = None
    teacher_tokenizer: Tokenizer | None = None
    divergences: Sequence[tuple[str, dict[str, Any]]] = ()

    def batch(self) -> Batch:
        """A few training rows of different lengths, at least one."""
        order = sorted(self.rows.training, key=lambda row: self.rows.examples[row].tokens)
        step = max(1, len(order) // _ROWS)
        return self.rows.batch(order[::step][:_ROWS], self.device)

    def student_hidden(self, batch: Batch) -> Tensor:
        """The student's states [N, H] in float32, in evaluation mode."""
        was_training = self.network.training
        self.network.train(False)
        with torch.no_grad(), self.precision():
            prefix = self.rows.prefix.to(self.device)
            hidden = response_hidden(self.network, batch, Embedded(self.network, batch, prefix)).float()
        self.network.train(was_training)
        return hidden


def report(job: Reporter, audited: Audited, *, stop: bool) -> None:
    """Journal every finding. Raises `KnownError` for the first fault if it is to `stop` the run."""
    found = audit(audited)
    for finding in found:
        job.emit(Checked(finding.level, finding.title, finding.detail))
    fault = next((finding for finding in found if finding.level == "fault"), None)
    if fault is not None and stop:
        raise KnownError(
            fault.title,
            f"{fault.detail} It was found before the first step; nothing was trained.",
            'Mend it, or set run.audit = "report" to train all the same.',
        )


def audit(audited: Audited) -> list[Finding]:
    """All findings, in the order of the checks. A few forward passes over at most eight rows."""
    batch = audited.batch()
    hidden = audited.student_hidden(batch)
    target = None if audited.source is None else audited.source.target(batch)
    if not isinstance(target, DenseTarget | SparseTarget):
        target = None
    found = [*_numbers(audited, hidden, target), *_mask(audited), *_padding(audited, batch, hidden)]
    found += [*_vocabulary(audited, target), *_leaks(audited.rows)]
    if any(finding.level == "fault" for finding in found):
        return found  # what follows would only echo it
    found += _itself(audited, hidden)
    if target is not None:
        found += [
            *_positions(batch, target, head_weight(audited.network).shape[0]),
            *_teacher_leads(audited, batch, hidden, target),
            *_mass(target),
        ]
        found += [*_same_teacher(audited, batch, target), *_gradient(audited, hidden, target)]
    return found


def _numbers(audited: Audited, hidden: Tensor, target: TeacherTarget | None) -> Iterator[Finding]:
    """Weights, states and signals are numbers."""
    for name, weight in audited.network.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            yield Finding("fault", "The student's weights hold values that are no numbers", name)
            return
    if not bool(torch.isfinite(hidden).all()):
        yield Finding("fault", "The student computes values that are no numbers", _NOT_NUMBERS)
    if isinstance(target, DenseTarget) and not bool(torch.isfinite(target.hidden).all()):
        yield Finding("fault", "The teacher computes values that are no numbers", _NOT_NUMBERS)
    if isinstance(target, SparseTarget):
        whole = target.log_probs.exp().sum(-1) + target.tail_log_prob.exp()
        if not bool(torch.isfinite(target.log_probs).all()) or bool(((whole - 1).abs() > 0.02).any()):
            detail = f"A token's masses sum to {float(whole.min()):.3f} at least, {float(whole.max()):.3f} at most."
            yield Finding("fault", "The stored signals are no distributions", detail)


def _mask(audited: Audited) -> Iterator[Finding]:
    """What is learnt is the response with the end of its turn, and nothing of the prompt."""
    for example in audited.rows.examples:
        if not len(example.response_ids):
            yield Finding("fault", "A row has nothing to learn", f"Response {example.response_id} has no tokens.")
            return
    for row in list(audited.rows.training)[:: max(1, audited.rows.count // _ROWS)]:
        fault = _mask_fault(audited.tokenizer, audited.rows.examples[row])
        if fault:
            yield Finding("fault", "The mask does not cover the response", fault)
            return
    example = audited.rows.examples[0]
    learnt = _text(audited.tokenizer, example.response_ids.tolist())
    read = _text(audited.tokenizer, example.prompt_ids.tolist())
    shown = f"Read: …{read[-60:]!r} Learnt: {learnt[:120]!r}"
    yield Finding("good", "The mask covers the responses and nothing else", shown)


def _mask_fault(tokenizer: Tokenizer, example: Example) -> str:
    learnt = _text(tokenizer, [token for token in example.response_ids.tolist() if token not in tokenizer.end_ids])
    wanted = " ".join(example.response.split())
    if wanted not in " ".join(learnt.split()):
        return f"Response {example.response_id} says {wanted[:80]!r}; learnt is {learnt[:80]!r}."
    if len(learnt) > len(example.response) + 40 and not example.rationale:
        return f"Response {example.response_id}: {len(learnt) - len(example.response)} more characters are learnt."
    if tokenizer.end_ids and int(example.response_ids[-1]) not in tokenizer.end_ids and not example.own:
        return f"Response {example.response_id} does not end its turn: a student of it would never stop."
    return ""


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return b"".join(tokenizer.piece(token) for token in ids).decode("utf-8", "replace")


def _padding(audited: Audited, batch: Batch, hidden: Tensor) -> Iterator[Finding]:
    """A row computes the same alone as among longer ones, and its places are those before its labels."""
    shared, width = len(audited.rows.prefix), batch.input_ids.shape[1]
    flat = batch.input_ids.flatten()
    for place, label, owner in zip(batch.where.tolist(), batch.labels.tolist(), batch.owner.tolist(), strict=True):
        row, column = divmod(place, width)
        example = batch.examples[owner]
        last = example.tokens - 2 - shared
        if row != owner or column > last or (column < last and int(flat[place + 1]) != label):
            detail = f"Response {example.response_id}: a state is compared with a token that does not follow it."
            yield Finding("fault", "Positions and labels are shifted", detail)
            return
    shortest = min(batch.rows, key=lambda row: audited.rows.examples[row].tokens)
    alone = audited.student_hidden(audited.rows.batch([shortest], audited.device))
    among = hidden[batch.owner == batch.rows.index(shortest)]
    gap = float((alone - among).abs().max() / alone.abs().max().clamp_min(1e-6))
    if not gap < 0.1:  # rounding of bf16 leaves about 0.02
        yield Finding("fault", "Padding changes what the student computes", f"By {gap:.0%} of its largest state.")
    else:
        yield Finding("good", "Positions and labels agree, and padding changes nothing")


def _vocabulary(audited: Audited, target: TeacherTarget | None) -> Iterator[Finding]:
    """Both number tokens alike, up to the ends of turns."""
    ours, size = audited.tokenizer, head_weight(audited.network).shape[0]
    highest = max(int(max(example.prompt_ids.max(), example.response_ids.max())) for example in audited.rows.examples)
    if highest >= size:
        yield Finding("fault", "A token has no place in the student", f"Token {highest:,} of {size:,} outcomes.")
        return
    if isinstance(target, DenseTarget) and target.head.shape[0] != size:
        detail = f"The teacher tells {target.head.shape[0]:,} outcomes apart, the student {size:,}."
        yield Finding("fault", "Teacher and student have vocabularies of different size", detail)
    if isinstance(target, SparseTarget) and int(target.ids.max()) >= size:
        detail = f"They name token {int(target.ids.max()):,}; the student has {size:,}."
        yield Finding("fault", "The stored signals are of another vocabulary", detail)
    theirs = audited.teacher_tokenizer
    if theirs is None or target is None:
        return
    different = next((n for n in range(min(size, theirs.vocabulary_size)) if theirs.piece(n) != ours.piece(n)), None)
    if different is not None:
        pieces = f"{theirs.piece(different)!r} to the teacher, {ours.piece(different)!r} to the student"
        detail = f"Token {different:,} is {pieces}."
        yield Finding("fault", "Teacher and student number tokens differently", detail)
    elif theirs.eos_id != ours.eos_id or theirs.end_ids != ours.end_ids:
        detail = f"The teacher ends a turn with token {theirs.eos_id}, the student with {ours.eos_id}."
        yield Finding("fault", "Special tokens do not agree", detail)
    elif theirs.template != ours.template:
        detail = "The student is trained with its own, in which the teacher has seen no text."
        yield Finding("warning", "Their chat templates differ", detail)
    else:
        yield Finding("good", "One vocabulary, the same special tokens and the same template")


def _leaks(rows: TrainingRows) -> Iterator[Finding]:
    """No held-out prompt is trained on under another number."""
    trained = {rows.examples[row].prompt_ids.tobytes() for row in rows.training}
    seen = sum(rows.examples[row].prompt_ids.tobytes() in trained for row in rows.held_out)
    if seen:
        detail = f"{seen} of {len(rows.held_out)} held-out rows ask what a training row asks too."
        yield Finding("warning", "The held-out measure is not of unseen prompts", detail)


def _itself(audited: Audited, hidden: Tensor) -> Iterator[Finding]:
    """A student compared with itself is at no distance."""
    states, head = hidden[:_TOKENS], head_weight(audited.network).detach()
    for name, parameters in audited.divergences or (("forward_kl", {}),):
        with torch.no_grad():
            value = float(linear_divergence(states, head, (states, head), name, **parameters).abs().max())
        if not value <= 1e-3:
            yield Finding("fault", "The student differs from itself", f"Its {name} to its own logits is {value:.2g}.")
            return
    yield Finding("good", "The student's divergence from itself is 0")


def _positions(batch: Batch, target: TeacherTarget, vocabulary: int) -> Iterator[Finding]:
    """The teacher finds the text likelier where it stands than one token further on or back.

    A teacher that finds it no likelier than chance anywhere says nothing of positions.
    """
    here = float(target.label_log_probs(batch.labels).mean())
    shifted, chance = max(_shifted(batch, target, step) for step in (-1, 1)), -math.log(vocabulary)
    detail = f"The text has {here:.2f} nats a token where it stands, {shifted:.2f} one token beside"
    if shifted > max(here + 0.1, chance):
        yield Finding("fault", "The teacher's positions are shifted", f"{detail}.")
    elif here < chance:
        detail = f"{detail}; chance alone would give {chance:.2f}."
        yield Finding("warning", "The teacher does not know these rows", detail)
    else:
        yield Finding("good", "The teacher looks at the same positions", f"{detail}.")


def _shifted(batch: Batch, target: TeacherTarget, step: int) -> float:
    """Mean log-prob of each label under the teacher's distribution `step` tokens further on in the same row."""
    labels, places = batch.labels, torch.arange(len(batch.labels), device=batch.labels.device)
    other = places + step
    inside = (other >= 0) & (other < len(labels))
    inside &= batch.owner[other.clamp(0, len(labels) - 1)] == batch.owner
    if not bool(inside.any()):
        return -torch.inf
    at, wanted = other[inside], labels[inside]
    if isinstance(target, DenseTarget):
        return float(label_log_probs(target.hidden[at], target.head, wanted).mean())
    hit = target.ids[at] == wanted.unsqueeze(1)
    known = torch.where(hit, target.log_probs[at].float(), -torch.inf).amax(dim=1)
    return float(torch.maximum(known, target.log_probs[at].float().amin(dim=1) - 2).mean())  # outside: below the last


def _teacher_leads(audited: Audited, batch: Batch, hidden: Tensor, target: TeacherTarget) -> Iterator[Finding]:
    """The teacher finds the rows likelier than the student does, or there is little to learn from it."""
    theirs = float(target.label_log_probs(batch.labels).mean())
    ours = float(label_log_probs(hidden, head_weight(audited.network), batch.labels).mean())
    figures = f"The teacher gives the responses {theirs:.2f} nats a token, the student {ours:.2f}."
    if theirs < ours - 0.05:
        yield Finding("warning", "The student knows these rows better than its teacher", figures)
    else:
        yield Finding("good", "The teacher knows these rows better than the student", figures)


def _mass(target: TeacherTarget) -> Iterator[Finding]:
    """A stored signal holds most of the teacher's mass."""
    if not isinstance(target, SparseTarget):
        return
    mass = float(target.log_probs.exp().sum(-1).clamp(max=1).mean())
    detail = f"{mass:.1%} of the teacher's mass is in the {target.ids.shape[1]} stored tokens; the rest is one bucket."
    if mass < _LITTLE_MASS:
        yield Finding("fault", "The stored signals hold too little", detail)
    elif mass < _ENOUGH_MASS:
        yield Finding("warning", "The stored signals leave much to the tail", detail)
    else:
        yield Finding("good", "The stored signals hold enough of the teacher's mass", detail)


def _same_teacher(audited: Audited, batch: Batch, target: TeacherTarget) -> Iterator[Finding]:
    """Stored signals are those of the teacher that is measured against."""
    if audited.running is None or not isinstance(target, SparseTarget):
        return
    now = audited.running.target(batch).label_log_probs(batch.labels)
    gap = float((now - target.label_log_prob).abs().mean())
    detail = f"Stored and computed log-probs differ by {gap:.3f} nats a token."
    if gap > 0.5:
        yield Finding("fault", "The stored signals are not this teacher's", detail)
    elif gap > 0.1:
        detail = f"{detail} Its file may be quantized."
        yield Finding("warning", "The stored signals are roughly this teacher's", detail)


def _gradient(audited: Audited, hidden: Tensor, target: TeacherTarget) -> Iterator[Finding]:
    """The kernel's gradient of each divergence is the slope of its value, along one direction."""
    head = head_weight(audited.network).detach().double()
    count = min(32, len(hidden))
    states = hidden[:count].double()
    teacher = target[slice(0, count)]
    signal = (teacher.hidden.double(), teacher.head.double()) if isinstance(teacher, DenseTarget) else teacher
    for name, parameters in audited.divergences:
        if name in ("adaptive_kl", "total_variation"):  # weights without gradients; corners
            continue
        leaf = states.clone().requires_grad_()
        torch.autograd.backward(linear_divergence(leaf, head, signal, name, **parameters).sum())
        gradient = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
        size = float(gradient.norm())
        if size < 1e-9:
            detail = f"The gradient of {name} is 0: is this the teacher itself?"
            yield Finding("warning", "There is nothing to learn", detail)
            return
        step = 1e-4 / size * gradient / size
        with torch.no_grad():
            rise, fall = (linear_divergence(states + sign * step, head, signal, name, **parameters) for sign in (1, -1))
            slope = float((rise - fall).sum()) / 2e-4
        if abs(slope - 1) > 0.02:
            yield Finding("fault", "A gradient is not the slope of its loss", f"{name}: {slope:.3f} instead of 1.")
            return
    if audited.divergences:
        yield Finding("good", "Gradients are the slopes of their losses")
