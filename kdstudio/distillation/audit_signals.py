"""The audit of the teacher's signals: of these tokens, at these positions, from this teacher, and worth learning."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from kdstudio.distillation.audited import Audited, Finding
from kdstudio.distillation.batches import Batch
from kdstudio.distillation.forward import head_weight
from kdstudio.distillation.kernels import label_log_probs
from kdstudio.distillation.shaped_target import ShapedTarget
from kdstudio.distillation.targets import SparseTarget, TeacherTarget

_ROW_TOKENS, _COMPARED_TOKENS = 64, 64
_FEWEST_TOKENS = 8
_ENOUGH_MASS, _LITTLE_MASS = 0.95, 0.5
_PACKED = 2 / 255  # the vault keeps fourth roots of probabilities in 255 steps, and the label's log-prob beside them
_OTHER_LABELS = 0.05
_ROUGHLY, _ANOTHER = 0.04, 0.12  # total variation; llama.cpp and torch differ by 0.002 on 4 bits, 0.007 in bf16


def check_signals(audited: Audited, batch: Batch, hidden: Tensor, target: TeacherTarget) -> Iterator[Finding]:
    """What there is to say of the signals that the objectives read, from the first tokens of each row."""
    places, head = _first_tokens(batch), head_weight(audited.network)
    labels = batch.labels[places]
    theirs = target.label_log_probs(batch.labels) if isinstance(target, SparseTarget) else None
    known = _log_probs(target, places, labels) if theirs is None else theirs[places]
    other_text = _other_text(batch, target) if isinstance(target, SparseTarget) else None
    if other_text is not None:
        yield other_text
        return  # what follows would only echo it
    position = _position(batch, target, places, known, head.shape[0])
    lead = _lead(known, label_log_probs(hidden[places], head, labels))
    yield position
    if position.level == "good" or (position.level, lead.level) == ("warning", "warning"):
        yield lead  # otherwise it would echo or contradict
    if isinstance(target, SparseTarget):
        yield from _mass(target)
        yield from _same_teacher(audited)


def _first_tokens(batch: Batch) -> Tensor:
    """The places of each row's first tokens: what the head is applied to must not grow with the rows' length."""
    places = torch.arange(len(batch.labels), device=batch.labels.device)
    begins = torch.searchsorted(batch.owner, batch.owner)  # rows stand one after the other
    return places[places - begins < _ROW_TOKENS]


def _log_probs(target: TeacherTarget, places: Tensor, tokens: Tensor) -> Tensor:
    """What each of `tokens` has in the distribution at its place; outside a top-k a little less than the last."""
    if not isinstance(target, SparseTarget):
        return target[places].label_log_probs(tokens)
    log_probs = target.log_probs[places].float()
    hit = target.ids[places] == tokens.unsqueeze(1)
    return torch.maximum(log_probs.masked_fill(~hit, -torch.inf).amax(dim=1), log_probs.amin(dim=1) - 2)


def _other_text(batch: Batch, target: SparseTarget) -> Finding | None:
    """A label's own log-prob is the one it has among the top k, and outside them no larger than the last."""
    highest = target.log_probs.amax(dim=1)
    hit = target.ids == batch.labels.unsqueeze(1)
    among = ((target.log_probs.masked_fill(~hit, -torch.inf).amax(dim=1) - highest) / 4).exp()
    last = ((target.log_probs.amin(dim=1) - highest) / 4).exp()
    own = ((target.label_log_prob - highest) / 4).exp()
    off = torch.where(hit.any(dim=1), (own - among).abs(), own - last)
    wrong = float((~(off <= _PACKED)).float().mean())
    detail = f"At {wrong:.0%} of the tokens the label's log-prob does not belong to the distribution beside it."
    return Finding("fault", "The teacher's signals are of other text", detail) if wrong > _OTHER_LABELS else None


