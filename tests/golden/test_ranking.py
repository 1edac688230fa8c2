"""The ranking losses against references written from the papers, and at the edges where formulas break."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from kdstudio.distillation.ranking import dpo, ipo, kto, kto_unpaired, orpo, pro, ranknet, rrhf, simpo, spin
from kdstudio.errors import BadInput, KnownError
from tests.golden import reference_ranking as reference

PAIRS: dict[str, Callable[..., Tensor]] = {
    "dpo": dpo,
    "smoothed": partial(dpo, label_smoothing=0.2),
    "hinge": partial(dpo, loss="hinge"),
    "ipo": ipo,
    "kto": partial(kto, baseline=torch.tensor(0.7)),
    "orpo": orpo,
    "simpo": simpo,
    "spin": spin,
}
EVERY_PAIR = pytest.mark.parametrize("name", PAIRS)
LISTS: dict[str, Callable[..., Tensor]] = {"rrhf": partial(rrhf, margin=0.3), "pro": pro, "ranknet": ranknet}
EVERY_LIST = pytest.mark.parametrize("name", LISTS)
SCORES = torch.tensor([[3.0, 1.0, 2.0, 0.5], [1.0, 1.0, 1.0, 1.0], [0.2, 0.9, 0.9, -4.0]], dtype=torch.float64)
"""All different, all tied, two tied at the top."""
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1], [0, 1, 1, 1]]).bool()


def draw(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Log-probabilities: negative numbers."""
    generator = torch.Generator().manual_seed(seed)
    return -torch.randn(*shape, generator=generator, dtype=torch.float64).abs().mul(scale).add(1e-3).to(dtype)


def four(seed: int, rows: int = 7, scale: float = 5.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chosen, rejected, reference_chosen, reference_rejected = draw(4, rows, seed=seed, scale=scale)
    return chosen, rejected, reference_chosen, reference_rejected


def columns(tensors: tuple[Tensor, ...]) -> reference.Array:
    return torch.stack(tensors, dim=1).numpy()


def gradient(value: Tensor, source: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(value.sum(), source)
    return result


def finite(value: Tensor, *sources: Tensor) -> None:
    slopes = torch.autograd.grad(value.sum(), sources)
    assert all(bool(tensor.isfinite().all()) for tensor in (value, *slopes))


def close(ours: Tensor, expected: reference.Array) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), expected, atol=1e-10, rtol=0)


# ------------------------------------------------------------------------------------------------------------ pairs


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_losses_with_a_reference_equal_theirs(beta: float) -> None:
    tensors = four(1)
    pairs = columns(tensors)
    close(dpo(*tensors, beta=beta), reference.dpo(pairs, beta))
    close(dpo(*tensors, beta=beta, label_smoothing=0.15), reference.dpo(pairs, beta, 0.15))
    close(dpo(*tensors, beta=beta, loss="hinge"), reference.dpo_hinge(pairs, beta))
    close(ipo(*tensors, beta=beta), reference.ipo(pairs, beta))
    close(spin(*tensors, beta=beta), reference.spin(pairs, beta))


def test_losses_without_a_reference_equal_theirs() -> None:
    chosen, rejected, *_ = four(2, scale=1.0)
    for weight in (0.0, 0.1, 2.0):
        close(orpo(chosen, rejected, weight=weight), reference.orpo(chosen.numpy(), rejected.numpy(), weight))
    for beta, gamma in ((2.0, 1.0), (10.0, 0.0), (0.5, -0.3)):
        expected = reference.simpo(chosen.numpy(), rejected.numpy(), beta, gamma)
        close(simpo(chosen, rejected, beta=beta, gamma=gamma), expected)
    assert torch.equal(orpo(*four(2)), orpo(*four(2)[:2]))
    assert torch.equal(simpo(*four(2)), simpo(*four(2)[:2]))


@pytest.mark.parametrize("baseline", [None, -3.0, 0.0, 1.3])
@pytest.mark.parametrize("offset", [-2.0, 2.0])
def test_kto_equals_its_reference(baseline: float | None, offset: float) -> None:
    chosen, rejected, reference_chosen, reference_rejected = four(3)
    chosen = chosen + offset  # so that the batch's own mean is once below and once above zero
    given = None if baseline is None else torch.tensor([baseline], dtype=torch.float64)
    settings = {"beta": 0.3, "desirable_weight": 1.3, "undesirable_weight": 0.7}
    paired = kto(chosen, rejected, reference_chosen, reference_rejected, baseline=given, **settings)
    log_probs, references = torch.cat([chosen, rejected]), torch.cat([reference_chosen, reference_rejected])
    good = torch.arange(14) < 7
    expected = reference.kto(log_probs.numpy(), references.numpy(), good.numpy(), 0.3, (1.3, 0.7), baseline)
    close(paired, (expected[:7] + expected[7:]) / 2)
    order = torch.tensor([3, 12, 0, 7, 5, 13, 1, 2, 4, 6, 8, 9, 10, 11])
    unpaired = kto_unpaired(log_probs[order], references[order], good[order], baseline=given, **settings)
    close(unpaired, expected[order.numpy()])


