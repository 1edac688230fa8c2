"""Losses on what happens inside: hidden states of matched layers, and the last layer's relations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdstudio.distillation import similarity
from kdstudio.distillation.bound.base import Binder, Objective, Setting
from kdstudio.distillation.inner_states import Watch, same_depth, watched_layers
from kdstudio.distillation.passes import Part, Pass
from kdstudio.distillation.randomness import stream_seed
from kdstudio.errors import BadInput

_SAMPLED = 512  # tokens that the discrepancy compares at once: it is quadratic in them


class LayerPairs(Objective):
    """Compares the student's layers with the teacher's, the mean over pairs; `widths` differ: learnt projections."""

    def __init__(self, name: str, parameters: dict[str, Any], setting: Setting, *, filtered: bool = False) -> None:
        layers, others = setting.student["num_hidden_layers"], setting.teacher["num_hidden_layers"]
        self.ours = watched_layers(_numbers(parameters["student_layers"]), layers)
        theirs = _numbers(parameters["teacher_layers"])
        self.theirs = watched_layers(theirs, others) if theirs else same_depth(self.ours, layers, others)
        _check_map(name, self.ours, self.theirs, layers, others)
        widths = (int(setting.student["hidden_size"]), int(setting.teacher["hidden_size"]))
        generator = torch.Generator().manual_seed(stream_seed(setting.seed, "projection", name))
        self.filtered = filtered
        module = _projections(len(self.ours), widths, generator) if filtered or widths[0] != widths[1] else None
        super().__init__(self._parts, module)
        self._compare = _COMPARE[name]

    def watch(self) -> tuple[Watch, Watch]:
        """The matched layers."""
        return Watch(self.ours), Watch(self.theirs)

    def _parts(self, view: Pass) -> Sequence[Part]:
        if view.inner is None or view.teacher_inner is None:
            raise ValueError("this pass kept no inner states")
        total = view.hidden.new_zeros((), dtype=torch.float32)
        for place, (ours, theirs) in enumerate(zip(self.ours, self.theirs, strict=True)):
            student, teacher = view.inner.hidden[ours], view.teacher_inner.hidden[theirs]
            weight = None if self.module is None else self.module.get_parameter(str(place))
            total = total + self._compare(student, teacher, weight)
        return [Part(total=total / len(self.ours))]


def _projections(count: int, widths: tuple[int, int], generator: torch.Generator) -> nn.ParameterDict:
    """[teacher, student] matrices; the identity as far as it goes, with a little noise so that no direction is dead."""
    ours, theirs = widths
    made = nn.ParameterDict()
    for place in range(count):
        noise = torch.randn(theirs, ours, generator=generator) * (0.02 / ours**0.5)
        made[str(place)] = nn.Parameter(torch.eye(theirs, ours) + noise)
    return made


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())


def _check_map(name: str, ours: Sequence[int], theirs: Sequence[int], layers: int, others: int) -> None:
    if len(ours) != len(theirs) or not ours:
        detail = f"{name} has {len(ours)} student layers and {len(theirs)} teacher layers."
        raise BadInput("The layer map has gaps", detail, "Name as many teacher_layers as student_layers.")
    for who, chosen, count in (("student", ours, layers), ("teacher", theirs, others)):
        wrong = [layer for layer in chosen if not 1 <= layer <= count]
        if wrong:
            detail = f"{name} names layer {wrong[0]} of the {who}, which has {count}."
            raise BadInput(
                "The layer map names a layer that is not there", detail, "Count from 1, or from -1 backwards."
            )


def _each_token(function: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Callable[..., Tensor]:
    return lambda student, teacher, weight: function(student, teacher, weight).sum()


def _filtered(student: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
    """TED with the teacher's filter fixed to the identity: the student's is learnt with the run."""
    if weight is None:
        raise ValueError("a task-aware layer has a filter")
    identity = torch.eye(teacher.shape[1], dtype=teacher.dtype, device=teacher.device)
    return similarity.task_aware_layerwise(student, teacher, weight, identity).sum()


def _discrepancy(student: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
    """The whole pass's discrepancy counts as much as its tokens: times N, since the loss is a mean over tokens."""
    count = student.shape[0]
    chosen = torch.linspace(0, count - 1, min(count, _SAMPLED), device=student.device).long()
    ours = student[chosen] if weight is None else student[chosen].float() @ weight.t()
    return similarity.maximum_mean_discrepancy(ours, teacher[chosen]) * count


_COMPARE: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "hidden_mse": _each_token(similarity.hidden_mse),
    "hidden_cosine": _each_token(similarity.hidden_cosine),
    "maximum_mean_discrepancy": _discrepancy,
    "task_aware_layerwise": _filtered,
}


class Relations(Objective):
    """MiniLM's relations of the last layer: the mean over each row's tokens (prompt and response), then over rows."""

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        super().__init__(self._parts)
        self._name, self._heads = name, parameters["relation_heads"] or None

    def watch(self) -> tuple[Watch, Watch]:
        """Queries, keys and values."""
        return Watch(relations=True), Watch(relations=True)

    def _parts(self, view: Pass) -> Sequence[Part]:
        if view.inner is None or view.teacher_inner is None or view.inner.mask is None:
            raise ValueError("this pass kept no relations")
        ours, theirs, mask = view.inner.relations, view.teacher_inner.relations, view.inner.mask
        if self._name == "attention_relation":
            sides = (ours["query"], ours["key"], theirs["query"], theirs["key"])
            found = similarity.attention_relation(*sides, mask, heads=self._heads)
        else:
            found = similarity.value_relation(ours["value"], theirs["value"], mask, heads=self._heads)
        return [Part("row", total=(found.sum(dim=1) / mask.sum(dim=1)).sum())]


def _layers(name: str) -> Binder:
    return lambda parameters, setting: LayerPairs(name, parameters, setting, filtered=name == "task_aware_layerwise")


def _relations(name: str) -> Binder:
    return lambda parameters, _: Relations(name, parameters)


BINDERS: dict[str, Binder] = {
    **{name: _layers(name) for name in _COMPARE},
    **{name: _relations(name) for name in ("attention_relation", "value_relation")},
}
