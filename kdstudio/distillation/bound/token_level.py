"""Losses at each token: divergences from the teacher, and text to be written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdstudio.distillation.bound.base import Binder, Objective, Setting, dense_of, signal_of
from kdstudio.distillation.bound.row_level import Pairs
from kdstudio.distillation.divergences import SPARSE
from kdstudio.distillation.head_terms import HeadTerm, LabelTerm, SampledTerm, dense_term, sparse_term
from kdstudio.distillation.passes import Part, Pass, no_value
from kdstudio.distillation.shaped_target import ShapedTarget
from kdstudio.distillation.stored_signals import DrawnTarget
from kdstudio.distillation.targets import WholeTarget


def divergence_term(view: Pass, name: str, **parameters: float) -> HeadTerm:
    """The divergence `name` from whatever signal the pass has."""
    teacher = signal_of(view, name)
    if isinstance(teacher, WholeTarget | ShapedTarget):
        return dense_term(name, teacher.logits_of, **parameters)
    return sparse_term(name, teacher.ids, teacher.log_probs, teacher.tail_log_prob, **parameters)


def _divergence(name: str) -> Binder:
    def bind(parameters: dict[str, Any], _: Setting) -> Objective:
        return Objective(lambda view: [Part(term=divergence_term(view, name, **parameters))])

    return bind


def _contrastive_skew(parameters: dict[str, Any], _: Setting) -> Objective:
    """(2 - b) skew KL on the teacher's text and b skew reverse KL on the student's own, b from 1 to its final balance.

    Ko et al. 2025 (DistiLLM-2), https://arxiv.org/abs/2503.07067, equation 8 with the curriculum of section 3.3.
    """
    final = parameters["final_balance"]
    shared = {name: parameters[name] for name in ("alpha", "temperature")}

    def read(view: Pass) -> list[Part]:
        balance = 1 + (final - 1) * view.share
        own = view.batch.of_rows([float(example.own) for example in view.batch.examples])[view.batch.owner]
        return [
            Part(term=divergence_term(view, "skew_kl", **shared), token_weights=(2 - balance) * (1 - own)),
            Part(term=divergence_term(view, "skew_reverse_kl", **shared), token_weights=balance * own),
        ]

    return Objective(read)


def _random_sampled(parameters: dict[str, Any], _: Setting) -> Objective:
    """Stored draws, or new ones in each pass from torch's generator, whose state a checkpoint holds."""
    draws = parameters["draws"]

    def read(view: Pass) -> list[Part]:
        if isinstance(view.teacher, DrawnTarget):
            return [Part(term=SampledTerm(view.teacher.ids, view.teacher.counts))]
        teacher = dense_of(view, "random_sampled_topk")
        rows = max(1, (1 << 23) // teacher.outcomes)
        ids = torch.cat(
            [
                torch.multinomial(teacher[first : first + rows].logits().softmax(-1), draws, replacement=True)
                for first in range(0, len(view.batch.labels), rows)
            ]
        )
        return [Part(term=SampledTerm(ids, torch.ones_like(ids)))]

    return Objective(read)


def imitated(view: Pass) -> Tensor | None:
    """[N] 1 at tokens of text that is worth writing, 0 at the student's own and at a preference's lesser responses.

    None where all of it is.
    """
    examples, best = view.batch.examples, set(Pairs.of(view.batch.examples).better)
    kept = [not example.own and (not example.group or place in best) for place, example in enumerate(examples)]
    return None if all(kept) else view.batch.of_rows(kept)[view.batch.owner]


def _text(view: Pass, smoothing: float, weights: Tensor | None) -> list[Part]:
    if weights is not None and not bool(weights.any()):
        return [Part(total=no_value(view.hidden))]
    return [Part(term=LabelTerm(view.batch.labels, smoothing), token_weights=weights)]


def _times(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one * other


def _supervised(parameters: dict[str, Any], _: Setting) -> Objective:
    smoothing, weighed = parameters["label_smoothing"], parameters["row_weights"]

    def read(view: Pass) -> list[Part]:
        weights = view.batch.of_rows([example.weight for example in view.batch.examples]) if weighed else None
        spread = None if weights is None else weights[view.batch.owner]
        return _text(view, smoothing, _times(spread, imitated(view)))

    return Objective(read)


def _rationale(parameters: dict[str, Any], _: Setting) -> Objective:
    """L = L_answer + lambda L_rationale: Hsieh et al. 2023, https://arxiv.org/abs/2305.02301, equation 3."""

    def read(view: Pass) -> list[Part]:
        weights = torch.where(rationale_mask(view), parameters["rationale_weight"], 1.0)
        return _text(view, 0.0, _times(weights, imitated(view)))

    return Objective(read)


def rationale_mask(view: Pass) -> Tensor:
    """[N] True at the tokens of reasoning."""
    flags = [torch.arange(len(example.response_ids)) < example.rationale for example in view.batch.examples]
    return torch.cat(flags).to(view.batch.labels.device)


def _weighted_tokens(parameters: dict[str, Any], _: Setting) -> Objective:
    """Weights floor + (1 - floor) p(label): after FIGA, Guo et al. 2023, https://arxiv.org/abs/2311.04072."""
    floor = parameters["floor"]

    def read(view: Pass) -> list[Part]:
        signal_of(view, "weighted_tokens")
        weights = floor + (1 - floor) * view.teacher_log_probs.exp()
        return [Part(term=LabelTerm(view.batch.labels), token_weights=weights)]

    return Objective(read)


BINDERS: dict[str, Binder] = {
    **{name: _divergence(name) for name in SPARSE},
    "contrastive_skew": _contrastive_skew,
    "random_sampled_topk": _random_sampled,
    "supervised": _supervised,
    "rationale_multitask": _rationale,
    "weighted_tokens": _weighted_tokens,
}
