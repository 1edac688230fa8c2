"""On-policy distillation against plain loops written from the papers, by hand, and at the edges where it breaks."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from kdstudio.distillation import on_policy
from kdstudio.distillation.on_policy import AdaptiveReplay
from kdstudio.errors import BadInput, KnownError
from tests.golden import reference_on_policy as reference
from tests.golden.reference_reinforcement import Array

LENGTHS = (4, 1, 9, 2)
ROWS = torch.repeat_interleave(torch.tensor([2, 0, 3, 1]), torch.tensor(LENGTHS))
N, V = len(ROWS), 11


def draw(seed: int, rows: int = N, vocabulary: int = V) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64) * 2


def labelled(logits: Tensor, seed: int = 9) -> tuple[Tensor, Tensor]:
    labels = torch.randint(logits.shape[1], (len(logits),), generator=torch.Generator().manual_seed(seed))
    return labels, logits.log_softmax(-1).gather(1, labels.unsqueeze(1)).squeeze(1)


def close(ours: Tensor, expected: Array) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), expected, atol=1e-10, rtol=0)


# ------------------------------------------------------------------------------------------------------------------ GKD


def test_rollouts_take_their_share_of_the_steps() -> None:
    for share in (0.1, 0.5, 0.9):
        taken = sum(on_policy.takes_rollout(1, step, share) for step in range(4000))
        assert taken / 4000 == pytest.approx(share, abs=0.025)
    assert not any(on_policy.takes_rollout(1, step, 0.0) for step in range(500))
    assert all(on_policy.takes_rollout(1, step, 1.0) for step in range(500))


def test_a_step_decides_the_same_every_time_and_more_share_only_adds_steps() -> None:
    once = [on_policy.takes_rollout(7, step, 0.4) for step in range(200)]
    assert once == [on_policy.takes_rollout(7, step, 0.4) for step in range(200)]
    assert once != [on_policy.takes_rollout(8, step, 0.4) for step in range(200)]
    assert all(on_policy.takes_rollout(7, step, 0.6) for step in range(200) if once[step])


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_is_between_none_and_all(share: float) -> None:
    with pytest.raises(BadInput):
        on_policy.takes_rollout(1, 0, share)
    with pytest.raises(BadInput):
        on_policy.teacher_mixed_log_probs(draw(1), draw(2), alpha=share)


# -------------------------------------------------------------------------------------------------------------- MiniLLM


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.7, 1.0])
def test_the_mixture_equals_the_reference(alpha: float) -> None:
    student, teacher = draw(1), draw(2)
    ours = on_policy.teacher_mixed_log_probs(student.requires_grad_(), teacher, alpha=alpha)
    close(ours, reference.teacher_mixed_log_probs(student.detach().numpy(), teacher.numpy(), alpha))
    torch.testing.assert_close(ours.exp().sum(-1), torch.ones(N).double())
    assert not ours.requires_grad


def test_the_mixture_by_hand_and_where_one_side_rules_a_token_out() -> None:
    student, teacher = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.0, 0.75, 0.25]]).log()
    mixed = on_policy.teacher_mixed_log_probs(student, teacher, alpha=0.2).exp()
    assert mixed.flatten().tolist() == pytest.approx([0.4, 0.55, 0.05])
    neither = torch.tensor([[0.5, 0.5, 0.0]]).log()
    assert on_policy.teacher_mixed_log_probs(student, neither).exp().flatten().tolist() == pytest.approx([0.5, 0.5, 0])


@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize("clip", [1.5, 10.0])
def test_importance_weights_equal_the_reference(clip: float, cumulative: bool) -> None:
    student = draw(3)
    _, log_q = labelled(student)
    _, log_mixed = labelled(on_policy.teacher_mixed_log_probs(student, draw(4), alpha=0.6))
    ours = on_policy.importance_weights(log_q, log_mixed, ROWS, clip=clip, cumulative=cumulative)
    expected = reference.importance_weights(log_q.numpy(), log_mixed.numpy(), ROWS.numpy(), clip, cumulative=cumulative)
    close(ours, expected)


def test_importance_weights_by_hand() -> None:
    q, mixed = torch.tensor([0.5, 0.2, 0.9, 0.3]), torch.tensor([0.4, 0.4, 0.3, 0.3])
    rows = torch.tensor([0, 0, 0, 5])
    assert on_policy.importance_weights(q.log(), mixed.log(), rows).tolist() == pytest.approx([1.25, 0.5, 3.0, 1.0])
    products = on_policy.importance_weights(q.log(), mixed.log(), rows, clip=1.3, cumulative=True)
    assert products.tolist() == pytest.approx([1.25, 0.625, 1.3, 1.0])  # 1.875 is clipped


def test_fresh_weights_are_bounded_and_stale_ones_are_clipped() -> None:
    student, teacher = draw(5), draw(6)
    mixed = on_policy.teacher_mixed_log_probs(student, teacher, alpha=0.2)
    for label in range(V):
        log_q = student.log_softmax(-1)[:, label]
        weights = on_policy.importance_weights(log_q, mixed[:, label], ROWS)
        assert weights.max() <= 1 / 0.8 + 1e-12
    extremes = torch.tensor([0.0, -torch.inf, -1e4, -torch.inf]), torch.tensor([-1e4, -0.1, -0.1, -torch.inf])
    weights = on_policy.importance_weights(*extremes, torch.zeros(4, dtype=torch.int64))
    assert weights.tolist() == pytest.approx([10.0, 0.0, 0.0, 1.0])


def test_equal_student_and_teacher_weigh_one_and_gain_nothing() -> None:
    logits = draw(7)
    _, log_q = labelled(logits)
    _, log_mixed = labelled(on_policy.teacher_mixed_log_probs(logits, logits.clone()))
    torch.testing.assert_close(on_policy.importance_weights(log_q, log_mixed, ROWS), torch.ones(N).double())
    assert on_policy.minillm_long_term_advantages(log_q, log_q.clone(), ROWS).tolist() == [0.0] * N


@pytest.mark.parametrize("gamma", [0.0, 0.95, 1.0])
@pytest.mark.parametrize("normalised", [False, True])
def test_long_term_advantages_equal_the_reference(normalised: bool, gamma: float) -> None:
    (_, log_q), (_, log_p) = labelled(draw(8)), labelled(draw(9))
    ours = on_policy.minillm_long_term_advantages(log_q, log_p, ROWS, gamma=gamma, length_normalised=normalised)
    expected = reference.long_term_advantages(log_q.numpy(), log_p.numpy(), ROWS.numpy(), gamma, normalised=normalised)
    close(ours, expected)


def test_long_term_advantages_by_hand() -> None:
    ratios = torch.tensor([9.0, 1.0, 3.0, 5.0])  # log p / q; the first one of the row is its own affair
    rows = torch.tensor([0, 0, 0, 1])
    log_q = torch.full((4,), -12.0)
    assert on_policy.minillm_long_term_advantages(log_q, log_q + ratios, rows).tolist() == [2, 3, 0, 0]
    plain = on_policy.minillm_long_term_advantages(log_q, log_q + ratios, rows, gamma=0.5, length_normalised=False)
    assert plain.tolist() == [1 + 0.5 * 3, 3, 0, 0]


def test_what_the_teacher_rules_out_costs_a_hundred_nats() -> None:
    log_q, log_p = torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -torch.inf])
    assert on_policy.minillm_long_term_advantages(log_q, log_p, torch.zeros(2, dtype=torch.int64)).tolist() == [-99, 0]


def test_another_row_changes_nothing() -> None:
    (_, log_q), (_, log_p) = labelled(draw(10)), labelled(draw(11))
    extra = torch.full((3,), math.nan, dtype=torch.float64)
    rows = torch.cat([torch.full((3,), 7), ROWS, torch.full((3,), 8)])
    padded = [torch.cat([extra, tensor, extra]) for tensor in (log_q, log_p)]
    for cumulative in (False, True):
        alone = on_policy.importance_weights(log_q, log_p, ROWS, cumulative=cumulative)
        among = on_policy.importance_weights(padded[0], padded[1], rows, cumulative=cumulative)
        assert torch.equal(alone, among[3:-3])
    alone = on_policy.minillm_long_term_advantages(log_q, log_p, ROWS)
    assert torch.equal(alone, on_policy.minillm_long_term_advantages(padded[0], padded[1], rows)[3:-3])


def test_the_policy_loss_has_the_papers_gradient() -> None:
    student, teacher = draw(12).requires_grad_(), draw(13)
    labels, log_q = labelled(student)
    _, log_p = labelled(teacher)
    _, log_mixed = labelled(on_policy.teacher_mixed_log_probs(student, teacher))
    weights = on_policy.importance_weights(log_q, log_mixed, ROWS)
    advantages = on_policy.minillm_long_term_advantages(log_q, log_p, ROWS)
    assert not weights.requires_grad
    assert not advantages.requires_grad
    loss = on_policy.minillm_policy_loss(log_q, advantages, weights)
    close(loss, -(weights * advantages * log_q.detach()).numpy())
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    numbers = student.detach().numpy(), labels.numpy(), advantages.numpy(), weights.numpy()
    close(gradient, reference.minillm_gradient(*numbers))
    assert torch.autograd.gradcheck(
        lambda z: on_policy.minillm_policy_loss(labelled(z)[1], advantages, weights), student
    )


# ------------------------------------------------------------------------------------------------------------- DistiLLM


def follow(losses: list[float], state: AdaptiveReplay | None = None) -> list[float]:
    states = itertools.accumulate(
        losses, lambda before, loss: before.after_validation(loss), initial=state or AdaptiveReplay()
    )
    return [round(each.share, 9) for each in states][1:]


def test_the_share_grows_when_the_validation_loss_rises() -> None:
    assert follow([3.0, 2.0, 2.05, 2.2, 2.25, 2.1, 2.3]) == [0, 0, 0, 0.1, 0.1, 0.1, 0.2]
    assert follow([2.0, 2.06, 2.12]) == [0, 0, 0.1]  # two small steps up are one rise
    assert follow([5.0, 4.0, 3.0, 2.0]) == [0, 0, 0, 0]
    assert follow([1.0] * 5) == [0] * 5
    assert follow([float(step) for step in range(15)])[-1] == 1.0
    assert follow([2.0, math.nan, math.inf, 2.05]) == [0, 0, 0, 0]


def test_a_flat_loss_is_no_rise_without_any_tolerance() -> None:
    state = AdaptiveReplay().after_validation(2.0).after_validation(2.0, tolerance=0.0)
    assert state.share == 0
    assert state.after_validation(2.001, tolerance=0.0, increment=0.25).share == 0.25


def test_the_state_goes_through_a_checkpoint() -> None:
    state = AdaptiveReplay(0.3).after_validation(2.5).after_storing(17)
    assert state == AdaptiveReplay(0.3, 2.5, 17)
    for each in (state, AdaptiveReplay()):
        assert AdaptiveReplay.from_dict(json.loads(json.dumps(each.as_dict()))) == each


@pytest.mark.parametrize(
    "damage", [{"share": 2.0}, {"share": "much"}, {"share": math.nan}, {"stored": -1}, {"stored": None}]
)
def test_a_damaged_state_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(KnownError):
        AdaptiveReplay.from_dict(AdaptiveReplay().as_dict() | damage)
    with pytest.raises(KnownError):
        AdaptiveReplay.from_dict({})


def test_sources_by_their_shares() -> None:
    state, total = AdaptiveReplay(share=0.6, stored=50), 40_000
    sources = [on_policy.replay_source(state, 3, step, total) for step in range(0, total, 5)]
    quarters = [Counter(sources[first : first + 2000]) for first in range(0, 8000, 2000)]
    for quarter, count in enumerate(quarters):
        left = 1 - (quarter + 0.5) / 4
        assert count["data"] / 2000 == pytest.approx(0.4, abs=0.04)
        assert count["fresh"] / 2000 == pytest.approx(0.6 * left, abs=0.04)
        assert count["replay"] / 2000 == pytest.approx(0.6 * (1 - left), abs=0.04)


def test_an_empty_buffer_is_filled_and_no_share_means_data() -> None:
    late = range(900, 1000)
    assert {on_policy.replay_source(AdaptiveReplay(1.0), 1, step, 1000) for step in late} == {"fresh"}
    few = AdaptiveReplay(1.0, stored=99)
    assert {on_policy.replay_source(few, 1, step, 1000, least=100) for step in late} == {"fresh"}
    assert "replay" in {on_policy.replay_source(few.after_storing(1), 1, step, 1000, least=100) for step in late}
    assert {on_policy.replay_source(AdaptiveReplay(stored=9), 1, step, 1000) for step in range(1000)} == {"data"}
    assert on_policy.replay_source(few, 1, 0, 1000) == "fresh"  # the first step replays nothing


def test_the_oldest_outputs_make_room() -> None:
    buffer: dict[int, int] = {}
    for first in range(0, 30, 3):
        for offset, slot in enumerate(on_policy.replaced_slots(first, 3, capacity=8)):
            buffer[slot] = first + offset
    assert sorted(buffer.values()) == list(range(22, 30))
    assert on_policy.replaced_slots(2, 3, capacity=8) == [2, 3, 4]
    assert on_policy.replaced_slots(7, 2, capacity=8) == [7, 0]


def test_replayed_slots_are_distinct_in_use_and_repeatable() -> None:
    drawn = [on_policy.replayed_slots(5, step, 6, 4, capacity=8) for step in range(600)]
    assert drawn == [on_policy.replayed_slots(5, step, 6, 4, capacity=8) for step in range(600)]
    assert all(len(set(slots)) == 4 for slots in drawn)
    counts = Counter(itertools.chain.from_iterable(drawn))
    assert sorted(counts) == list(range(6))
    assert all(count == pytest.approx(400, abs=60) for count in counts.values())
    assert sorted(on_policy.replayed_slots(5, 0, 30, 99, capacity=8)) == list(range(8))
    assert on_policy.replayed_slots(5, 0, 0, 4) == []


# --------------------------------------------------------------------------------------------- speculative distillation


@pytest.mark.parametrize("top_k", [1, 3, 11, 25])
def test_interleaved_choices_equal_the_reference(top_k: int) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = draw(14, 3000)
    tokens = torch.randint(V, (3000,), generator=generator)
    random = torch.rand(3000, generator=generator, dtype=torch.float64)
    ours = on_policy.interleaved_choice(tokens, logits, random, top_k=top_k)
    assert ours.tolist() == reference.interleaved_choice(tokens.numpy(), logits.numpy(), random.numpy(), top_k)
    assert torch.equal(ours, tokens) == (top_k >= V)


def test_interleaved_choice_by_hand() -> None:
    logits = torch.tensor([0.5, 0.2, 0.0, 0.3]).log().expand(7, 4)
    tokens = torch.tensor([3, 1, 1, 1, 1, 1, 2])
    random = torch.tensor([0.9, 0.0, 0.49, 0.51, 0.69, 0.71, 0.999999])
    assert on_policy.interleaved_choice(tokens, logits, random, top_k=2).tolist() == [3, 0, 0, 1, 1, 3, 3]
    assert on_policy.interleaved_choice(tokens, logits, random, top_k=3).tolist() == [3, 1, 1, 1, 1, 1, 3]


def test_what_the_teacher_rules_out_is_neither_kept_nor_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, -torch.inf, 1.0, -torch.inf]]).expand(4, 5)
    below_one = float(np.nextafter(np.float32(1), np.float32(0)))
    tokens, random = torch.tensor([0, 4, 2, 0]), torch.tensor([0.0, below_one, 0.4999, 0.5001])
    assert on_policy.interleaved_choice(tokens, logits, random).tolist() == [1, 3, 1, 3]


def test_ties_are_the_students() -> None:
    logits = torch.zeros(1, 30)
    assert on_policy.interleaved_choice(torch.tensor([29]), logits, torch.tensor([0.1]), top_k=1).tolist() == [29]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_draws_follow_the_teacher(dtype: torch.dtype) -> None:
    teacher = torch.tensor([0.02, 0.5, 0.08, 0.4])
    random = (torch.arange(20_000) + 0.5) / 20_000
    tokens = torch.zeros(20_000, dtype=torch.int64)
    logits = teacher.log().to(dtype).expand(20_000, 4)
    drawn = on_policy.interleaved_choice(tokens, logits, random, top_k=2)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    torch.testing.assert_close(shares, logits[0].float().softmax(-1), atol=1e-3, rtol=0)


def test_a_wide_vocabulary_is_drawn_to_its_end() -> None:
    logits = torch.zeros(2, 150_000)
    random = torch.tensor([0.0, float(np.nextafter(np.float32(1), np.float32(0)))])
    logits[:, 75_000] = -1.0  # the student's token, outside the top k
    drawn = on_policy.interleaved_choice(torch.full((2,), 75_000), logits, random).tolist()
    assert drawn[0] == 0
    assert drawn[1] > 149_000
    assert max(drawn) < 150_000
