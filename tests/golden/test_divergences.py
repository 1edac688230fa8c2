"""The divergences against references written from the papers, and at the edges where formulas break."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kdstudio.distillation.divergences import DIVERGENCES, bucket_log_probs, forward_kl, sparse
from kdstudio.distillation.supervised import cross_entropy
from tests.golden import reference_divergences as reference

REFERENCES = {"forward_kl": (reference.forward_kl, reference.bucketed_forward_kl)}
EVERY = pytest.mark.parametrize("name", DIVERGENCES)
TEMPERATURES = pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])


def draw(
    rows: int = 6, vocabulary: int = 23, *, seed: int = 0, scale: float = 3.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64).mul(scale).to(dtype)


def top_k(teacher: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    log_probs = teacher.log_softmax(-1)
    values, ids = log_probs.topk(k)
    return ids, values, log_probs.scatter(1, ids, -torch.inf).logsumexp(-1)


def test_every_divergence_has_a_reference() -> None:
    assert set(REFERENCES) == set(DIVERGENCES)


@EVERY
@TEMPERATURES
def test_dense_equals_the_reference(name: str, temperature: float) -> None:
    student, teacher = draw(seed=1), draw(seed=2)
    ours = DIVERGENCES[name](student, teacher, temperature=temperature).numpy()
    expected = REFERENCES[name][0](student.numpy(), teacher.numpy(), temperature)
    np.testing.assert_allclose(ours, expected, atol=1e-10, rtol=0)


@EVERY
@TEMPERATURES
@pytest.mark.parametrize("k", [1, 5, 22])
def test_sparse_equals_the_bucketed_reference(name: str, temperature: float, k: int) -> None:
    student, teacher = draw(seed=3), draw(seed=4)
    ids, log_probs, tail = top_k(teacher, k)
    ours = sparse(name, student, ids, log_probs, tail, temperature=temperature).numpy()
    expected = REFERENCES[name][1](student.numpy(), teacher.numpy(), ids.numpy(), temperature)
    np.testing.assert_allclose(ours, expected, atol=1e-10, rtol=0)


@EVERY
@TEMPERATURES
def test_sparse_is_dense_when_k_is_the_vocabulary(name: str, temperature: float) -> None:
    student, teacher = draw(seed=5).requires_grad_(), draw(seed=6)
    log_probs, ids = teacher.log_softmax(-1).sort(descending=True)
    tail = torch.full(
        (6,), -30.0, dtype=torch.float64
    )  # a store's rounding may leave this: no token is there to hold it
    dense = DIVERGENCES[name](student, teacher, temperature=temperature)
    (expected,) = torch.autograd.grad(dense.sum(), student)
    bucketed = sparse(name, student, ids, log_probs, tail, temperature=temperature)
    (gradient,) = torch.autograd.grad(bucketed.sum(), student)
    torch.testing.assert_close(bucketed, dense, atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)


@EVERY
def test_equal_distributions_give_zero(name: str) -> None:
    teacher = draw(rows=50, vocabulary=997, seed=7, dtype=torch.float32)
    ids, log_probs, tail = top_k(teacher, 50)
    assert DIVERGENCES[name](teacher.clone(), teacher).abs().max() <= 1e-6
    assert DIVERGENCES[name](teacher + 100, teacher).abs().max() <= 1e-5  # a shift of all logits changes nothing
    assert sparse(name, teacher.clone(), ids, log_probs, tail).abs().max() <= 1e-6


@EVERY
def test_never_negative_on_a_thousand_random_pairs(name: str) -> None:
    for scale in (0.01, 1.0, 30.0):
        student = draw(1000, 61, seed=8, scale=scale, dtype=torch.float32)
        teacher = draw(1000, 61, seed=9, scale=scale, dtype=torch.float32)
        ids, log_probs, tail = top_k(teacher, 7)
        assert DIVERGENCES[name](student, teacher).min() >= 0
        assert sparse(name, student, ids, log_probs, tail).min() >= 0


@EVERY
@TEMPERATURES
def test_gradients_are_those_of_the_value(name: str, temperature: float) -> None:
    student, teacher = draw(3, 11, seed=10).requires_grad_(), draw(3, 11, seed=11)
    ids, log_probs, tail = top_k(teacher, 4)
    assert torch.autograd.gradcheck(lambda z: DIVERGENCES[name](z, teacher, temperature=temperature), student)
    assert torch.autograd.gradcheck(lambda z: sparse(name, z, ids, log_probs, tail, temperature=temperature), student)


@EVERY
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    student, teacher = draw(seed=12).requires_grad_(), draw(seed=13).requires_grad_()
    torch.autograd.backward(DIVERGENCES[name](student, teacher).sum())
    assert student.grad is not None
    assert teacher.grad is None


def test_bucket_gradient_is_right_for_any_use_of_the_buckets() -> None:
    logits, ids = draw(3, 9, seed=14).requires_grad_(), torch.tensor([[0, 4], [8, 2], [3, 1]])
    assert torch.autograd.gradcheck(lambda z: bucket_log_probs(z, ids) ** 2, logits)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = draw(31, 17, seed=15).requires_grad_(), draw(31, 17, seed=16)
    ids, log_probs, tail = top_k(teacher, 3)
    whole = forward_kl(student, teacher), sparse("forward_kl", student, ids, log_probs, tail)
    monkeypatch.setattr("kdstudio.distillation.divergences._CHUNK_ELEMENTS", 17 * 4)
    blocks = forward_kl(student, teacher), sparse("forward_kl", student, ids, log_probs, tail)
    for one, other in zip(whole, blocks, strict=True):
        assert torch.equal(one, other)
        first, second = torch.autograd.grad(one.sum(), student), torch.autograd.grad(other.sum(), student)
        assert torch.equal(first[0], second[0])


def test_what_the_teacher_rules_out_adds_nothing() -> None:
    student = torch.tensor([[0.3, -0.2, 5.0, 1.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, 2.0, -torch.inf, -torch.inf]], dtype=torch.float64)
    value = forward_kl(student, teacher)
    expected = reference.forward_kl(student.detach().numpy(), teacher.numpy())
    np.testing.assert_allclose(value.detach().numpy(), expected, atol=1e-12)
    torch.autograd.backward(value.sum())
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
    torch.testing.assert_close(student.grad, student.detach().softmax(-1) - teacher.softmax(-1))


def test_what_both_rule_out_adds_nothing_and_what_only_the_student_rules_out_is_infinite() -> None:
    teacher = torch.tensor([[1.0, 2.0, -torch.inf], [1.0, 2.0, 3.0]])
    student = torch.tensor([[2.0, 1.0, -torch.inf], [1.0, 2.0, -torch.inf]])
    both, alone = forward_kl(student, teacher).tolist()
    assert math.isfinite(both)
    assert alone == math.inf


def test_a_sparse_signal_without_a_tail_is_finite() -> None:
    student = draw(2, 8, seed=17).requires_grad_()
    ids, log_probs = torch.tensor([[1, 5], [0, 7]]), torch.tensor([[0.75, 0.25], [1.0, 0.0]], dtype=torch.float64).log()
    value = sparse("forward_kl", student, ids, log_probs, torch.full((2,), -torch.inf, dtype=torch.float64))
    q = student.detach().softmax(-1)
    expected = [0.75 * math.log(0.75 / q[0, 1]) + 0.25 * math.log(0.25 / q[0, 5]), -math.log(q[1, 0])]
    np.testing.assert_allclose(value.detach().numpy(), expected, atol=1e-12)
    torch.autograd.backward(value.sum())
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


def test_a_tiny_tail_keeps_its_digits() -> None:
    # 1 - (1 - 2e-31) is 0 in any float: only a log-sum-exp over the rest can see this tail.
    student = torch.tensor([[0.0, -71.0, -71.0]], dtype=torch.float64, requires_grad=True)
    buckets = bucket_log_probs(student, torch.tensor([[0]]))
    assert buckets[0, 1].item() == pytest.approx(-71 + math.log(2), abs=1e-12)
    ids, log_probs = torch.tensor([[0]]), torch.tensor([[math.log1p(-1e-3)]], dtype=torch.float64)
    value = sparse("forward_kl", student, ids, log_probs, torch.tensor([math.log(1e-3)], dtype=torch.float64))
    expected = (1 - 1e-3) * math.log(1 - 1e-3) + 1e-3 * (math.log(1e-3) + 71 - math.log(2))
    assert value.item() == pytest.approx(expected, rel=1e-9)
    torch.autograd.backward(value.sum())
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), [[1e-3, -5e-4, -5e-4]], rtol=1e-9)


def test_a_store_that_rounds_leaves_no_floor_under_the_loss() -> None:
    teacher = draw(20, 200, seed=18, dtype=torch.float32)
    ids, log_probs, tail = top_k(teacher, 20)
    rounded = sparse("forward_kl", teacher, ids, log_probs.half().float(), tail.half().float())
    assert rounded.max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_widened(dtype: torch.dtype) -> None:
    student, teacher = draw(seed=19).to(dtype).requires_grad_(), draw(seed=20).to(dtype)
    ids, log_probs, tail = top_k(teacher.float(), 5)
    for value in (forward_kl(student, teacher), sparse("forward_kl", student, ids, log_probs, tail)):
        assert value.dtype == torch.float32
        (gradient,) = torch.autograd.grad(value.sum(), student)
        assert gradient.dtype == dtype
    exact = forward_kl(student.double(), teacher.double())
    torch.testing.assert_close(forward_kl(student, teacher).double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_the_reference(smoothing: float) -> None:
    student, labels = draw(seed=21), torch.tensor([0, 22, 5, 5, 7, 1])
    ours = cross_entropy(student, labels, label_smoothing=smoothing).numpy()
    expected = reference.cross_entropy(student.numpy(), labels.numpy(), smoothing)
    np.testing.assert_allclose(ours, expected, atol=1e-10, rtol=0)
