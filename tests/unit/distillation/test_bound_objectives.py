"""Objectives on a pass against their formulas, written out row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdstudio.catalogue.objectives import OBJECTIVES
from kdstudio.distillation import ranking
from kdstudio.distillation.batches import pad
from kdstudio.distillation.bound.base import Bound, Setting
from kdstudio.distillation.divergences import forward_kl, reverse_kl, skew_kl, skew_reverse_kl
from kdstudio.distillation.examples import Example
from kdstudio.distillation.objectives import BINDERS
from kdstudio.distillation.passes import Pass, run_parts
from kdstudio.distillation.targets import DenseTarget
from tests.unit.distillation.setting import examples

WIDTH, VOCABULARY = 6, 450
GROUPS = ((1, (3.0, 0.0, 1.0)), (2, (0.5, 0.5)), (3, (0.0, 2.0)))
COUNTS: Any = {"token": 1, "row": 1, "unit": 1}


def _best() -> list[float]:
    """1 for the response of each preference that is worth imitating: its best, where there is a lesser one."""
    flags: list[float] = []
    for _, scores in GROUPS:
        first = scores.index(max(scores)) if max(scores) > min(scores) else -1
        flags += [float(place == first) for place in range(len(scores))]
    return flags


BEST = _best()


def bound(name: str, **given: Any) -> Bound:
    parameters = OBJECTIVES[name].params(**given).model_dump()
    return BINDERS[name](parameters, Setting({"hidden_size": WIDTH}, {"hidden_size": WIDTH}))


def a_pass(seed: int = 0, *, own: Sequence[bool] = (True,) * 7, scale: float = 0.5) -> Pass:
    """Seven rows in three groups, of which the second one's are worth the same; with a teacher and a reference."""
    made = iter(zip(examples(7), own, strict=True))
    chosen: list[Example] = []
    for group, scores in GROUPS:
        for score in scores:
            example, written = next(made)
            tags = (f"weight:0.{len(chosen) + 1}",)
            chosen.append(
                replace(example, group=group, score=score, own=written, tags=tags, rationale=(len(chosen) + 1) % 3)
            )
    batch = pad(chosen, (-1,) * 7)
    count = len(batch.labels)
    fixed, moving = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    head = torch.randn(VOCABULARY, WIDTH, generator=fixed, dtype=torch.float64) * scale
    teacher = DenseTarget(torch.randn(count, WIDTH, generator=fixed), torch.randn(VOCABULARY, WIDTH, generator=fixed))
    reference = -4 * torch.rand(count, generator=fixed, dtype=torch.float64)
    hidden = torch.randn(count, WIDTH, generator=moving, dtype=torch.float64)
    return Pass(batch, hidden.requires_grad_(), head.requires_grad_(), teacher, reference=reference, share=0.25)


def logits(view: Pass) -> Tensor:
    return view.hidden @ view.head.t()


def log_probs(view: Pass) -> Tensor:
    return logits(view).log_softmax(-1).gather(1, view.batch.labels.unsqueeze(1)).squeeze(1)


def by_row(values: Tensor, view: Pass) -> list[Tensor]:
    return list(torch.split(values, [len(example.response_ids) for example in view.batch.examples]))


