"""Every objective of the catalogue has a function, every function its entry, and both keep their promises."""

from __future__ import annotations

import pytest
import torch

from kdstudio.catalogue.objectives import OBJECTIVES, Signal
from kdstudio.catalogue.training import ObjectiveTable
from kdstudio.distillation.divergences import DIVERGENCES
from kdstudio.distillation.objectives import FUNCTIONS, WeightedObjectives, needed_signals
from kdstudio.distillation.targets import DenseTarget, SparseTarget, Targets
from kdstudio.registry import parameters_of

EVERY = pytest.mark.parametrize("key", OBJECTIVES.keys())
GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(0, 11, (6,), generator=GENERATOR)
HIDDEN, HEAD = torch.randn(6, 4, generator=GENERATOR), torch.randn(11, 4, generator=GENERATOR)


def logits() -> torch.Tensor:
    return torch.randn(6, 11, generator=torch.Generator().manual_seed(1)).requires_grad_()


def targets(kind: str) -> Targets:
    log_probs, ids = (HIDDEN @ HEAD.t()).log_softmax(-1).topk(5)
    tail = torch.log1p(-log_probs.exp().sum(-1))
    return {
        "none": Targets(LABELS),
        "dense": Targets(LABELS, DenseTarget(HIDDEN, HEAD)),
        "sparse": Targets(LABELS, SparseTarget(ids, log_probs, tail)),
    }[kind]


def test_catalogue_and_functions_have_the_same_keys() -> None:
    assert set(OBJECTIVES.keys()) == set(FUNCTIONS)
    assert {entry.key for entry in OBJECTIVES if entry.family == "divergence"} == set(DIVERGENCES)


@EVERY
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_one_finite_loss_for_each_token_that_gradients_lower(key: str, kind: str) -> None:
    student = logits()
    defaults = OBJECTIVES[key].params().model_dump()
    loss = FUNCTIONS[key](student, targets(kind), **defaults)
    assert loss.shape == (6,)
    assert bool(loss.isfinite().all())
    assert bool((loss >= 0).all())
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    better = FUNCTIONS[key](student - 0.05 * gradient, targets(kind), **defaults)
    assert better.sum() < loss.sum()


@EVERY
def test_an_objective_needs_what_it_declares(key: str) -> None:
    if Signal.TEACHER_SIGNAL in OBJECTIVES[key].needs:
        with pytest.raises(Exception, match="without a teacher signal"):
            FUNCTIONS[key](logits(), targets("none"))
    else:
        FUNCTIONS[key](logits(), targets("none"))
    assert OBJECTIVES[key].reference.startswith("https://")
    assert all(parameter.help for parameter in parameters_of(OBJECTIVES[key].params))


@EVERY
def test_every_parameter_reaches_the_function(key: str) -> None:
    for parameter in parameters_of(OBJECTIVES[key].params):
        changed = {parameter.name: 0.3}
        ours = FUNCTIONS[key](logits(), targets("dense"), **changed)
        assert not torch.equal(ours, FUNCTIONS[key](logits(), targets("dense")))


def test_weights_and_several_objectives_add_up() -> None:
    tables = (
        ObjectiveTable(name="forward_kl", weight=2.0),
        ObjectiveTable(name="supervised", weight=0.5),
        ObjectiveTable(name="forward_kl", weight=1.0, parameters={"temperature": 2.0}),
    )
    weighted = WeightedObjectives(tables)
    total, parts = weighted(logits(), targets("dense"))
    assert weighted.labels() == ("forward_kl_1", "supervised", "forward_kl_2")
    assert total.item() == pytest.approx(2 * parts[0].item() + 0.5 * parts[1].item() + parts[2].item(), rel=1e-6)
    assert needed_signals(tables) == {Signal.TEACHER_SIGNAL, Signal.REFERENCE_TEXT}
