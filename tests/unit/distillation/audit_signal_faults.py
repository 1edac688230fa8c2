"""Faults of teachers, stored signals and formulas, each seeded into a sound pair: most would let the loss fall."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdstudio.distillation import divergence_formulas, head_terms, kernels
from kdstudio.distillation.audit import Audited
from kdstudio.distillation.batches import Batch
from kdstudio.distillation.divergence_formulas import Outcomes, forward_kl, reverse_kl
from kdstudio.distillation.examples import Example
from kdstudio.distillation.targets import DenseTarget, SparseTarget
from kdstudio.distillation.teacher_signals import DenseTeacher
from kdstudio.teachers.signals import SparseSignal
from tests.unit.distillation.audit_setting import (
    CPU,
    Patch,
    network,
    pair,
    plain,
    rows_of,
    schooled_network,
    seeded,
    spoilt,
    stored,
    student,
    unsharp,
)

OTHER_ROWS, OTHER_TEXT = "The teacher reads other rows", "The teacher's signals are of other text"
BESIDE, OTHER_TEACHER = "The teacher's positions are shifted", "The stored signals are not this teacher's"
NO_DISTRIBUTION = "The stored signals are no distributions"
SLOPE, ITSELF = "A gradient is not the slope of its loss", "The student differs from itself"


# --------------------------------------------------------------------------------------------------------- the networks
def roll(step: int) -> Callable[[DenseTarget, Batch], DenseTarget]:
    """Each row's states, `step` tokens further on."""

    def change(target: DenseTarget, batch: Batch) -> DenseTarget:
        parts = [target.hidden[batch.owner == row].roll(step, dims=0) for row in range(len(batch.examples))]
        return DenseTarget(torch.cat(parts), target.head)

    return change


@seeded("fault", BESIDE)
def the_teacher_is_a_token_late(tmp: Path, patch: Patch) -> Audited:
    return spoilt(unsharp(), roll(1))


@seeded("fault", BESIDE)
def the_teacher_is_a_token_early(tmp: Path, patch: Patch) -> Audited:
    return spoilt(pair(), roll(-1))


@seeded("fault", OTHER_ROWS)
def the_running_teacher_is_a_token_late(tmp: Path, patch: Patch) -> Audited:
    return spoilt(pair(), roll(1), gone=False)


@seeded("warning", "The student knows these rows better than its teacher")
def teacher_and_student_are_swapped(tmp: Path, patch: Patch) -> Audited:
    return pair(teacher=student(), student=schooled_network())


@seeded("fault", "The student's weights hold values that are no numbers")
def a_weight_of_the_student_is_nan(tmp: Path, patch: Patch) -> Audited:
    made = student()
    with torch.no_grad():
        made.get_submodule("model.layers.0.mlp.up_proj").get_parameter("weight")[3, 5] = torch.nan
    return pair(student=made)


@seeded("fault", "The teacher computes values that are no numbers")
def the_teacher_overflows(tmp: Path, patch: Patch) -> Audited:
    teacher = schooled_network()
    with torch.no_grad():
        teacher.get_submodule("model.norm").get_parameter("weight")[7] = torch.inf
    return pair(teacher=teacher)


@seeded("fault", OTHER_ROWS)
def the_teacher_reads_no_system_prompt(tmp: Path, patch: Patch) -> Audited:
    rows = rows_of(plain())
    short = [replace(one, prompt_ids=one.prompt_ids[len(rows.prefix) :]) for one in rows.examples]
    bare = rows_of(short, share_prefix=False)
    dense = DenseTeacher(schooled_network(), bare, CPU, contextlib.nullcontext)
    return spoilt(pair(rows), lambda _, batch: dense.target(bare.batch(batch.rows, CPU)), gone=False)


@seeded("fault", OTHER_ROWS)
def remembered_states_are_of_other_rows(tmp: Path, patch: Patch) -> Audited:
    made = pair()
    if isinstance(made.running, DenseTeacher):
        batch = made.batch()
        made.running.keep(batch, made.running.target(batch).hidden.flip(0))
    return made


@seeded("fault", "The teacher does not compute the same twice")
def dropout_is_left_on_in_the_teacher(tmp: Path, patch: Patch) -> Audited:
    teacher, place = schooled_network(), "model.layers.0.mlp.down_proj"
    teacher.set_submodule(place, nn.Sequential(teacher.get_submodule(place), nn.Dropout(0.1)))
    made = pair(teacher=teacher)
    teacher.train()
    return made


@seeded("fault", "The student does not compute the same twice")
def dropout_of_the_student_never_ends(tmp: Path, patch: Patch) -> Audited:
    made = student()
    layer = made.get_submodule("model.layers.0.mlp")
    layer.register_forward_hook(lambda _, __, output: nn.functional.dropout(output, 0.1, training=True))
    return pair(student=made)


# ------------------------------------------------------------------------------------------------------- stored signals
def in_memory(tmp: Path, change: Callable[[SparseTarget], SparseTarget], top_k: int = 20) -> Audited:
    """Signals of a teacher that has gone, changed after they were read."""
    return spoilt(unsharp(tmp, top_k=top_k), lambda target, _: change(target))


def without_tail(signal: Any) -> Any:
    """What was left outside the top k is forgotten."""
    return replace(signal, tail_log_prob=0 * signal.tail_log_prob - np.inf)