@EVERY_PAIR
def test_gradients_of_pairs_are_those_of_the_value(name: str) -> None:
    chosen, rejected, *rest = four(4)
    chosen.requires_grad_()
    rejected.requires_grad_()
    references = [tensor.requires_grad_() for tensor in rest]
    assert torch.autograd.gradcheck(lambda w, x: PAIRS[name](w, x, *references), (chosen, rejected))
    torch.autograd.backward(PAIRS[name](chosen, rejected, *references).sum())
    assert all(tensor.grad is None for tensor in references)


@EVERY_PAIR
def test_a_pair_is_taught_alike_in_any_batch(name: str) -> None:
    tensors = four(5)
    alone = torch.cat([PAIRS[name](*(side[row : row + 1] for side in tensors)) for row in range(7)])
    torch.testing.assert_close(alone, PAIRS[name](*tensors), atol=1e-12, rtol=0)


def test_the_baseline_of_kto_is_a_constant_for_the_gradient() -> None:
    chosen, rejected, *references = four(5)
    chosen = (chosen + 9).requires_grad_()
    baseline = torch.cat([chosen.detach() - references[0], rejected - references[1]]).mean().requires_grad_()
    assert baseline.item() > 0
    own, given = kto(chosen, rejected, *references), kto(chosen, rejected, *references, baseline=baseline)
    torch.testing.assert_close(own, given)
    torch.testing.assert_close(gradient(own, chosen), gradient(given, chosen))
    torch.autograd.backward(kto(chosen, rejected, *references, baseline=baseline).sum())
    assert baseline.grad is None


def test_values_where_the_policy_is_its_reference() -> None:
    chosen, rejected, *_ = four(6)
    same, ones = (chosen, rejected, chosen, rejected), torch.ones(7, dtype=torch.float64)
    torch.testing.assert_close(dpo(*same), ones * math.log(2))
    torch.testing.assert_close(dpo(*same, label_smoothing=0.3), ones * math.log(2))
    torch.testing.assert_close(dpo(*same, loss="hinge"), ones)
    torch.testing.assert_close(ipo(*same, beta=0.1), ones * 25)  # (1 / 0.2)^2
    torch.testing.assert_close(kto(*same), ones * 0.5)
    torch.testing.assert_close(kto(*same, desirable_weight=3.0, undesirable_weight=1.0), ones)  # (3 + 1) / 2 * 0.5
    torch.testing.assert_close(spin(*same), ones * math.log(2))


def test_values_by_hand() -> None:
    tensor = partial(torch.full, (1,), dtype=torch.float64)
    # Both responses are as likely: only the margin speaks, log(1 + e^gamma).
    assert simpo(tensor(-1.0), tensor(-1.0), gamma=1.0).item() == pytest.approx(math.log(1 + math.e), abs=1e-12)
    # Probabilities 1/2 and 1/4 have odds 1 and 1/3: sigma(log 3) = 3/4.
    value = orpo(tensor(math.log(0.5)), tensor(math.log(0.25)), weight=1.0).item()
    assert value == pytest.approx(math.log(2) - math.log(0.75), abs=1e-12)
    # h = log 3 and beta = 1: sigma = 3/4.
    value = dpo(tensor(math.log(3) - 5), tensor(-4.0), tensor(-5.0), tensor(-4.0), beta=1.0).item()
    assert value == pytest.approx(-math.log(0.75), abs=1e-12)
    # Ratios log 3 and -log 3, so their mean is 0: both sides give 1 - 3/4.
    value = kto(tensor(math.log(3) - 5), tensor(-4 - math.log(3)), tensor(-5.0), tensor(-4.0), beta=1.0).item()
    assert value == pytest.approx(0.25, abs=1e-12)


@pytest.mark.parametrize("name", ["dpo", "smoothed", "hinge", "kto", "simpo", "spin", "orpo"])
def test_preferring_the_chosen_one_more_lowers_the_loss(name: str) -> None:
    chosen, rejected, *references = four(7, scale=1.0)
    chosen.requires_grad_()
    rejected.requires_grad_()
    value = PAIRS[name](chosen, rejected, *references)
    assert value.min() >= 0
    assert gradient(value, chosen).max() < 0
    assert gradient(PAIRS[name](chosen, rejected, *references), rejected).min() > 0


