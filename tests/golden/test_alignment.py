"""Groups by bytes, merged distributions and the loss across tokenizers, against plain references."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdstudio.distillation.alignment import aligned_groups, byte_aligned, merge_log_probs
from kdstudio.errors import BugError
from kdstudio.models.conversation import encode_conversation
from kdstudio.models.vocabulary_map import compare_vocabularies, vocabulary_of
from kdstudio.teachers.llama_vocab import LlamaTokenizer
from tests.golden import reference_alignment as reference
from tests.tiny import tiny_model

Spans = list[tuple[int, int]]
BETAS = pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
VARIES = pytest.mark.parametrize("varies", ["first", "last"])


def spans_of(*pieces: bytes) -> Spans:
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    return [(end - len(piece), end) for end, piece in zip(ends, pieces, strict=True)]


def runs(student: Spans, teacher: Spans) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    found = aligned_groups(student, teacher)
    both = np.hstack([found.student, found.teacher]).tolist()
    return [((first, last), (begin, end)) for first, last, begin, end in both]


def test_hand_worked_groups() -> None:
    student = spans_of(b"The", b" bra", b"ve", b" mouse", b".", b"")
    teacher = spans_of(b"The", b" brave", b" mo", b"use.", b"")
    found = aligned_groups(student, teacher)
    assert found.student.tolist() == [[0, 0], [1, 2], [3, 4], [5, 5]]
    assert found.teacher.tolist() == [[0, 0], [1, 1], [2, 3], [4, 4]]
    assert found.student.dtype == found.teacher.dtype == np.int32
    assert (found.text_bytes, found.grouped_bytes, found.one_to_one_bytes) == (16, 16, 3)
    assert found.one_to_one_share == 3 / 16
    assert found.grouped_share == 1


def test_a_character_cut_in_two_on_one_side_is_one_group() -> None:
    mouse = "🐭".encode()
    student = spans_of(b"gr\xc3", b"\xb6\xc3", b"\x9fer", b" ", mouse[:1], mouse[1:], b"")
    teacher = spans_of(b"gr", "öß".encode(), b"er", b" " + mouse[:3], mouse[3:], b"")
    assert runs(student, teacher) == [((0, 2), (0, 2)), ((3, 5), (3, 4)), ((6, 6), (5, 5))]
    same = spans_of(b"gr\xc3", b"\xb6", mouse[:2], mouse[2:])
    assert runs(same, same) == [((at, at), (at, at)) for at in range(4)]


def test_empty_responses_and_ends_of_turn() -> None:
    end = spans_of(b"")
    assert runs(end, end) == [((0, 0), (0, 0))]
    assert aligned_groups(end, end).one_to_one_share == 1
    assert runs([], []) == runs(end, []) == []
    text = spans_of(b"ab", b"c")
    assert runs(text, [*text, (3, 3)]) == [((0, 0), (0, 0)), ((1, 1), (1, 1))]  # only one side ends its turn
    assert runs([(0, 0), (0, 0), *text, (3, 3), (3, 3)], [*text, (3, 3)]) == [
        ((2, 2), (0, 0)),
        ((3, 3), (1, 1)),
        ((5, 5), (2, 2)),
    ]  # a think block in front and a line break behind are no text: the ends still meet
    assert runs([(0, 1), (1, 1), (1, 2)], [(0, 2)]) == [((0, 2), (0, 0))]
    assert runs([(0, 1), (1, 1), (1, 2)], [(0, 1), (1, 2)]) == [((0, 0), (0, 0)), ((2, 2), (1, 1))]


def test_what_one_side_alone_covers_is_in_no_group() -> None:
    cut_off = aligned_groups([(0, 2), (2, 4), (4, 4)], [(0, 2), (2, 5), (5, 6), (6, 6)])
    assert cut_off.student.tolist() == [[0, 0]]
    assert (cut_off.text_bytes, cut_off.grouped_bytes) == (6, 2)
    stripped = aligned_groups([(2, 3), (3, 5), (5, 5)], [(0, 3), (3, 5), (5, 5)])  # one template drops leading spaces
    assert stripped.student.tolist() == [[1, 1], [2, 2]]
    assert stripped.teacher.tolist() == [[1, 1], [2, 2]]
    assert stripped.grouped_share == 2 / 5


@pytest.mark.parametrize("spans", [[(0, 2), (3, 4)], [(0, 2), (1, 4)], [(2, 1)]])
def test_spans_that_do_not_follow_each_other_are_refused(spans: Spans) -> None:
    with pytest.raises(BugError):
        aligned_groups(spans, [(0, 4)])


@st.composite
def tokenisations(draw: st.DrawFn) -> tuple[bytes, Spans, Spans]:
    """One text cut twice, anywhere, with tokens of no bytes strewn in and an end of turn."""
    data = draw(st.text(max_size=30)).encode("utf-8", "replace")
    sides = []
    for _ in range(2):
        inner = draw(st.sets(st.integers(1, len(data) - 1))) if len(data) > 1 else set()
        empty = draw(st.lists(st.integers(0, len(data)), max_size=3))
        edges = sorted([0, *inner, *empty, len(data), len(data)])
        sides.append(list(itertools.pairwise(edges)))
    return data, sides[0], sides[1]


@given(tokenisations())
def test_groups_partition_both_sides_and_meet_at_the_same_bytes(drawn: tuple[bytes, Spans, Spans]) -> None:
    data, student, teacher = drawn
    found = aligned_groups(student, teacher)
    assert runs(student, teacher) == reference.groups(student, teacher)
    assert found.text_bytes == found.grouped_bytes == len(data)
    assert 0 <= found.one_to_one_bytes <= len(data)
    for side, groups in ((student, found.student), (teacher, found.teacher)):
        members = [at for first, last in groups.tolist() for at in range(first, last + 1)]
        assert len(set(members)) == len(members)
        assert {at for at, (start, end) in enumerate(side) if end > start} <= set(members)
        assert members[-1] == len(side) - 1
    bounds: list[list[tuple[int, int]]] = [
        [(side[first][0], side[last][1]) for first, last in groups.tolist()]
        for side, groups in ((student, found.student), (teacher, found.teacher))
    ]
    assert bounds[0] == bounds[1]
    mirrored = aligned_groups(teacher, student)
    assert np.array_equal(mirrored.student, found.teacher)
    assert mirrored.one_to_one_bytes == found.one_to_one_bytes


def test_real_tokenizers_meet() -> None:
    fine, coarse = (LlamaTokenizer(tiny_model(layers=2, merges=merges)) for merges in (50, 160))
    text = "the brave mouse said hello, größer 🐭"
    ours, theirs = (encode_conversation(side, [{"role": "user", "content": "x"}], text) for side in (fine, coarse))
    found = aligned_groups(ours.spans, theirs.spans)
    assert found.grouped_bytes == found.text_bytes == len(text.encode())
    assert 0 < found.one_to_one_share < 1
    for one, other in zip(found.student.tolist(), found.teacher.tolist(), strict=True):
        said = b"".join(fine.piece(token) for token in ours.response_ids[one[0] : one[1] + 1])
        assert said == b"".join(coarse.piece(token) for token in theirs.response_ids[other[0] : other[1] + 1])
    assert found.student[-1].tolist() == [len(ours.spans) - 1] * 2


def draw(rows: int, vocabulary: int, seed: int, *, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64) * scale


GROUPS = np.array([[0, 0], [1, 3], [4, 4], [5, 6]], np.int32)
LABELS = torch.tensor([2, 0, 5, 5, 1, 3, 4])


@VARIES
def test_merging_equals_the_reference(varies: Any) -> None:
    log_probs = draw(7, 6, 1).log_softmax(-1)
    ours = merge_log_probs(log_probs, LABELS, GROUPS, varies=varies)
    expected = reference.merged(log_probs.numpy(), LABELS.tolist(), GROUPS.tolist(), varies)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-10, rtol=0)


@VARIES
def test_both_rules_give_the_written_text_its_probability(varies: Any) -> None:
    log_probs = draw(7, 6, 2).log_softmax(-1)
    own = log_probs[torch.arange(7), LABELS]
    merged = merge_log_probs(log_probs, LABELS, GROUPS, varies=varies)
    for row, (first, last) in zip(merged, GROUPS.tolist(), strict=True):
        varying, written = first if varies == "first" else last, own[first : last + 1].sum()
        torch.testing.assert_close(row[LABELS[varying]], written)
        torch.testing.assert_close(row.logsumexp(-1), written - own[varying])


@VARIES
def test_merging_has_the_gradients_of_its_value(varies: Any) -> None:
    logits = draw(7, 4, 3).requires_grad_()
    labels = LABELS.remainder(4)
    groups = torch.from_numpy(GROUPS)
    assert torch.autograd.gradcheck(lambda z: merge_log_probs(z.log_softmax(-1), labels, groups, varies=varies), logits)


def test_merging_single_tokens_none_and_what_is_impossible() -> None:
    log_probs = draw(7, 6, 4).log_softmax(-1)
    single = np.stack([np.arange(7)] * 2, axis=1)
    assert torch.equal(merge_log_probs(log_probs, LABELS, single), log_probs)
    assert merge_log_probs(log_probs, LABELS, np.zeros((0, 2), np.int32)).shape == (0, 6)
    log_probs[2, 5] = -torch.inf  # a written token that a model rules out
    log_probs.requires_grad_()
    merged = merge_log_probs(log_probs, LABELS, GROUPS)
    assert bool((merged[1] == -torch.inf).all())
    assert bool(merged[[0, 2, 3]].isfinite().all())
    torch.autograd.backward(merged[[0, 3]].sum())
    assert log_probs.grad is not None
    assert bool(log_probs.grad.isfinite().all())


def masses(rows: int, vocabulary: int, seed: int, *, scale: float = 2.0) -> Tensor:
    """Log-masses that sum to anything up to one, as merged ones do."""
    total = torch.rand(rows, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log()
    return draw(rows, vocabulary, seed, scale=scale).log_softmax(-1) + total


PAIRS = [(0, 3), (2, 1), (4, 8), (7, 0)]


def loss(student: Tensor, teacher: Tensor, pairs: list[tuple[int, int]] = PAIRS, **options: float) -> Tensor:
    return byte_aligned(student, teacher, torch.tensor(pairs, dtype=torch.long).reshape(-1, 2), **options)


@BETAS
@pytest.mark.parametrize("sizes", [(9, 14), (14, 9), (9, 9)])
@pytest.mark.parametrize("pairs", [PAIRS, [], [(at, at) for at in range(9)]], ids=["some", "none", "all"])
@pytest.mark.parametrize("weights", [(0.7, 0.2), (1.0, 0.0), (0.0, 1.0)])
def test_the_hybrid_loss_equals_the_reference(
    beta: float, sizes: tuple[int, int], pairs: list[tuple[int, int]], weights: tuple[float, float]
) -> None:
    student, teacher = masses(6, sizes[0], 5), masses(6, sizes[1], 6)
    ours = loss(student, teacher, pairs, beta=beta, matched_weight=weights[0], unmatched_weight=weights[1])
    expected = reference.byte_aligned(student.exp().numpy(), teacher.exp().numpy(), pairs, beta, *weights)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-10, rtol=0)


def test_the_default_weights_are_the_matched_share_of_the_teacher() -> None:
    student, teacher = masses(6, 9, 7), masses(6, 14, 8)
    torch.testing.assert_close(
        loss(student, teacher), loss(student, teacher, matched_weight=4 / 14, unmatched_weight=10 / 14)
    )
    torch.testing.assert_close(
        loss(student, teacher, matched_weight=0.3), loss(student, teacher, matched_weight=0.3, unmatched_weight=0.7)
    )


def test_hand_worked_loss() -> None:
    student = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.6, 0.3]], dtype=torch.float64)
    teacher = torch.tensor([[0.1, 0.25, 0.05, 0.6], [0.2, 0.05, 0.05, 0.7]], dtype=torch.float64)
    found = loss(student.log(), teacher.log(), [(0, 1), (1, 3)], beta=0.5, matched_weight=1, unmatched_weight=1)
    first = 0.5 * sum(
        a * math.log(a / (a / 2 + b / 2)) + b * math.log(b / (a / 2 + b / 2)) for a, b in ((0.2, 0.25), (0.5, 0.6))
    )
    assert found[0].item() == pytest.approx(first + abs(0.3 - 0.1) + 0.05, abs=1e-12)
    only = loss(student.log(), teacher.log(), [(0, 1), (1, 3)], matched_weight=0, unmatched_weight=1)
    assert only.tolist() == pytest.approx([0.25, abs(0.3 - 0.2) + 0.05])


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_over_one_vocabulary_it_is_the_generalised_jensen_shannon_divergence(beta: float) -> None:
    student, teacher = (draw(5, 11, seed).log_softmax(-1) for seed in (9, 10))
    everything = [(at, at) for at in range(11)]
    p, q = teacher.exp(), student.exp()
    mixture = (beta * p + (1 - beta) * q).log()
    expected = (beta * p * (teacher - mixture) + (1 - beta) * q * (student - mixture)).sum(-1)
    torch.testing.assert_close(loss(student, teacher, everything, beta=beta), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_ends_of_beta_are_limits(end: float) -> None:
    student, teacher = masses(4, 9, 11), masses(4, 14, 12)
    near = loss(student, teacher, beta=abs(end - 1e-7), matched_weight=1, unmatched_weight=0) / 1e-7
    exact = loss(student, teacher, beta=end, matched_weight=1, unmatched_weight=0)
    torch.testing.assert_close(near, exact, atol=1e-5, rtol=1e-5)


@BETAS
def test_equal_sides_give_zero_and_no_slope(beta: float) -> None:
    student = masses(8, 300, 13).float().requires_grad_()
    for pairs in ([(at, at) for at in range(300)], [(at, at) for at in range(0, 300, 2)], []):
        value = loss(student, student.detach().clone(), pairs, beta=beta)
        assert value.max() <= 1e-6
        (gradient,) = torch.autograd.grad(value.sum(), student)
        assert gradient.abs().max() <= 1e-6


def test_one_tokenizer_on_both_sides_and_equal_models_give_zero() -> None:
    tokenizer = LlamaTokenizer(tiny_model(layers=2))
    conversation = encode_conversation(tokenizer, [{"role": "user", "content": "x"}], "the brave mouse, größer 🐭")
    log_probs = draw(len(conversation.response_ids), tokenizer.vocabulary_size, 14).log_softmax(-1)
    labels, found = torch.tensor(conversation.response_ids), aligned_groups(conversation.spans, conversation.spans)
    assert found.one_to_one_share == 1
    assert len(found.student) == len(labels)
    vocabulary = vocabulary_of(tokenizer)
    merged = merge_log_probs(log_probs, labels, found.student)
    value = byte_aligned(merged, merged.clone(), compare_vocabularies(vocabulary, vocabulary).matched)
    assert value.abs().max() <= 1e-12


@BETAS
@pytest.mark.parametrize("scale", [0.01, 3.0, 100.0])
def test_never_negative(beta: float, scale: float) -> None:
    student, teacher = masses(500, 9, 15, scale=scale).float(), masses(500, 14, 16, scale=scale).float()
    value = loss(student, teacher, beta=beta)
    assert value.min() >= 0
    assert not bool(value.isnan().any())


@BETAS
def test_rounding_does_not_fall_below_zero(beta: float) -> None:
    everything = [(at, at) for at in range(300)]
    student = draw(2000, 300, 33).log_softmax(-1).float()
    assert loss(student, student * (1 + 1e-7), everything, beta=beta).min() >= 0


@BETAS
def test_gradients_are_those_of_the_value(beta: float) -> None:
    student, teacher = draw(7, 9, 17).requires_grad_(), draw(8, 14, 18)
    teacher_groups = np.array([[0, 1], [2, 2], [3, 3], [4, 7]])
    theirs = merge_log_probs(teacher.log_softmax(-1), LABELS.repeat(2)[:8], teacher_groups)

    def whole(logits: Tensor) -> Tensor:
        ours = merge_log_probs(logits.log_softmax(-1), LABELS, GROUPS)
        return loss(ours, theirs, beta=beta, matched_weight=0.8, unmatched_weight=0.3)

    assert torch.autograd.gradcheck(whole, student)
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher[:7], beta=beta), student)


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = masses(4, 9, 19).requires_grad_(), masses(4, 14, 20).requires_grad_()
    torch.autograd.backward(loss(student, teacher).sum())
    assert student.grad is not None
    assert teacher.grad is None
    assert not loss(student.detach(), teacher).requires_grad


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = masses(31, 9, 21).requires_grad_(), masses(31, 14, 22)
    whole = loss(student, teacher)
    monkeypatch.setattr("kdstudio.distillation.alignment._CHUNK_ELEMENTS", 14 * 4)
    blocks = loss(student, teacher)
    assert torch.equal(whole, blocks)
    slopes = [torch.autograd.grad(value.sum(), student)[0] for value in (whole, blocks)]
    assert torch.equal(*slopes)


@pytest.mark.parametrize("beta", [0.3, 0.5])
def test_what_is_ruled_out_is_finite(beta: float) -> None:
    student, teacher = masses(3, 9, 23), masses(3, 14, 24)
    student[0, 0] = teacher[0, 3] = -torch.inf  # both
    student[1, 0] = student[1, 1] = -torch.inf  # the student alone, matched and not
    student[2] = -torch.inf  # everything
    teacher[1, 8] = -torch.inf
    student.requires_grad_()
    value = loss(student, teacher, beta=beta, matched_weight=1, unmatched_weight=1)
    expected = reference.byte_aligned(student.detach().exp().numpy(), teacher.exp().numpy(), PAIRS, beta, 1, 1)
    np.testing.assert_allclose(value.detach().numpy(), expected, atol=1e-12)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert bool(gradient.isfinite().all())
    assert float(gradient[2].abs().max()) == 0


def test_at_the_ends_of_beta_what_one_side_rules_out_is_infinite() -> None:
    student, teacher = masses(2, 9, 25), masses(2, 14, 26)
    student[0, 0] = -torch.inf
    teacher[1, 3] = -torch.inf
    for beta, row in ((0.0, 0), (1.0, 1)):
        value = loss(student, teacher, beta=beta)
        assert value[row] == torch.inf
        assert bool(value[1 - row].isfinite())


def test_extremes() -> None:
    assert loss(torch.zeros(0, 9), torch.zeros(0, 14)).shape == (0,)
    lone = loss(torch.zeros(2, 1), torch.zeros(2, 1), [(0, 0)])
    assert lone.tolist() == [0, 0]
    far = torch.tensor([[1e4, 0.0, -1e4]]).log_softmax(-1)
    assert loss(far, far.flip(-1), [(0, 0), (1, 1), (2, 2)]).item() == pytest.approx(math.log(2))
    assert loss(far, far.flip(-1), []).item() == 0  # by size alone the two are alike
    assert loss(far, far.flip(-1), [(0, 2)], matched_weight=0, unmatched_weight=1).item() == pytest.approx(0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    student, teacher = masses(5, 9, 27).to(dtype).requires_grad_(), masses(5, 14, 28).to(dtype)
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert gradient.dtype == dtype
    torch.testing.assert_close(value.double(), loss(student.double(), teacher.double()), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pairs", [[(0, 14)], [(9, 0)], [(-1, 0)], [(0, 0), (0, 1)], [(0, 1), (1, 1)]])
def test_pairs_that_are_none_are_refused(pairs: list[tuple[int, int]]) -> None:
    with pytest.raises(BugError):
        loss(masses(1, 9, 29), masses(1, 14, 30), pairs)


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan])
def test_a_mixture_of_more_than_everything_is_refused(beta: float) -> None:
    with pytest.raises(BugError):
        loss(masses(1, 9, 31), masses(1, 14, 32), beta=beta)
