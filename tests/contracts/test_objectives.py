"""Every objective of the catalogue has code, all code its entry, and both keep their promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from kdstudio.catalogue.objectives import OBJECTIVES, TEACHER_SIGNALS, Signal
from kdstudio.catalogue.training import ObjectiveTable
from kdstudio.distillation.batches import Batch, pad
from kdstudio.distillation.bound.base import Setting
from kdstudio.distillation.divergences import DIVERGENCES
from kdstudio.distillation.inner_states import InnerStates, Watch
from kdstudio.distillation.objectives import BINDERS, Sums, WeightedObjectives, needed_signals
from kdstudio.distillation.passes import Pass
from kdstudio.distillation.targets import DenseTarget, SparseTarget, TeacherTarget
from kdstudio.registry import parameters_of
from tests.unit.distillation.setting import examples

SIZE, VOCABULARY = 8, 512
CONFIG = {"hidden_size": SIZE, "num_hidden_layers": 4}
SETTING = Setting(CONFIG, {**CONFIG, "num_hidden_layers": 6})
EVERY = pytest.mark.parametrize("key", OBJECTIVES.keys())
SPARSE = [
    entry.key for entry in OBJECTIVES if Signal.TEACHER_SIGNAL in entry.needs and Signal.ROLLOUTS not in entry.needs
]


POLICIES = ("minillm", "on_policy_as_reward", "grpo", "ppo")


def batch(key: str = "") -> Batch:
    """Three groups of two answers of different worth, half of them the student's own (a policy's: all)."""
    rows = [
        replace(
            example,
            group=place // 2 + 1,
            score=float((place % 2) ^ (place // 2 % 2)),
            own=bool(place % 2) or key in POLICIES,
            tags=(f"weight:{0.5 + place}",),
            rationale=len(example.response_ids) // 2,
        )
        for place, example in enumerate(examples(6))
    ]
    return pad(rows, tuple(range(6)))


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def target(kind: str, count: int, labels: torch.Tensor) -> TeacherTarget | None:
    dense = DenseTarget(draw(count, SIZE, seed=2), draw(VOCABULARY, SIZE, seed=3))
    if kind != "sparse":
        return dense if kind == "dense" else None
    whole = dense.logits().log_softmax(-1)
    log_probs, ids = whole.topk(5)
    tail = whole.scatter(1, ids, -torch.inf).logsumexp(-1)
    return SparseTarget(ids, log_probs, tail, dense.label_log_probs(labels))


def inner(watch: Watch, rows: Batch, seed: int) -> InnerStates:
    count, (width, length) = len(rows.labels), rows.input_ids.shape
    hidden = {layer: draw(count, SIZE, seed=seed + layer) for layer in watch.layers}
    relations = {
        name: draw(width, 2, length, 4, seed=seed + place) for place, name in enumerate(("query", "key", "value"))
    }
    return InnerStates(hidden, relations, torch.ones(width, length, dtype=torch.bool))


def view(key: str, kind: str = "dense", *, head_seed: int = 4, **parameters: Any) -> tuple[Pass, WeightedObjectives]:
    rows = batch(key)
    objectives = WeightedObjectives([ObjectiveTable(name=key, parameters=parameters)], SETTING)
    ours, theirs = objectives.watch()
    hidden = draw(len(rows.labels), SIZE, seed=5).requires_grad_()
    head = draw(VOCABULARY, SIZE, seed=head_seed).requires_grad_()
    made = Pass(rows, hidden, head, target(kind, len(rows.labels), rows.labels), share=0.5)
    made.inner, made.teacher_inner = inner(ours, rows, 20).leaves(), inner(theirs, rows, 40)
    made.reference = draw(len(rows.labels), seed=6).abs().neg()
    with torch.no_grad():
        made.extras = objectives.prepare(made)
    return made, objectives


COUNTS = {"token": 30, "row": 6, "unit": 3}


def loss_of(made: Pass, objectives: WeightedObjectives, *, backward: bool = True) -> float:
    sums = Sums()
    torch.manual_seed(0)
    objectives.run(made, COUNTS, sums, backward=backward)  # type: ignore[arg-type]
    return sums.loss


def test_catalogue_and_code_have_the_same_keys() -> None:
    assert set(OBJECTIVES.keys()) == set(BINDERS)
    assert {entry.key for entry in OBJECTIVES if entry.family == "divergence"} >= set(DIVERGENCES)
    assert [entry.key for entry in OBJECTIVES if entry.preset] == ["forward_kl", "supervised"]


@EVERY
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_small_step_against_the_gradient_lowers_the_loss(key: str, kind: str) -> None:
    if kind == "sparse" and key not in SPARSE:
        kind = "dense"
    made, objectives = view(key, kind)
    if objectives.modules:
        with torch.no_grad():  # heads that begin at zero would hide what reaches the student
            for parameter in objectives.modules.parameters():
                parameter.add_(draw(*parameter.shape, seed=7), alpha=0.1)
            made.extras = objectives.prepare(made)
    before = loss_of(made, objectives)
    leaves = [made.hidden, made.head, *made.inner.tensors(), *objectives.modules.parameters()] if made.inner else []
    moved = [leaf for leaf in leaves if leaf.grad is not None and bool(leaf.grad.any())]
    assert moved
    size = 1e-3 / max(float(leaf.grad.abs().max()) for leaf in moved if leaf.grad is not None)
    with torch.no_grad():
        for leaf in moved:
            if leaf.grad is not None:
                leaf.sub_(leaf.grad, alpha=size)
    vars(made).pop("log_probs", None)
    after = loss_of(made, objectives)
    # On-policy losses are surrogates: their value is no measure, but what they pull up must rise.
    if key in ("minillm", "on_policy_as_reward"):
        assert after != before
    else:
        assert after < before


@EVERY
def test_an_objective_needs_what_it_declares(key: str) -> None:
    if set(OBJECTIVES[key].needs) & TEACHER_SIGNALS and OBJECTIVES[key].family != "similarity":
        made, objectives = view(key, "none")
        with pytest.raises(Exception, match="without a teacher signal"):
            loss_of(made, objectives)
    assert OBJECTIVES[key].reference.startswith("https://")
    assert all(parameter.help for parameter in parameters_of(OBJECTIVES[key].params))


OTHER = {
    "loss": "hinge",
    "scale": "none",
    "student_layers": "1, 2",
    "teacher_layers": "1, 2, 3, 4",
    "relation_heads": 4,
    "draws": 3,
    "final_balance": 1.7,
}


@EVERY
def test_every_parameter_reaches_the_loss(key: str) -> None:
    for parameter in parameters_of(OBJECTIVES[key].params):
        value = OTHER.get(parameter.name, not parameter.default if parameter.kind == "bool" else 0.3)
        changed = {parameter.name: value}
        if parameter.name == "student_layers":
            changed["teacher_layers"] = "1, 2"
        if key in ("grpo", "ppo"):  # clipping shows once the policy has moved
            ours, plain = (moved(key, **chosen) for chosen in (changed, {}))
        else:
            ours, plain = (total(key, **chosen) for chosen in (changed, {}))
        assert not torch.equal(ours, plain), parameter.name


def total(key: str, **parameters: Any) -> torch.Tensor:
    """The loss and all gradients, in one row."""
    made, objectives = view(key, **parameters)
    value = loss_of(made, objectives)
    leaves = [made.hidden, made.head, *(made.inner.tensors() if made.inner else [])]
    found = [leaf.grad.flatten() if leaf.grad is not None else torch.zeros(1) for leaf in leaves]
    return torch.cat([torch.tensor([value, float(len(found))]), *found])


def moved(key: str, **parameters: Any) -> torch.Tensor:
    made, objectives = view(key, **parameters)
    noise = draw(len(made.batch.labels), seed=8)
    made.extras["old_log_probs"] = made.extras["old_log_probs"] + noise
    if "old_values" in made.extras:
        made.extras["old_values"] = made.extras["old_values"] + noise
    value = loss_of(made, objectives)
    parts = [torch.tensor([value])]
    parts += [leaf.grad.flatten() for leaf in (made.hidden, made.head) if leaf.grad is not None]
    return torch.cat(parts)


def test_weights_and_several_objectives_add_up() -> None:
    tables = (
        ObjectiveTable(name="forward_kl", weight=2.0),
        ObjectiveTable(name="supervised", weight=0.5),
        ObjectiveTable(name="forward_kl", weight=1.0, parameters={"temperature": 2.0}),
    )
    weighted = WeightedObjectives(tables, SETTING)
    rows = batch()
    made = Pass(
        rows,
        draw(len(rows.labels), SIZE, seed=5).requires_grad_(),
        draw(VOCABULARY, SIZE, seed=4).requires_grad_(),
        target("dense", len(rows.labels), rows.labels),
    )
    sums = Sums()
    weighted.run(made, COUNTS, sums)  # type: ignore[arg-type]
    parts = sums.parts
    assert weighted.labels == ("forward_kl_1", "supervised", "forward_kl_2")
    assert sums.loss == pytest.approx(2 * parts["forward_kl_1"] + 0.5 * parts["supervised"] + parts["forward_kl_2"])
    assert needed_signals(tables) == {Signal.TEACHER_SIGNAL, Signal.REFERENCE_TEXT}