@seeded("fault", NO_DISTRIBUTION)
def a_temperature_is_left_in_the_signals(tmp: Path, patch: Patch) -> Audited:
    def softened(target: SparseTarget) -> SparseTarget:
        return SparseTarget(target.ids, target.log_probs / 2, target.tail_log_prob / 2, target.label_log_prob / 2)

    return in_memory(tmp, softened)


@seeded("fault", OTHER_TEACHER)
def signals_were_stored_at_temperature_2(tmp: Path, patch: Patch) -> Audited:
    return unsharp(tmp, temperature=2.0)


@seeded("fault", NO_DISTRIBUTION)
def the_tail_is_forgotten(tmp: Path, patch: Patch) -> Audited:
    return in_memory(tmp, without_tail, top_k=5)


@seeded("fault", OTHER_TEXT)
def the_tail_was_forgotten_in_the_vault(tmp: Path, patch: Patch) -> Audited:
    return replace(unsharp(tmp, change=without_tail, top_k=5), running=None)


@seeded("fault", NO_DISTRIBUTION)
def a_stored_tail_is_nan(tmp: Path, patch: Patch) -> Audited:
    return in_memory(tmp, lambda target: replace(target, tail_log_prob=target.tail_log_prob * torch.nan))


@seeded("fault", "The stored signals hold too little")
def the_top_k_is_too_small(tmp: Path, patch: Patch) -> Audited:
    return unsharp(tmp, top_k=1)


@seeded("warning", "The stored signals leave much to the tail")
def the_top_k_is_small(tmp: Path, patch: Patch) -> Audited:
    return unsharp(tmp, top_k=5)


def signals_of(tmp: Path, change: Callable[[Example], np.ndarray[Any, Any]]) -> Audited:
    """Rows beside the stored signals of other text."""
    others = [replace(one, response_ids=change(one)) for one in plain()]
    return replace(pair(), source=stored(tmp, rows_of(others)).source, running=None)


@seeded("fault", OTHER_TEXT)
def the_store_is_of_other_text(tmp: Path, patch: Patch) -> Audited:
    return signals_of(tmp, lambda one: one.response_ids[::-1].copy())


@seeded("fault", OTHER_TEXT)
def the_store_is_of_shorter_text(tmp: Path, patch: Patch) -> Audited:
    return signals_of(tmp, lambda one: one.response_ids[1:])


@seeded("fault", OTHER_TEXT)
def stored_signals_are_a_token_late(tmp: Path, patch: Patch) -> Audited:
    def late(signal: SparseSignal) -> SparseSignal:
        log_probs, tail = np.roll(signal.log_probs, 1, axis=0), np.roll(signal.tail_log_prob, 1)
        return SparseSignal(np.roll(signal.ids, 1, axis=0), log_probs, tail, signal.label_log_prob)

    return replace(stored(tmp, change=late), running=None)


@seeded("fault", OTHER_TEACHER)
def the_store_is_of_another_teacher(tmp: Path, patch: Patch) -> Audited:
    return replace(stored(tmp, teacher=network()), running=pair().running)


@seeded("fault", OTHER_TEACHER)
def the_store_is_of_another_teacher_that_read_what_is_held_out(tmp: Path, patch: Patch) -> Audited:
    made = the_store_is_of_another_teacher(tmp, patch)
    if made.running is not None:
        made.running.remember(list(made.rows.held_out), going_on=lambda *_: True)
        made.running.forget_body()
    return made


# --------------------------------------------------------------------------------------------------------- the formulas
@seeded("fault", ITSELF)
def a_divergence_is_a_cross_entropy(tmp: Path, patch: Patch) -> Audited:
    def wrong(both: Outcomes) -> tuple[Tensor, Tensor]:
        return both.times(both.p, both.log_q).sum(dim=-1).neg(), both.p.neg()

    patch.setitem(divergence_formulas.FORMULAS, "forward_kl", wrong)
    return pair()


@seeded("fault", ITSELF)
def the_top_k_is_made_to_sum_to_one(tmp: Path, patch: Patch) -> Audited:
    def renormalised(log_probs: Tensor, tail: Tensor, *, whole: bool) -> Tensor:
        return torch.cat([log_probs.log_softmax(dim=-1), torch.full_like(log_probs[:, :1], -torch.inf)], dim=-1)

    patch.setattr(head_terms, "bucketed_teacher", renormalised)
    return stored(tmp, top_k=5)


@seeded("fault", SLOPE)
def a_slope_lacks_a_factor(tmp: Path, patch: Patch) -> Audited:
    def wrong(both: Outcomes) -> tuple[Tensor, Tensor]:
        value, slope = reverse_kl(both)
        return value, slope * 0.9

    patch.setitem(divergence_formulas.FORMULAS, "reverse_kl", wrong)
    return pair(divergences=(("forward_kl", {}), ("reverse_kl", {"temperature": 2.0})))


@seeded("fault", SLOPE)
def a_slope_is_another_divergence_s(tmp: Path, patch: Patch) -> Audited:
    def wrong(both: Outcomes) -> tuple[Tensor, Tensor]:
        return forward_kl(both)[0], reverse_kl(both)[1]

    patch.setitem(divergence_formulas.FORMULAS, "forward_kl", wrong)
    return stored(tmp)


@seeded("fault", SLOPE)
def the_head_s_gradient_is_doubled(tmp: Path, patch: Patch) -> Audited:
    walk = kernels._walk

    def doubled(*given: Any) -> tuple[Tensor, dict[str, Tensor]]:
        values, gradients = walk(*given)
        return values, {name: 2 * item if name == "head" else item for name, item in gradients.items()}

    patch.setattr(kernels, "_walk", doubled)
    return pair()