@EVERY_PAIR
@pytest.mark.parametrize("gap", [1e4, -1e4, 1e18, -1e18])  # the square of more is beyond float32
def test_extreme_margins_do_not_overflow(name: str, gap: float) -> None:
    chosen = torch.tensor([-1e-9 if gap > 0 else -abs(gap)], requires_grad=True)
    rejected = torch.tensor([-abs(gap) if gap > 0 else -1e-9], requires_grad=True)
    reference_log_probs = torch.tensor([-2.0])
    finite(PAIRS[name](chosen, rejected, reference_log_probs, reference_log_probs), chosen, rejected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orpo_stays_finite_where_a_response_is_certain(dtype: torch.dtype) -> None:
    chosen = torch.tensor([0.0, -1.0, 0.0, -1e-12, 1e-7], dtype=dtype, requires_grad=True)
    rejected = torch.tensor([-1.0, 0.0, 0.0, -1e3, -1e-30], dtype=dtype, requires_grad=True)
    value = orpo(chosen, rejected, weight=1.0)
    finite(value, chosen, rejected)
    assert value[2].item() == pytest.approx(math.log(2))  # equally certain
    # The odds of s = -1e-4 are 1e4 - 1/2 to six digits; 1 - e^s in float32 would keep three.
    near = orpo(torch.tensor([-1e-4], dtype=dtype), torch.tensor([math.log(0.5)], dtype=dtype), weight=1.0)
    assert near.item() == pytest.approx(1e-4 + math.log1p(1 / (1e4 - 0.5)), rel=1e-4)


@EVERY_PAIR
def test_half_precision_pairs_are_widened(name: str) -> None:
    tensors = [tensor.bfloat16() for tensor in four(8)]
    tensors[0].requires_grad_()
    value = PAIRS[name](*tensors)
    assert value.dtype == torch.float32
    assert gradient(value, tensors[0]).dtype == torch.bfloat16
    torch.testing.assert_close(value, PAIRS[name](*(tensor.double() for tensor in tensors)).float())


@EVERY_PAIR
@pytest.mark.parametrize("broken", [-math.inf, math.inf, math.nan])
def test_a_response_that_is_ruled_out_is_named(name: str, broken: float) -> None:
    names = ["chosen", "rejected", "reference_chosen", "reference_rejected"]
    for place in range(2 if name in ("orpo", "simpo") else 4):
        tensors = [tensor.clone() for tensor in four(9)]
        tensors[place][3] = broken
        with pytest.raises(KnownError, match=rf"^{names[place]} is not finite\n.*\[3\].*{broken}"):
            PAIRS[name](*tensors)


@EVERY_PAIR
def test_pairs_of_other_shapes_are_refused_rather_than_broadcast(name: str) -> None:
    chosen, rejected, *references = four(10)
    for wrong in ((chosen, rejected[:1], *references), tuple(side.view(7, 1) for side in four(10))):
        with pytest.raises(BadInput, match=r"one shape \[B\]"):
            PAIRS[name](*wrong)


def test_parameters_out_of_range_are_refused() -> None:
    tensors = four(11)
    for loss in (dpo, ipo, kto, simpo, spin):
        for beta in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(BadInput, match="beta must be above zero"):
                loss(*tensors, beta=beta)
    for kind, smoothing in (("sigmoid", -0.1), ("sigmoid", 0.5), ("sigmoid", math.nan), ("hinge", 0.1)):
        with pytest.raises(BadInput, match="smoothing"):
            PAIRS["dpo"](*tensors, loss=kind, label_smoothing=smoothing)
    with pytest.raises(BadInput, match="Unknown kind"):
        PAIRS["dpo"](*tensors, loss="cubic")
    with pytest.raises(BadInput, match="weight"):
        orpo(*tensors, weight=-0.1)
    with pytest.raises(BadInput, match="undesirable_weight"):
        kto(*tensors, undesirable_weight=-1.0)
    with pytest.raises(BadInput, match="one number"):
        kto(*tensors, baseline=torch.zeros(7))
    with pytest.raises(BadInput, match="desirable is"):
        kto_unpaired(tensors[0], tensors[1], torch.ones(3, dtype=torch.bool))


# ------------------------------------------------------------------------------------------------------------ lists


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("with_best", [True, False])
def test_lists_equal_their_references(mask: Tensor | None, with_best: bool) -> None:
    s, best = draw(3, 4, seed=12), draw(3, seed=13, scale=20.0) if with_best else None
    real = (torch.ones_like(MASK) if mask is None else mask).numpy()
    numbers = (s.numpy(), SCORES.numpy(), real, None if best is None else best.numpy())
    close(rrhf(s, SCORES, best, mask=mask), reference.rrhf(*numbers, 1.0, 0.0))
    close(rrhf(s, SCORES, best, weight=100.0, margin=0.2, mask=mask), reference.rrhf(*numbers, 100.0, 0.2))
    close(pro(s, SCORES, mask=mask, best_log_probs=best), reference.pro(*numbers, 0.05))
    close(pro(s, SCORES, sft_weight=0.7, mask=mask, best_log_probs=best), reference.pro(*numbers, 0.7))
    close(ranknet(s, SCORES, mask=mask), reference.ranknet(s.numpy(), SCORES.numpy(), real))


@EVERY_LIST
def test_lists_equal_their_references_on_a_thousand_random_rows(name: str) -> None:
    s = draw(1000, 5, seed=14)
    scores = draw(1000, 5, seed=15).mul(3).round()  # rounded, so that many tie
    real = draw(1000, 5, seed=16) < -0.3
    numbers = s.numpy(), scores.numpy(), real.numpy()
    expected = {
        "rrhf": lambda: reference.rrhf(*numbers, None, 1.0, 0.3),
        "pro": lambda: reference.pro(*numbers, None, 0.05),
        "ranknet": lambda: reference.ranknet(*numbers),
    }[name]()
    ours = LISTS[name](s, scores, mask=real)
    close(ours, expected)
    assert ours.min() >= 0
    assert {0, 1, 5} <= set(real.sum(dim=1).tolist())


@EVERY_LIST
def test_gradients_of_lists_are_those_of_the_value(name: str) -> None:
    s, scores = draw(3, 4, seed=17).requires_grad_(), SCORES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LISTS[name](x, scores, mask=MASK), s)
    torch.autograd.backward(LISTS[name](s, scores, mask=MASK).sum())
    assert scores.grad is None