def _position(batch: Batch, target: TeacherTarget, places: Tensor, known: Tensor, vocabulary: int) -> Finding:
    """The teacher finds the text likelier where it stands than one token further on or back.

    A teacher that finds it no likelier than chance anywhere says nothing of positions.
    """
    chance, beside = -math.log(vocabulary), -math.inf
    here = f"The text has {known.mean():.2f} nats a token where it stands"
    for step in (-1, 1):
        at = _with_neighbour(batch, places, step)
        if not len(at):
            continue
        shifted = _log_probs(target, at + step, batch.labels[at])
        beside = max(beside, float(shifted.mean()))
        gain = shifted - _log_probs(target, at, batch.labels[at])
        if float(shifted.mean()) > chance and _is_clear(gain, 0.1, errors=4):
            detail = f"{here}, {shifted.mean():.2f} one token {'further on' if step > 0 else 'back'}."
            return Finding("fault", "The teacher's positions are shifted", detail)
    if _is_clear(chance - known, 0.0, errors=3):
        detail = f"{here}; chance alone would give {chance:.2f}."
        return Finding("warning", "The teacher does not know these rows", detail)
    return Finding("good", "The teacher looks at the same positions", f"{here}, {beside:.2f} one token beside.")


def _with_neighbour(batch: Batch, places: Tensor, step: int) -> Tensor:
    """Those places beside which, `step` further on, the same row has another token."""
    other = places + step
    inside = (other >= 0) & (other < len(batch.labels))
    places, other = places[inside], other[inside]
    same_row = batch.owner[other] == batch.owner[places]
    return places[same_row & (batch.labels[other] != batch.labels[places])]


def _is_clear(values: Tensor, by: float, *, errors: float) -> bool:
    """Whether the mean is above `by`, and by so many standard errors that it is no chance."""
    if len(values) < _FEWEST_TOKENS:
        return False
    beyond = values.cpu().double() - by
    return float(beyond.mean()) > errors * float(beyond.std()) / math.sqrt(len(values))


def _lead(theirs: Tensor, ours: Tensor) -> Finding:
    """The teacher finds the rows likelier than the student does, or there is little to learn from it."""
    figures = f"The teacher gives the responses {theirs.mean():.2f} nats a token, the student {ours.mean():.2f}."
    if _is_clear(ours - theirs, 0.05, errors=3):
        return Finding("warning", "The student knows these rows better than its teacher", figures)
    return Finding("good", "The teacher knows these rows better than the student", figures)


def _mass(target: SparseTarget) -> Iterator[Finding]:
    """A stored signal holds most of the teacher's mass."""
    mass = float(target.log_probs.exp().sum(-1).clamp(max=1).mean())
    shaped = isinstance(target, ShapedTarget)
    rest = "the rest is spread by the teacher's tail shape" if shaped else "the rest is one bucket"
    detail = f"{mass:.1%} of the teacher's mass is in the {target.ids.shape[1]} stored tokens; {rest}."
    bucket = "" if shaped else 'teacher.tail = "shaped" says how it is spread; '
    advice = f"A larger teacher.top_k would hold more; {bucket}dense signals hold all."
    if mass < _LITTLE_MASS:
        yield Finding("fault", "The stored signals hold too little", f"{detail} {advice}")
    elif mass < _ENOUGH_MASS:
        yield Finding("warning", "The stored signals leave much to the tail", f"{detail} {advice}")
    else:
        yield Finding("good", "The stored signals hold enough of the teacher's mass", detail)


def _same_teacher(audited: Audited) -> Iterator[Finding]:
    """Stored signals are those of the teacher that is measured against, at the same temperature."""
    batch = audited.known_batch()
    stored = None if batch is None else audited.target(batch)
    if batch is None or audited.running is None or not isinstance(stored, SparseTarget):
        return
    places = _first_tokens(batch)
    places = places[:: max(1, len(places) // _COMPARED_TOKENS)]
    dense, ids = audited.running.target(batch), stored.ids[places]
    now = dense[places].logits().softmax(dim=-1).gather(1, ids)
    before = stored.log_probs[places].exp()
    tails = (1 - now.sum(dim=-1)) - (1 - before.sum(dim=-1))
    distance = float(((now - before).abs().sum(dim=-1) + tails.abs()).mean() / 2)
    detail = f"Stored and computed probabilities differ by {distance:.1%}."
    if distance > _ANOTHER:
        yield Finding("fault", "The stored signals are not this teacher's", detail)
    elif distance > _ROUGHLY:
        yield Finding("warning", "The stored signals are roughly this teacher's", f"{detail} Is it another file of it?")
    else:
        yield Finding("good", "The stored signals are this teacher's", detail)
