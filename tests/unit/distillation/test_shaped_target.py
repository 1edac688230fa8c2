"""A shaped tail against float64 NumPy: what is formed, each divergence of it with its gradient, and the extremes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from kdstudio.distillation.divergences import DIVERGENCES, SPARSE
from kdstudio.distillation.head_terms import Room, dense_term
from kdstudio.distillation.kernels import fused_head
from kdstudio.distillation.shaped_target import ShapedTarget, TailFamily, shaped_target
from kdstudio.distillation.targets import SparseTarget, within
from kdstudio.teachers.signals import SHAPE_BYTES, SparseSignal
from kdstudio.teachers.tail_shape import RANK, TailShape, widened

TOKENS, VOCABULARY, TOP, WIDTH = 9, 37, 4, 6
CPU = torch.device("cpu")
Doubles = npt.NDArray[np.float64]


def shape() -> TailShape:
    rng = np.random.default_rng(1)
    mean = rng.standard_normal(VOCABULARY).astype(np.float16)
    directions = (rng.standard_normal((RANK, VOCABULARY)) / 4).astype(np.float16)
    return TailShape(mean, directions, np.arange(VOCABULARY, dtype=np.uint32), 100)


def signal(tail: float | None = None) -> SparseSignal:
    """Of `TOKENS` tokens; with a `tail` all have just this mass outside."""
    rng = np.random.default_rng(2)
    masses = rng.dirichlet(np.ones(TOP + 1), TOKENS)
    if tail is not None:
        masses[:, -1] = 0
        masses *= (1 - tail) / masses.sum(axis=1, keepdims=True)
        masses[:, -1] = tail
    masses[:, :TOP] = -np.sort(-masses[:, :TOP], axis=1)
    ids = np.stack([rng.permutation(VOCABULARY)[:TOP] for _ in range(TOKENS)]).astype(np.uint32)
    with np.errstate(divide="ignore"):
        log_masses = np.log(masses).astype(np.float32)
    codes = rng.integers(0, 256, (TOKENS, SHAPE_BYTES)).astype(np.uint8)
    return SparseSignal(ids, log_masses[:, :TOP], log_masses[:, TOP], log_masses[:, 0], codes)


def formed(stored: SparseSignal) -> Doubles:
    """[N, V] probabilities by the definition, one token after the other."""
    family, made = shape(), np.zeros((TOKENS, VOCABULARY))
    assert stored.shape is not None
    for row, place in enumerate(widened(stored.shape).astype(np.float64)):
        masses = np.exp(family.mean.astype(np.float64) + place @ family.directions.astype(np.float64))
        masses[stored.ids[row]] = 0
        made[row] = masses / masses.sum() * np.exp(np.float64(stored.tail_log_prob[row]))
        made[row, stored.ids[row]] = np.exp(stored.log_probs[row].astype(np.float64))
    return made


def target(stored: SparseSignal, outcomes: int | None = None) -> ShapedTarget:
    found = shaped_target(stored, TailFamily.of(shape(), outcomes, CPU), CPU)
    assert isinstance(found, ShapedTarget)
    return found


def student(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    return hidden.requires_grad_(), torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("tail", [None, 0.0, 1e-6, 1.0])
def test_the_distribution_is_the_definitions(tail: float | None) -> None:
    stored = signal(tail)
    found = target(stored).logits().double().exp().numpy()
    assert np.allclose(found, formed(stored), rtol=1e-4, atol=1e-9)
    assert np.allclose(found.sum(axis=1), 1, atol=1e-5)


def test_parts_of_the_tokens_are_formed_in_one_room() -> None:
    made, room = target(signal()), Room()
    whole = made.logits()
    for rows in (slice(0, 5), slice(5, 9)):
        assert torch.equal(made.logits_of(rows, room), made[rows].logits())
        assert torch.allclose(made.logits_of(rows, room), whole[rows], atol=1e-6)


@pytest.mark.parametrize("name", SPARSE)
def test_divergences_of_it_are_those_of_the_formed_distribution(name: str) -> None:
    """In value and gradient, with token weights, a chunk at a time."""
    made, (hidden, head) = target(signal()), student()
    weights = torch.linspace(0, 2, TOKENS, dtype=torch.float64)  # the first token is masked
    term = dense_term(name, made.logits_of)
    total, _ = fused_head(hidden, head, [(term, 1.0)], token_weights=weights, chunk=4)
    expected = DIVERGENCES[name](hidden @ head.t(), made.logits().double()) * weights
    assert torch.allclose(total, expected, atol=1e-5)
    (ours,), (theirs,) = (torch.autograd.grad(one.sum(), hidden) for one in (total, expected))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not ours[0].any()


def test_forward_kl_and_its_gradient_are_numpys() -> None:
    stored, (hidden, head) = signal(), student()
    p = formed(stored)
    logits = (hidden @ head.t()).detach().numpy()
    log_q = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    total, _ = fused_head(hidden, head, [(dense_term("forward_kl", target(stored).logits_of), 1.0)])
    (gradient,) = torch.autograd.grad(total.sum(), hidden)
    assert np.allclose(total.detach().numpy(), (p * (np.log(p) - log_q)).sum(axis=1), atol=1e-5)
    assert np.allclose(gradient.numpy(), (np.exp(log_q) - p) @ head.numpy(), atol=1e-5)


@pytest.mark.parametrize("tail", [None, 0.0, 1.0])
def test_a_student_that_says_the_same_is_at_no_distance(tail: float | None) -> None:
    made = target(signal(tail))
    hidden = made.logits().double().clamp_min_(-60).requires_grad_()  # through the head no infinity comes
    for name in ("forward_kl", "jensen_shannon", "total_variation"):
        total, _ = fused_head(hidden, torch.eye(VOCABULARY).double(), [(dense_term(name, made.logits_of), 1.0)])
        assert float(total.detach().abs().max()) < 1e-6
        assert float(torch.autograd.grad(total.sum(), hidden)[0].abs().max()) < 1e-6


def test_a_padded_vocabularys_further_ids_are_left_out() -> None:
    outcomes = VOCABULARY - 5
    stored = within(signal(), outcomes)
    made = target(stored, outcomes)
    assert made.outcomes == outcomes
    assert torch.allclose(made.logits().exp().sum(dim=1), torch.ones(TOKENS), atol=1e-5)


def test_without_a_shape_the_tail_stays_a_bucket() -> None:
    plain = SparseSignal(*(getattr(signal(), name) for name in ("ids", "log_probs", "tail_log_prob", "label_log_prob")))
    found = shaped_target(plain, TailFamily.of(shape(), None, CPU), CPU)
    assert type(found) is SparseTarget