def test_the_given_log_prob_of_the_best_is_taught() -> None:
    s, best = draw(3, 4, seed=18), draw(3, seed=19).requires_grad_()
    assert gradient(rrhf(s, SCORES, best), best).tolist() == [-1, -1, -1]
    torch.testing.assert_close(gradient(pro(s, SCORES, best_log_probs=best), best), best.new_full((3,), -0.05 * 9))


@EVERY_LIST
def test_the_order_of_candidates_does_not_matter(name: str) -> None:
    # But for the best one of several: which of two equals is taught is decided by their order alone.
    s, order = draw(3, 4, seed=20), torch.tensor([3, 1, 2, 0])
    best = {} if name == "ranknet" else {"best_log_probs": draw(3, seed=21)}
    ours = LISTS[name](s, SCORES, mask=MASK, **best)
    torch.testing.assert_close(LISTS[name](s[:, order], SCORES[:, order], mask=MASK[:, order], **best), ours)


def test_ties_teach_nothing() -> None:
    s, tied = draw(2, 3, seed=22).requires_grad_(), torch.zeros(2, 3)
    assert ranknet(s, tied).tolist() == [0, 0]
    assert gradient(ranknet(s, tied), s).abs().max() == 0
    assert pro(s, tied, sft_weight=0.0).tolist() == [0, 0]
    assert gradient(pro(s, tied, sft_weight=0.0), s).abs().max() == 0
    torch.testing.assert_close(rrhf(s, tied), -s[:, 0])  # the first of the best
    # Scores (1, 1, 0): each of the two best meets the worst alone, at temperature 1.
    x, y, z = s.detach()[0].tolist()
    expected = math.log(1 + math.exp(z - x)) + math.log(1 + math.exp(z - y))
    value = pro(s[:1], torch.tensor([[1.0, 1.0, 0.0]]), sft_weight=0.0)
    assert value.item() == pytest.approx(expected, abs=1e-12)


def test_lists_by_hand() -> None:
    s = torch.tensor([[-1.0, -0.5, -2.0]], dtype=torch.float64)
    r = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    # Only the second overtakes one that is better, by 0.5; and the best one's NLL is 1.
    assert rrhf(s, r, weight=10.0).item() == pytest.approx(10 * 0.5 + 1)
    # The first (-1 * 2) against both (-0.5 * 1, -2 * 2), then the second (-0.5) against the third (-2).
    first = -2 - math.log(math.exp(-2) + math.exp(-0.5) + math.exp(-4))
    second = -0.5 - math.log(math.exp(-0.5) + math.exp(-2))
    assert pro(s, r).item() == pytest.approx(-first - second + 0.05 * 4 * 1, abs=1e-12)
    pairs = [-1 + 0.5, -1 + 2, -0.5 + 2]
    assert ranknet(s, r).item() == pytest.approx(sum(math.log(1 + math.exp(-gap)) for gap in pairs), abs=1e-12)


