"""The similarities against references written from the papers, and at the edges where formulas break."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from kdstudio.distillation.similarity import (
    attention_relation,
    hidden_cosine,
    hidden_mse,
    maximum_mean_discrepancy,
    task_aware_layerwise,
    value_relation,
)
from kdstudio.errors import BadInput
from tests.golden import reference_similarity as reference

CAUSAL = pytest.mark.parametrize("causal", [True, False])
HIDDEN = pytest.mark.parametrize("name", ["hidden_mse", "hidden_cosine"])
FUNCTIONS: dict[str, Callable[..., Tensor]] = {"hidden_mse": hidden_mse, "hidden_cosine": hidden_cosine}
EXPECTED = {"hidden_mse": reference.hidden_mse, "hidden_cosine": reference.hidden_cosine}
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]).bool()
"""No padding, padding on the right, padding on the left."""


def draw(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).mul(scale).to(dtype)


def heads(seed: int, width: int = 4, count: int = 2) -> Tensor:
    return draw(3, count, 5, width, seed=seed)


def query_and_key(seed: int, width: int = 4, count: int = 2) -> tuple[Tensor, Tensor]:
    return heads(seed, width, count), heads(seed + 1000, width, count)


def gradient(value: Tensor, source: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(value.sum(), source)
    return result


# ------------------------------------------------------------------------------------------------- hidden states


@HIDDEN
def test_hidden_equals_the_reference(name: str) -> None:
    student, teacher, projection = draw(7, 5, seed=1), draw(7, 9, seed=2), draw(9, 5, seed=3)
    ours = FUNCTIONS[name](student, teacher, projection).numpy()
    np.testing.assert_allclose(
        ours, EXPECTED[name](student.numpy(), teacher.numpy(), projection.numpy()), atol=1e-10, rtol=0
    )
    other = draw(7, 9, seed=4)
    np.testing.assert_allclose(
        FUNCTIONS[name](other, teacher).numpy(), EXPECTED[name](other.numpy(), teacher.numpy()), atol=1e-10, rtol=0
    )


@HIDDEN
def test_hidden_gradients_are_those_of_the_value_and_reach_the_projection(name: str) -> None:
    student, projection = draw(3, 4, seed=5).requires_grad_(), draw(6, 4, seed=6).requires_grad_()
    teacher = draw(3, 6, seed=7).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, w: FUNCTIONS[name](s, teacher, w), (student, projection))
    torch.autograd.backward(FUNCTIONS[name](student, teacher, projection).sum())
    assert teacher.grad is None


@HIDDEN
def test_hidden_is_zero_at_the_teacher_and_never_negative(name: str) -> None:
    teacher = draw(50, 300, seed=8, dtype=torch.float32)
    assert FUNCTIONS[name](teacher.clone(), teacher).abs().max() <= 1e-6
    for scale in (1e-3, 1.0, 1e4):
        student, other = draw(1000, 33, seed=9, scale=scale), draw(1000, 33, seed=10, scale=scale)
        assert FUNCTIONS[name](student.float(), other.float()).min() >= 0


def test_hidden_values_by_hand() -> None:
    student, teacher = torch.tensor([[3.0, 0.0], [1.0, 1.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0]] * 2 + [[-5.0, 0]])
    assert hidden_mse(student, teacher).tolist() == [2.0, 0.5, 24.5]
    assert hidden_cosine(student, teacher).tolist() == pytest.approx([0, 1 - math.sqrt(0.5), 2], abs=1e-6)


def test_cosine_ignores_length_but_not_direction() -> None:
    student, teacher = draw(5, 8, seed=11), draw(5, 8, seed=12)
    torch.testing.assert_close(hidden_cosine(student * 1e6, teacher), hidden_cosine(student, teacher * 1e-6))


def test_cosine_of_a_state_of_zeros_is_one_without_a_gradient() -> None:
    student = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    value = hidden_cosine(student, teacher)
    assert value.tolist() == [1.0, 1.0]
    assert gradient(value, student).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_cosine_keeps_its_digits_near_zero() -> None:
    # 1 - cos(1e-5) = 5e-11, of which 1 - 0.99999999995 keeps none in float32.
    value = hidden_cosine(torch.tensor([[1.0, 1e-5]]), torch.tensor([[1.0, 0.0]]))
    assert value.item() == pytest.approx(5e-11, rel=1e-4)


@HIDDEN
def test_other_widths_need_a_projection_that_fits(name: str) -> None:
    student, teacher = draw(4, 6), draw(4, 8)
    with pytest.raises(BadInput, match=r"differ in width\n.*6 wide.*8.\n.*\[8, 6\]"):
        FUNCTIONS[name](student, teacher)
    with pytest.raises(BadInput, match=r"\[6, 8\][\s\S]*shape \[8, 6\]"):
        FUNCTIONS[name](student, teacher, draw(6, 8))
    with pytest.raises(BadInput, match="different tokens"):
        FUNCTIONS[name](student, draw(3, 6))
    with pytest.raises(BadInput, match="2 dimensions"):
        FUNCTIONS[name](draw(2, 4, 6), draw(2, 4, 6))


@HIDDEN
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_states_are_widened(name: str, dtype: torch.dtype) -> None:
    student, teacher = draw(4, 6, seed=13).to(dtype).requires_grad_(), draw(4, 6, seed=14).to(dtype)
    value = FUNCTIONS[name](student, teacher)
    assert value.dtype == torch.float32
    assert gradient(value, student).dtype == dtype
    torch.testing.assert_close(FUNCTIONS[name](student.double(), teacher.double()).float(), value)


# ---------------------------------------------------------------------------------------------- task-aware filters


def test_task_aware_equals_the_reference() -> None:
    tensors = draw(6, 5, seed=15), draw(6, 7, seed=16), draw(4, 5, seed=17), draw(4, 7, seed=18)
    expected = reference.task_aware_layerwise(*(tensor.numpy() for tensor in tensors))
    np.testing.assert_allclose(task_aware_layerwise(*tensors).numpy(), expected, atol=1e-10, rtol=0)


def test_task_aware_teaches_the_student_and_its_filter_only() -> None:
    student, student_filter = draw(3, 5, seed=19).requires_grad_(), draw(4, 5, seed=20).requires_grad_()
    teacher, teacher_filter = draw(3, 7, seed=21).requires_grad_(), draw(4, 7, seed=22).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s, f: task_aware_layerwise(s, teacher, f, teacher_filter), (student, student_filter)
    )
    torch.autograd.backward(task_aware_layerwise(student, teacher, student_filter, teacher_filter).sum())
    assert teacher.grad is None
    assert teacher_filter.grad is None


def test_task_aware_sees_only_what_the_filters_keep() -> None:
    keep_first = torch.tensor([[1.0, 0.0, 0.0]])
    student, teacher = torch.tensor([[2.0, 5.0, 7.0]]), torch.tensor([[2.0, -9.0, 0.0]])
    assert task_aware_layerwise(student, teacher, keep_first, keep_first).item() == 0
    with pytest.raises(BadInput, match="teacher's filter"):
        task_aware_layerwise(student, teacher, keep_first, torch.ones(1, 4))
    with pytest.raises(BadInput, match="projection does not fit"):
        task_aware_layerwise(student, teacher, torch.ones(2, 3), keep_first)


# ------------------------------------------------------------------------------------------------- mean discrepancy


@pytest.mark.parametrize(("n", "m", "bandwidths"), [(5, 5, (0.5, 1.0, 2.0)), (3, 8, (1.0,)), (1, 2, (0.1, 4.0))])
def test_discrepancy_equals_the_reference(n: int, m: int, bandwidths: tuple[float, ...]) -> None:
    student, teacher = draw(n, 6, seed=23), draw(m, 6, seed=24) + 0.3
    expected = reference.maximum_mean_discrepancy(student.numpy(), teacher.numpy(), bandwidths)
    ours = maximum_mean_discrepancy(student, teacher, bandwidths=bandwidths)
    assert ours.shape == ()
    assert ours.item() == pytest.approx(expected, abs=1e-10)


def test_discrepancy_of_two_points_by_hand() -> None:
    # One pair, so its distance is the median: k(x, y) = exp(-1 / 2).
    value = maximum_mean_discrepancy(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), bandwidths=[1.0])
    assert value.item() == pytest.approx(2 - 2 * math.exp(-0.5), abs=1e-6)


def test_discrepancy_gradient_holds_the_bandwidth_still() -> None:
    student, teacher, step = draw(4, 3, seed=25).requires_grad_(), draw(5, 3, seed=26), 1e-5
    ours = gradient(maximum_mean_discrepancy(student, teacher), student).numpy()
    xs, ys = student.detach().numpy(), teacher.numpy()
    median = reference.median_distance(xs, ys)
    for i, j in np.ndindex(*xs.shape):
        nudge = np.zeros_like(xs)
        nudge[i, j] = step
        sides = [reference.maximum_mean_discrepancy(xs + s * nudge, ys, (0.5, 1, 2), median) for s in (1, -1)]
        assert ours[i, j] == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-9)


def test_discrepancy_passes_gradcheck_where_the_median_is_between_teacher_states() -> None:
    student, teacher = draw(2, 3, seed=27, scale=0.1).requires_grad_(), draw(9, 3, seed=28, scale=2.0)
    median = reference.median_distance(student.detach().numpy(), teacher.numpy())
    assert torch.pdist(teacher).sub(median).abs().min() < 1e-12
    assert torch.autograd.gradcheck(lambda s: maximum_mean_discrepancy(s, teacher), student)


def test_discrepancy_is_zero_at_the_teacher_and_never_negative() -> None:
    teacher = draw(60, 100, seed=29, dtype=torch.float32).requires_grad_()
    student = teacher.detach().clone().requires_grad_()
    value = maximum_mean_discrepancy(student, teacher)
    assert 0 <= value.item() <= 1e-6
    torch.autograd.backward(value)
    assert student.grad is not None
    assert student.grad.abs().max() <= 1e-6
    assert teacher.grad is None
    assert maximum_mean_discrepancy(student.flip(0), teacher).item() <= 1e-6  # a sample has no order
    outlier = torch.cat([teacher.detach() * 1e4, teacher.detach()])  # some states of language models are that large
    assert maximum_mean_discrepancy(outlier, outlier.clone()).item() <= 1e-6
    near = teacher.detach() + 1e-6 * draw(60, 100, seed=30, dtype=torch.float32)
    for last in range(2, 60):  # rounding alone would take about every eighth below zero
        assert maximum_mean_discrepancy(near[:last].flip(0), teacher[:last]).item() >= 0
    for seed in range(1000):
        pair = draw(2, 6, 4, seed=seed, scale=10.0 ** (seed % 7 - 3), dtype=torch.float32)
        assert 0 <= maximum_mean_discrepancy(pair[0], pair[1]).item() <= 2


def test_discrepancy_survives_a_shared_offset_and_coinciding_points() -> None:
    student, teacher = draw(6, 4, seed=30, dtype=torch.float32), draw(7, 4, seed=31, dtype=torch.float32)
    plain = maximum_mean_discrepancy(student, teacher)
    torch.testing.assert_close(maximum_mean_discrepancy(student + 300, teacher + 300), plain, atol=1e-4, rtol=0)
    same = torch.ones(3, 4, requires_grad=True)
    value = maximum_mean_discrepancy(same, torch.ones(5, 4))
    assert value.item() == 0
    assert gradient(value, same).abs().max() == 0
    # More than half of all pairs coincide, so the median is zero and the mean square stands in: 8 of 36 pairs differ.
    lone = torch.zeros(1, 1, dtype=torch.float64)
    crowd = maximum_mean_discrepancy(lone, torch.ones(8, 1, dtype=torch.float64), bandwidths=[1.0])
    assert crowd.item() == pytest.approx(2 - 2 * math.exp(-0.5 * 36 / 8), abs=1e-12)


def test_discrepancy_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(BadInput, match="differ in width"):
        maximum_mean_discrepancy(draw(3, 4), draw(3, 5))
    with pytest.raises(BadInput, match="Nothing to compare"):
        maximum_mean_discrepancy(draw(0, 4), draw(3, 4))
    for bandwidths in ([], [1.0, 0.0], [math.nan], [math.inf]):
        with pytest.raises(BadInput, match="bandwidth"):
            maximum_mean_discrepancy(draw(2, 4), draw(3, 4), bandwidths=bandwidths)


# ----------------------------------------------------------------------------------------------- attention relations


@CAUSAL
def test_attention_equals_the_reference(causal: bool) -> None:
    student, teacher = query_and_key(32, width=3), query_and_key(33, width=6)
    ours = attention_relation(*student, *teacher, MASK, causal=causal).numpy()
    q, k, p, r = (side.numpy() for side in (*student, *teacher))
    expected = reference.attention_relation(q, k, p, r, MASK.numpy(), causal)
    np.testing.assert_allclose(ours, expected, atol=1e-10, rtol=0)
    assert ours[MASK.numpy()].max() > 1e-3
    assert np.all(ours[~MASK.numpy()] == 0)


@CAUSAL
def test_value_relation_equals_the_reference(causal: bool) -> None:
    student, teacher = heads(36, width=3), heads(37, width=6)
    ours = value_relation(student, teacher, MASK, causal=causal).numpy()
    s, t = student.numpy(), teacher.numpy()
    np.testing.assert_allclose(ours, reference.attention_relation(s, s, t, t, MASK.numpy(), causal), atol=1e-10, rtol=0)


@CAUSAL
@pytest.mark.parametrize("count", [1, 3, 6])
def test_relation_heads_equal_the_reference(causal: bool, count: int) -> None:
    student, teacher = query_and_key(38, width=3, count=2), query_and_key(40, width=3, count=4)
    ours = attention_relation(*student, *teacher, MASK, heads=count, causal=causal).numpy()
    cut = [reference.relation_heads(side.numpy(), count) for side in (*student, *teacher)]
    expected = reference.attention_relation(cut[0], cut[1], cut[2], cut[3], MASK.numpy(), causal)
    np.testing.assert_allclose(ours, expected, atol=1e-10, rtol=0)


def test_relation_heads_equal_to_the_heads_change_nothing() -> None:
    student, teacher = heads(42), heads(43)
    torch.testing.assert_close(value_relation(student, teacher, MASK, heads=2), value_relation(student, teacher, MASK))


def test_grouped_keys_are_repeated_for_their_queries() -> None:
    student_query, student_key = heads(44, count=4), heads(45, count=2)
    teacher_query, teacher_key = heads(46, count=4), heads(47, count=1)
    grouped = attention_relation(student_query, student_key, teacher_query, teacher_key, MASK)
    keys = student_key[:, [0, 0, 1, 1]], teacher_key[:, [0, 0, 0, 0]]
    torch.testing.assert_close(grouped, attention_relation(student_query, keys[0], teacher_query, keys[1], MASK))


@CAUSAL
@pytest.mark.parametrize("count", [None, 4])
def test_relation_gradients_are_those_of_the_value(causal: bool, count: int | None) -> None:
    query, key = heads(48).requires_grad_(), heads(49).requires_grad_()
    teacher = query_and_key(50)
    for side in teacher:
        side.requires_grad_()
    relation = partial(attention_relation, heads=count, causal=causal)
    assert torch.autograd.gradcheck(lambda q, k: relation(q, k, *teacher, MASK), (query, key))
    assert torch.autograd.gradcheck(lambda v: value_relation(v, teacher[0], MASK, heads=count, causal=causal), query)
    torch.autograd.backward(relation(query, key, *teacher, MASK).sum())
    assert all(side.grad is None for side in teacher)


@CAUSAL
def test_relations_are_zero_at_the_teacher_and_never_negative(causal: bool) -> None:
    vectors = draw(4, 3, 40, 8, seed=52, dtype=torch.float32)
    everything = torch.ones(4, 40, dtype=torch.bool)
    assert value_relation(vectors.clone(), vectors, everything, causal=causal).abs().max() <= 1e-6
    for scale in (0.01, 1.0, 10.0):
        student, teacher = (draw(25, 2, 40, 8, seed=s, scale=scale, dtype=torch.float32) for s in (53, 54))
        values = value_relation(student, teacher, torch.ones(25, 40, dtype=torch.bool), causal=causal)
        assert values.numel() == 1000
        assert values.min() >= 0
        assert bool(values.isfinite().all())


def test_the_first_token_of_causal_attention_has_nothing_to_learn() -> None:
    values = value_relation(heads(55), heads(56), MASK)
    assert [values[row, first].item() for row, first in ((0, 0), (1, 0), (2, 2))] == [0, 0, 0]


def test_relations_by_hand() -> None:
    # One head of width 1, two tokens, key scores 0 and log 3 for the teacher: p = (1/4, 3/4); the student is uniform.
    query, key = torch.ones(1, 1, 2, 1), torch.tensor([0.0, math.log(3)]).view(1, 1, 2, 1)
    real = torch.ones(1, 2)
    values = attention_relation(query, torch.zeros_like(key), query, key, real)
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert values[0].tolist() == pytest.approx([0, expected], abs=1e-6)
    assert attention_relation(query, key * 0, query, key, real, causal=False)[0, 0].item() == pytest.approx(expected)


@CAUSAL
@pytest.mark.parametrize("rubbish", [math.nan, math.inf, 1e30])
def test_padding_changes_neither_values_nor_gradients(causal: bool, rubbish: float) -> None:
    student, teacher = heads(57), heads(58)
    short = student[1:2, :, :3].clone().requires_grad_()
    alone = value_relation(short, teacher[1:2, :, :3], torch.ones(1, 3), causal=causal)
    padding = ~MASK[:, None, :, None]
    padded = student.masked_fill(padding, rubbish).requires_grad_()
    together = value_relation(padded, teacher.masked_fill(padding, rubbish), MASK, causal=causal)
    torch.testing.assert_close(together[1:2, :3], alone)
    assert together[1, 3:].tolist() == [0, 0]
    with torch.autograd.set_detect_anomaly(True):  # not even in passing may a NaN arise
        slope = gradient(together, padded)
    torch.testing.assert_close(slope[1:2, :, :3], gradient(alone, short))
    assert slope.masked_select(padding).abs().max() == 0


def test_very_large_vectors_give_finite_values_and_gradients() -> None:
    query = draw(3, 2, 5, 4, seed=59, scale=1e6, dtype=torch.float32).requires_grad_()
    key, teacher = heads(60).float() * 1e6, heads(61).float() * 1e6
    value = attention_relation(query, key, teacher, teacher, MASK)
    assert bool(value.isfinite().all())
    assert bool(gradient(value, query).isfinite().all())


def test_half_precision_vectors_are_widened() -> None:
    student, teacher = heads(62).bfloat16().requires_grad_(), heads(63).bfloat16()
    value = value_relation(student, teacher, MASK)
    assert value.dtype == torch.float32
    assert gradient(value, student).dtype == torch.bfloat16
    torch.testing.assert_close(value, value_relation(student.double(), teacher.double(), MASK).float())


def test_relations_refuse_shapes_that_do_not_meet() -> None:
    two, four = heads(64), heads(65, count=4)
    with pytest.raises(BadInput, match=r"\[3, 2, 5\] and \[3, 4, 5\][\s\S]*relation heads"):
        value_relation(two, four, MASK)
    with pytest.raises(BadInput, match=r"2 heads of width 4 cannot be cut into 3[\s\S]*divisor of 8"):
        value_relation(two, four, MASK, heads=3)
    with pytest.raises(BadInput, match="Queries and keys"):
        attention_relation(four, heads(66, count=3), four, four, MASK)
    with pytest.raises(BadInput, match="mask does not fit"):
        value_relation(two, two, MASK[:, :4])