def check(objective: Bound, view: Pass, expected: Tensor) -> None:
    """The sum of an objective's parts, in value and in gradients."""
    gradients = torch.autograd.grad(expected, (view.hidden, view.head), retain_graph=True, allow_unused=True)
    parts = objective.read(view)
    values = run_parts(view, [(part, 1.0) for part in parts], COUNTS, backward=True)
    torch.testing.assert_close(torch.stack(values).sum(), expected.detach(), atol=1e-5, rtol=1e-5, check_dtype=False)
    for leaf, gradient in zip((view.hidden, view.head), gradients, strict=True):
        if gradient is None:
            assert leaf.grad is None
        else:
            torch.testing.assert_close(leaf.grad, gradient, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------- each token
def test_text_is_weighed_by_row_by_task_or_by_the_teacher() -> None:
    best = [BEST[place] for place in range(7)]
    view = a_pass(own=(False,) * 7)
    rows = [(-part).sum() for part in by_row(log_probs(view), view)]
    expected = torch.stack([row * 0.1 * (place + 1) * best[place] for place, row in enumerate(rows)]).sum()
    check(bound("supervised", row_weights=True), view, expected)
    view = a_pass(own=(False,) * 7)
    weights = [
        best[number] * (0.5 if place < example.rationale else 1.0)
        for number, example in enumerate(view.batch.examples)
        for place in range(len(example.response_ids))
    ]
    assert 0.5 in weights
    check(bound("rationale_multitask"), view, -(log_probs(view) * torch.tensor(weights)).sum())
    check(bound("supervised"), a_pass(own=(True,) * 7), torch.zeros((), dtype=torch.float64, requires_grad=True))
    view = a_pass()
    certain = (0.1 + 0.9 * view.teacher_log_probs.exp()).double()
    check(bound("weighted_tokens", floor=0.1), view, -(log_probs(view) * certain).sum())


def test_distillm_2_has_a_loss_for_each_side_and_a_balance_that_moves() -> None:
    view = a_pass(own=(True, False, True, False, False, True, True))
    assert isinstance(view.teacher, DenseTarget)
    theirs, written = view.teacher.logits().double(), [example.own for example in view.batch.examples]
    balance = 1 + 0.5 * 0.25  # a quarter of the run is done
    losses = zip(
        by_row(skew_kl(logits(view), theirs), view), by_row(skew_reverse_kl(logits(view), theirs), view), strict=True
    )
    rows = [
        balance * own.sum() if mine else (2 - balance) * text.sum()
        for (text, own), mine in zip(losses, written, strict=True)
    ]
    check(bound("contrastive_skew", final_balance=1.5), view, torch.stack(rows).sum())


def test_draws_from_the_teacher_stand_for_the_whole_of_it() -> None:
    """Unbiased: the mean gradient over many draws is that of forward KL."""
    view, total = a_pass(), torch.zeros(0)
    assert isinstance(view.teacher, DenseTarget)
    view.teacher = DenseTarget(view.teacher.hidden * 0.3, view.teacher.head)
    (exact,) = torch.autograd.grad(forward_kl(logits(view), view.teacher.logits().double()).sum(), view.hidden)
    torch.manual_seed(0)
    objective = bound("random_sampled_topk", draws=1024)
    for _ in range(8):
        run_parts(view, [(part, 0.125) for part in objective.read(view)], COUNTS, backward=True)
    total = view.hidden.grad if view.hidden.grad is not None else total
    assert (total - exact).norm() < 0.1 * exact.norm()


# ---------------------------------------------------------------------------------------------------------- preferences
PAIRS = ((0, 1), (6, 5))
"""Best and worst of the groups that have them."""


@pytest.mark.parametrize(
    ("name", "given", "mean", "reference"),
    [
        ("dpo", {"beta": 0.3, "label_smoothing": 0.1}, False, True),
        ("dpo", {"loss": "hinge"}, False, True),
        ("ipo", {"beta": 0.2}, True, True),
        ("kto", {"desirable_weight": 2.0}, False, True),
        ("spin", {}, False, True),
        ("simpo", {"gamma": 0.5}, True, False),
        ("orpo", {"odds_weight": 0.4}, True, False),
    ],
)
def test_a_pair_is_the_best_and_the_worst_of_its_group(
    name: str, given: dict[str, Any], mean: bool, reference: bool
) -> None:
    view = a_pass()
    assert view.reference is not None
    sides: list[Tensor] = []
    for values in (log_probs(view), view.reference)[: 2 if reference else 1]:
        rows = [part.mean() if mean else part.sum() for part in by_row(values, view)]
        sides += [torch.stack([rows[pair[side]] for pair in PAIRS]) for side in (0, 1)]
    named = {"odds_weight": "weight"}
    formula = getattr(ranking, name)
    check(
        bound(name, **given),
        view,
        formula(*sides, **{named.get(key, key): value for key, value in given.items()}).sum(),
    )


@pytest.mark.parametrize(
    ("name", "given", "named"), [("rrhf", {"rank_weight": 3.0}, "weight"), ("pro", {"sft_weight": 0.2}, "sft_weight")]
)
def test_a_list_is_ranked_as_a_whole(name: str, given: dict[str, float], named: str) -> None:
    view = a_pass()
    means = [part.mean() for part in by_row(log_probs(view), view)]
    total, place = torch.zeros(()), 0
    for _, scores in GROUPS:
        own = torch.stack(means[place : place + len(scores)]).unsqueeze(0)
        total = total + getattr(ranking, name)(own, torch.tensor([scores]), **{named: next(iter(given.values()))}).sum()
        place += len(scores)
    check(bound(name, **given), view, total)


def test_a_reward_model_reads_the_state_that_ends_the_answer() -> None:
    view, objective = a_pass(), bound("reward_model", margin=0.5)
    assert objective.module is not None
    scale, bias = objective.module.get_parameter("scale"), objective.module.get_parameter("bias")
    with torch.no_grad():
        scale.copy_(torch.linspace(-1, 1, WIDTH))
    rewards = [part[-1].float() @ scale + bias for part in by_row(view.hidden, view)]
    losses = [-torch.nn.functional.logsigmoid(rewards[better] - rewards[worse] - 0.5) for better, worse in PAIRS]
    check(objective, view, torch.stack(losses).sum())
    assert scale.grad is not None
    assert bool((scale.grad != 0).all())


@pytest.mark.parametrize("name", ["dpo", "ipo", "kto", "spin", "simpo", "orpo", "reward_model"])
def test_equals_teach_nothing(name: str) -> None:
    view = a_pass()
    alike = tuple(replace(example, score=1.0) for example in view.batch.examples)
    view.batch = replace(view.batch, examples=alike)
    values = run_parts(view, [(part, 1.0) for part in bound(name).read(view)], COUNTS, backward=True)
    assert torch.stack(values).sum() == 0
    assert view.hidden.grad is None


# ------------------------------------------------------------------------------------------------------------- policies
def plain_k3(new: Tensor, reference: Tensor) -> Tensor:
    difference = reference - new
    return difference.exp() - difference - 1


def clipped(new: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
    ratio = (new - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)


@pytest.mark.parametrize("scale", ["std", "none"])
def test_grpo_compares_an_answer_with_its_group(scale: str) -> None:
    objective, written, view = bound("grpo", scale=scale, kl_weight=0.3), a_pass(1), a_pass(2)
    view.extras = objective.prepare(written)
    assert view.reference is not None
    advantages: list[float] = []
    for _, scores in GROUPS:
        spread = float(np.std(scores, ddof=1)) + 1e-6 if scale == "std" else 1.0
        advantages += [(score - sum(scores) / len(scores)) / spread for score in scores]
    rows = []
    old, reference = by_row(log_probs(written).detach(), view), by_row(view.reference, view)
    for place, new in enumerate(by_row(log_probs(view), view)):
        loss = clipped(new, old[place], torch.full_like(new, advantages[place]))
        rows.append((loss + 0.3 * plain_k3(new, reference[place])).mean())
    check(objective, view, torch.stack(rows).sum())
    figures = {name: float(value) for part in objective.read(view) for name, value in part.figures.items()}
    assert figures["reward"] == pytest.approx(sum(score for _, scores in GROUPS for score in scores))
    assert figures["reward_spread"] == pytest.approx(3 * 3 + 2 * 0 + 2 * 2)
    assert figures["answer_tokens"] == len(view.batch.labels)


def test_ppo_pays_at_the_end_and_for_every_step_away() -> None:
    objective, written, view = (
        bound("ppo", kl_weight=0.3, gamma=0.9, gae_lambda=0.8, value_weight=0.5),
        a_pass(1),
        a_pass(2),
    )
    assert objective.module is not None
    scale = objective.module.get_parameter("scale")
    with torch.no_grad():
        scale.copy_(torch.linspace(-1, 1, WIDTH))
    view.extras = objective.prepare(written)
    assert view.reference is not None
    rows, reference = [], by_row(view.reference, view)
    old = by_row(log_probs(written).detach(), view)
    before = [(part.float() @ scale).detach() for part in by_row(written.hidden, written)]
    now = [part.float() @ scale for part in by_row(view.hidden, view)]
    for place, new in enumerate(by_row(log_probs(view), view)):
        rewards = -0.3 * (old[place] - reference[place])
        rewards[-1] += view.batch.examples[place].score
        advantages, following = torch.zeros_like(rewards), 0.0
        for token in reversed(range(len(rewards))):
            later = float(before[place][token + 1]) if token + 1 < len(rewards) else 0.0
            delta = float(rewards[token]) + 0.9 * later - float(before[place][token])
            following = delta + 0.9 * 0.8 * following
            advantages[token] = following
        returns = advantages + before[place]
        near = before[place] + (now[place] - before[place]).clamp(-0.2, 0.2)
        guessed = torch.maximum((now[place] - returns) ** 2, (near - returns) ** 2) / 2
        rows.append((clipped(new, old[place], advantages) + 0.5 * guessed).mean())
    check(objective, view, torch.stack(rows).sum())


@pytest.mark.parametrize("mixed", [False, True])
def test_minillm_judges_a_token_by_all_that_follows(mixed: bool) -> None:
    objective, view = bound("minillm"), a_pass()
    assert isinstance(view.teacher, DenseTarget)
    theirs, own = view.teacher_log_probs.double(), log_probs(view).detach()
    weights = torch.ones_like(own)
    if mixed:
        drawn = torch.logaddexp(theirs + math.log(0.2), own + math.log(0.8))
        view.extras, weights = {"rollout_log_prob": drawn}, (own - drawn).exp()
    total = (reverse_kl(logits(view), view.teacher.logits().double()) * weights).sum()
    ratios, factors = by_row(theirs - own, view), by_row(weights, view)
    for place, new in enumerate(by_row(log_probs(view), view)):
        for token in range(len(new) - 1):
            total = total - factors[place][token] * ratios[place][token + 1 :].mean() * new[token]
    check(objective, view, total)


def test_the_teachers_log_probs_are_the_reward_of_each_token() -> None:
    view = a_pass()
    advantages = 2 * (view.teacher_log_probs.double() - log_probs(view).detach())
    check(bound("on_policy_as_reward", alpha=2.0), view, -(advantages * log_probs(view)).sum())


@pytest.mark.parametrize("name", ["grpo", "ppo", "minillm", "on_policy_as_reward"])
def test_no_policy_is_learnt_from_stored_rows(name: str) -> None:
    view = a_pass(own=(False,) * 7)
    values = run_parts(view, [(part, 1.0) for part in bound(name).read(view)], COUNTS, backward=True)
    assert torch.stack(values).sum() == 0
    assert view.hidden.grad is None