def test_each_row_is_taught_its_own_best_response() -> None:
    # The authors' code takes every row's best from the first row of the batch.
    s = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    assert rrhf(s, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), weight=0.0).tolist() == [1.0, 4.0]


@EVERY_LIST
def test_single_candidates_and_none_at_all(name: str) -> None:
    s = draw(2, 3, seed=23).requires_grad_()
    mask = torch.tensor([[False, True, False], [False, False, False]])
    value = LISTS[name](s, SCORES[:2, :3], mask=mask)
    factor = 1.0 if name == "rrhf" else 0.0  # the NLL of the only one
    assert value.tolist() == [-factor * s[0, 1].item(), 0]
    assert gradient(value, s).tolist() == [[0, -factor, 0], [0, 0, 0]]
    if name != "ranknet":
        best = torch.tensor([-7.0, math.nan])  # where there is no candidate there is no best one either
        assert LISTS[name](s, SCORES[:2, :3], mask=mask, best_log_probs=best).tolist() == [7 * factor, 0]
    with pytest.raises(BadInput, match="nothing to rank"):
        LISTS[name](torch.zeros(2, 0), torch.zeros(2, 0))


@EVERY_LIST
@pytest.mark.parametrize("rubbish", [math.nan, -math.inf, 1e30])
def test_masked_candidates_change_neither_values_nor_gradients(name: str, rubbish: float) -> None:
    s, extra = draw(3, 4, seed=24).requires_grad_(), torch.full((3, 2), rubbish, dtype=torch.float64)
    mask = torch.cat([torch.ones(3, 4), torch.zeros(3, 2)], dim=1).bool()
    alone = LISTS[name](s, SCORES)
    padded = LISTS[name](torch.cat([s, extra], dim=1), torch.cat([SCORES, -extra], dim=1), mask=mask)
    torch.testing.assert_close(padded, alone)
    torch.testing.assert_close(gradient(padded, s), gradient(alone, s))


@EVERY_LIST
@pytest.mark.parametrize(("size", "gap"), [(1e4, 1.0), (1.0, 1e4), (1e4, 1e4)])
def test_extreme_lists_do_not_overflow(name: str, size: float, gap: float) -> None:
    s = draw(3, 4, seed=25, scale=size, dtype=torch.float32).requires_grad_()
    finite(LISTS[name](s, (SCORES * gap).float()), s)


@EVERY_LIST
def test_half_precision_lists_are_widened(name: str) -> None:
    s = draw(3, 4, seed=26).bfloat16().requires_grad_()
    value = LISTS[name](s, SCORES.bfloat16())
    assert value.dtype == torch.float32
    assert gradient(value, s).dtype == torch.bfloat16
    torch.testing.assert_close(value, LISTS[name](s.double(), SCORES.bfloat16().double()).float())


@EVERY_LIST
def test_lists_that_cannot_be_ranked_are_refused(name: str) -> None:
    s = draw(3, 4, seed=27)
    for broken in (-math.inf, math.nan):
        spoilt = torch.where(torch.eye(3, 4).bool(), broken, s)
        with pytest.raises(KnownError, match=r"log-probability is not finite\n.*\[0, 0\]"):
            LISTS[name](spoilt, SCORES)
        with pytest.raises(KnownError, match="score is not finite"):
            LISTS[name](s, spoilt)
    with pytest.raises(BadInput, match=r"one shape \[B, n\]"):
        LISTS[name](s, SCORES[:, :3])
    with pytest.raises(BadInput, match=r"one shape \[B, n\]"):
        LISTS[name](s, SCORES, mask=MASK[:1])


def test_parameters_of_lists_out_of_range_are_refused() -> None:
    s = draw(3, 4, seed=28)
    for name, parameter, value in (("rrhf", "weight", -1.0), ("rrhf", "margin", math.nan), ("pro", "sft_weight", -1.0)):
        with pytest.raises(BadInput, match=f"^{parameter} must not be negative"):
            LISTS[name](s, SCORES, **{parameter: value})
    with pytest.raises(BadInput, match=r"shape \[B\]"):
        rrhf(s, SCORES, torch.zeros(4))
    with pytest.raises(KnownError, match="best_log_probs is not finite"):
        rrhf(s, SCORES, torch.full((3,), -math.inf))
