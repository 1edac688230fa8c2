"""The divergences against references written from the papers, and at the edges where formulas break."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kdstudio.distillation.divergences import (
    DIVERGENCES,
    SPARSE,
    bucket_log_probs,
    ensemble_log_probs,
    forward_kl,
    random_sampled,
    sparse,
)
from kdstudio.distillation.supervised import cross_entropy
from kdstudio.errors import BadInput
from tests.golden import reference_divergences as reference

EVERY = pytest.mark.parametrize("name", DIVERGENCES)
EVERY_SPARSE = pytest.mark.parametrize("name", SPARSE)
PARAMETERS: dict[str, list[dict[str, float]]] = {
    "jensen_shannon": [{"beta": 0.0}, {"beta": 0.1}, {"beta": 0.9}, {"beta": 1.0}],
    "symmetric_kl": [{"weight": 0.0}, {"weight": 0.3}, {"weight": 1.0}],
    "skew_kl": [{"alpha": 0.0}, {"alpha": 0.01}, {"alpha": 0.5}, {"alpha": 1.0}],
    "skew_reverse_kl": [{"alpha": 0.0}, {"alpha": 0.01}, {"alpha": 0.5}, {"alpha": 1.0}],
    "adaptive_kl": [{"head_mass": 0.0}, {"head_mass": 0.8}, {"head_mass": 1.0}],
    "alpha_beta": [
        {"alpha": alpha, "beta": beta}
        for alpha, beta in [
            (1, 0),
            (0, 1),
            (0.5, 0),
            (0, 0.5),
            (0.5, -0.5),
            (0, 0),
            (0.5, 0.5),
            (-0.3, 0.9),
            (1.5, 0.2),
        ]
    ],
}
EVERY_CHOICE = pytest.mark.parametrize(
    ("name", "chosen"), [(name, chosen) for name, choices in PARAMETERS.items() for chosen in choices]
)
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
    assert set(reference.OF_TWO) == set(DIVERGENCES)


@EVERY
@TEMPERATURES
def test_dense_equals_the_reference(name: str, temperature: float) -> None:
    student, teacher = draw(seed=1), draw(seed=2)
    ours = DIVERGENCES[name](student, teacher, temperature=temperature).numpy()
    expected = reference.dense(name, student.numpy(), teacher.numpy(), temperature)
    np.testing.assert_allclose(ours, expected, atol=1e-10, rtol=0)


@EVERY_CHOICE
def test_every_parameter_equals_the_reference(name: str, chosen: dict[str, float]) -> None:
    student, teacher = draw(seed=1, scale=2.0), draw(seed=2, scale=2.0)
    ours = DIVERGENCES[name](student, teacher, **chosen).numpy()
    expected = reference.dense(name, student.numpy(), teacher.numpy(), **chosen)
    np.testing.assert_allclose(ours, expected, atol=1e-10, rtol=1e-12)


def test_the_alpha_beta_divergence_is_continuous_in_its_limits() -> None:
    student, teacher = draw(seed=1, scale=1.0), draw(seed=2, scale=1.0)
    for alpha, beta in ((1, 0), (0, 1), (0.5, -0.5), (0, 0)):
        here = DIVERGENCES["alpha_beta"](student, teacher, alpha=alpha, beta=beta)
        beside = DIVERGENCES["alpha_beta"](student, teacher, alpha=alpha - 1e-5, beta=beta + 2e-5)
        torch.testing.assert_close(here, beside, rtol=1e-3, atol=1e-3)
    for alpha, beta, name in ((1, 0, "forward_kl"), (0, 1, "reverse_kl")):
        limit = DIVERGENCES["alpha_beta"](student, teacher, alpha=alpha, beta=beta)
        torch.testing.assert_close(limit, DIVERGENCES[name](student, teacher), rtol=1e-12, atol=1e-12)


@EVERY_SPARSE
@TEMPERATURES
@pytest.mark.parametrize("k", [1, 5, 22])
def test_sparse_equals_the_bucketed_reference(name: str, temperature: float, k: int) -> None:
    student, teacher = draw(seed=3), draw(seed=4)
    ids, log_probs, tail = top_k(teacher, k)
    ours = sparse(name, student, ids, log_probs, tail, temperature=temperature).numpy()
    expected = reference.bucketed(name, student.numpy(), teacher.numpy(), ids.numpy(), temperature)
    np.testing.assert_allclose(ours, expected, atol=1e-10, rtol=0)


@EVERY_SPARSE
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
    if name in SPARSE:
        assert sparse(name, teacher.clone(), ids, log_probs, tail).abs().max() <= 1e-6


@EVERY
def test_never_negative_on_a_thousand_random_pairs(name: str) -> None:
    for scale in (0.01, 1.0, 30.0):
        student = draw(1000, 61, seed=8, scale=scale, dtype=torch.float32)
        teacher = draw(1000, 61, seed=9, scale=scale, dtype=torch.float32)
        ids, log_probs, tail = top_k(teacher, 7)
        assert DIVERGENCES[name](student, teacher).min() >= 0
        if name in SPARSE:
            assert sparse(name, student, ids, log_probs, tail).min() >= 0


@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "adaptive_kl"])
@TEMPERATURES
def test_gradients_are_those_of_the_value(name: str, temperature: float) -> None:
    student, teacher = draw(3, 11, seed=10).requires_grad_(), draw(3, 11, seed=11)
    ids, log_probs, tail = top_k(teacher, 4)
    assert torch.autograd.gradcheck(lambda z: DIVERGENCES[name](z, teacher, temperature=temperature), student)
    if name in SPARSE:
        assert torch.autograd.gradcheck(
            lambda z: sparse(name, z, ids, log_probs, tail, temperature=temperature), student
        )


@EVERY_CHOICE
def test_gradients_are_those_of_the_value_for_every_parameter(name: str, chosen: dict[str, float]) -> None:
    student, teacher = draw(3, 11, seed=10, scale=1.5).requires_grad_(), draw(3, 11, seed=11, scale=1.5)
    if name == "adaptive_kl":  # its weights are constants by definition: the gradient is that of the weighted sum
        p, q = reference.softmax(teacher.numpy()), reference.softmax(student.detach().numpy())
        gaps = [reference.adaptive_shares(p[row], q[row], chosen["head_mass"]) for row in range(3)]
        weights = torch.tensor([rest / (head + rest) for head, rest in gaps], dtype=torch.float64)
        forward, reverse = forward_kl(student, teacher), DIVERGENCES["reverse_kl"](student, teacher)
        (expected,) = torch.autograd.grad(((1 - weights) * forward + weights * reverse).sum(), student)
        (ours,) = torch.autograd.grad(DIVERGENCES[name](student, teacher, **chosen).sum(), student)
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)
    else:
        assert torch.autograd.gradcheck(lambda z: DIVERGENCES[name](z, teacher, **chosen), student)


@EVERY
@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_extreme_logits_have_finite_values_and_gradients(name: str, scale: float) -> None:
    student = draw(20, 31, seed=30, scale=scale, dtype=torch.float32).requires_grad_()
    teacher = draw(20, 31, seed=31, scale=scale, dtype=torch.float32)
    value = DIVERGENCES[name](student, teacher)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert bool(value.isfinite().all())
    assert bool(gradient.isfinite().all())


@EVERY
def test_what_is_no_number_is_never_hidden(name: str) -> None:
    for fault in (torch.nan, torch.inf):
        broken = draw(4, 9, seed=32)
        broken[2, 3] = fault
        for student, teacher in ((broken, draw(4, 9, seed=33)), (draw(4, 9, seed=33), broken)):
            value = DIVERGENCES[name](student, teacher)
            assert bool(value[2].isnan())
            assert bool(value[[0, 1, 3]].isfinite().all())


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("jensen_shannon", {"beta": 1.5}),
        ("skew_kl", {"alpha": -0.1}),
        ("adaptive_kl", {"head_mass": math.nan}),
        ("alpha_beta", {"alpha": 3.0}),
        ("forward_kl", {"temperature": 0.0}),
        ("forward_kl", {"temperature": math.inf}),
    ],
)
def test_parameters_without_a_meaning_are_refused(name: str, chosen: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="not defined there"):
        DIVERGENCES[name](draw(2, 5), draw(2, 5), **chosen)


@EVERY
def test_different_vocabularies_are_refused_unless_the_formula_is_for_them(name: str) -> None:
    student, teacher = draw(4, 9, seed=34).requires_grad_(), draw(4, 13, seed=35)
    if name != "universal_logit":
        with pytest.raises(BadInput, match="token by token"):
            DIVERGENCES[name](student, teacher)
        return
    for ours, theirs in ((student, teacher), (teacher.clone().requires_grad_(), student.detach())):
        expected = [
            reference.universal_logit(p, q)
            for p, q in zip(reference.softmax(theirs.numpy()), reference.softmax(ours.detach().numpy()), strict=True)
        ]
        value = DIVERGENCES[name](ours, theirs)
        np.testing.assert_allclose(value.detach().numpy(), expected, atol=1e-10)
        assert torch.autograd.gradcheck(lambda z, other=theirs: DIVERGENCES[name](z, other), ours)


def test_sorting_needs_every_probability() -> None:
    student = draw(seed=36)
    with pytest.raises(BadInput, match="whole distribution"):
        sparse("universal_logit", student, *top_k(student, 5))


def test_an_ensemble_is_the_weighted_mean_of_probabilities() -> None:
    parts = [draw(seed=seed).log_softmax(-1) for seed in (40, 41, 42)]
    expected = reference.ensemble([part.numpy() for part in parts], [1.0, 0.0, 3.0])
    np.testing.assert_allclose(ensemble_log_probs(parts, [1.0, 0.0, 3.0]).numpy(), expected, atol=1e-10)
    torch.testing.assert_close(ensemble_log_probs(parts[:1]), parts[0])
    for weights in ([0.0, 0.0, 0.0], [1.0, -1.0, 1.0], [1.0]):
        with pytest.raises(BadInput, match="no mean"):
            ensemble_log_probs(parts, weights)


def test_random_draws_equal_the_reference_and_are_unbiased() -> None:
    student, teacher = draw(2, 9, seed=43).requires_grad_(), draw(2, 9, seed=44)
    p = teacher.softmax(-1)
    ids, counts = torch.tensor([[1, 4, 0], [3, 8, 2]]), torch.tensor([[2, 5, 0], [1, 1, 1]])
    expected = reference.random_sampled(student.detach().numpy(), ids.numpy(), counts.numpy())
    np.testing.assert_allclose(random_sampled(student, ids, counts).detach().numpy(), expected, atol=1e-10)
    assert torch.autograd.gradcheck(lambda z: random_sampled(z, ids, counts), student)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(p, 40_000, replacement=True, generator=generator)
    tally = torch.stack([torch.bincount(row, minlength=9) for row in drawn])
    (found,) = torch.autograd.grad(random_sampled(student, torch.arange(9).expand(2, 9), tally).sum(), student)
    (whole,) = torch.autograd.grad(forward_kl(student, teacher).sum(), student)
    torch.testing.assert_close(found, whole, atol=0.02, rtol=0)


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
    monkeypatch.setattr("kdstudio.distillation.divergences.BLOCK_ELEMENTS", 17 * 4)
    blocks = forward_kl(student, teacher), sparse("forward_kl", student, ids, log_probs, tail)
    for one, other in zip(whole, blocks, strict=True):
        assert torch.equal(one, other)
        first, second = torch.autograd.grad(one.sum(), student), torch.autograd.grad(other.sum(), student)
        assert torch.equal(first[0], second[0])


def test_what_the_teacher_rules_out_adds_nothing() -> None:
    student = torch.tensor([[0.3, -0.2, 5.0, 1.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, 2.0, -torch.inf, -torch.inf]], dtype=torch.float64)
    value = forward_kl(student, teacher)
    expected = reference.dense("forward_kl", student.detach().numpy(), teacher.numpy())
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
