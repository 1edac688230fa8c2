"""What objectives give back, added up and carried back; and a step that is the same however it is cut into passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdstudio.distillation.divergences import forward_kl
from kdstudio.distillation.head_terms import HeadTerm, LabelTerm, dense_term
from kdstudio.distillation.passes import Part, Pass, no_value, run_parts
from kdstudio.distillation.targets import DenseTarget
from kdstudio.errors import BugError
from tests.unit.distillation.family_setting import make_full_project, shipped, train
from tests.unit.distillation.setting import curve, training_rows, whole_batch

ROWS = training_rows(10)
WIDTH, VOCABULARY = 6, 450
COUNTS: Any = {"token": 40, "row": 8, "unit": 5}


def a_pass() -> Pass:
    batch = whole_batch(ROWS, range(3))
    generator = torch.Generator().manual_seed(0)
    hidden, head = (
        torch.randn(count, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
        for count in (len(batch.labels), VOCABULARY)
    )
    return Pass(batch, hidden, head)


def plain_log_probs(view: Pass) -> Tensor:
    return (view.hidden @ view.head.t()).log_softmax(-1).gather(1, view.batch.labels.unsqueeze(1)).squeeze(1)


def teacher_term(view: Pass) -> tuple[HeadTerm, Tensor]:
    theirs = torch.randn(len(view.batch.labels), VOCABULARY, dtype=torch.float64, generator=torch.Generator())
    return dense_term("forward_kl", lambda rows, _: theirs[rows]), forward_kl(view.hidden @ view.head.t(), theirs)


def rows_of(values: Tensor, view: Pass) -> Tensor:
    return view.batch.mean_of_rows(values).square().sum()


Made = Callable[[Pass, Tensor], tuple[list[Part], list[Tensor]]]


def token_terms(view: Pass, weights: Tensor) -> tuple[list[Part], list[Tensor]]:
    term, expected = teacher_term(view)
    labels = LabelTerm(view.batch.labels)
    plain = -plain_log_probs(view)
    return [
        Part(term=term),
        Part("row", term=labels, token_weights=weights),
        Part("unit", term=term, token_weights=weights),
        Part("row", term=labels),
    ], [expected.sum() / 40, (plain * weights).sum() / 8, (expected * weights).sum() / 5, plain.sum() / 8]


def sequence_losses(view: Pass, weights: Tensor) -> tuple[list[Part], list[Tensor]]:
    parts = [
        Part("unit", total=rows_of(view.log_probs, view)),
        Part("row", total=(view.hidden**2).sum()),
        Part("token", total=no_value(view.hidden)),
        Part("row", total=rows_of(view.log_probs, view)),
    ]
    plain = rows_of(plain_log_probs(view), view)
    return parts, [plain / 5, (view.hidden**2).sum() / 8, plain.new_zeros(()), plain / 8]


def both_kinds(view: Pass, weights: Tensor) -> tuple[list[Part], list[Tensor]]:
    (ours, expected), (others, more) = token_terms(view, weights), sequence_losses(view, weights)
    return [*ours, *others], [*expected, *more]


@pytest.mark.parametrize("make", [token_terms, sequence_losses, both_kinds])
def test_parts_add_up_to_what_autograd_makes_of_the_formulas(make: Made) -> None:
    view = a_pass()
    shares = torch.rand(len(view.batch.labels), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parts, expected = make(view, shares)
    weights = [0.5 + place for place in range(len(parts))]
    loss = torch.stack([value * weight for value, weight in zip(expected, weights, strict=True)]).sum()
    gradients = torch.autograd.grad(loss, (view.hidden, view.head), retain_graph=True, allow_unused=True)
    values = run_parts(view, list(zip(parts, weights, strict=True)), COUNTS, backward=True)
    torch.testing.assert_close(torch.stack(values), torch.stack(expected).detach(), atol=1e-9, rtol=1e-9)
    assert not any(value.requires_grad for value in values)
    for leaf, gradient in zip((view.hidden, view.head), gradients, strict=True):
        torch.testing.assert_close(leaf.grad, gradient, atol=1e-9, rtol=1e-9)


def test_values_alone_leave_no_gradients() -> None:
    view = a_pass()
    parts, expected = both_kinds(view, torch.ones(len(view.batch.labels), dtype=torch.float64))
    values = run_parts(view, [(part, 1.0) for part in parts], COUNTS, backward=False)
    torch.testing.assert_close(torch.stack(values), torch.stack(expected).detach(), atol=1e-9, rtol=1e-9)
    assert view.hidden.grad is None
    assert view.head.grad is None


def test_a_pass_that_found_nothing_changes_nothing() -> None:
    view = a_pass()
    assert run_parts(view, [(Part(total=no_value(view.hidden)), 1.0)], COUNTS, backward=True) == [torch.tensor(0.0)]
    assert run_parts(view, [], COUNTS, backward=True) == []
    assert view.hidden.grad is None


def test_a_frozen_head_still_lets_the_states_learn() -> None:
    view = a_pass()
    view.head.requires_grad_(False)
    parts, _ = sequence_losses(view, view.hidden)
    run_parts(view, [(part, 1.0) for part in parts], COUNTS, backward=True)
    assert view.hidden.grad is not None
    assert view.head.grad is None


def test_log_probs_are_computed_once_and_are_those_of_the_labels() -> None:
    view = a_pass()
    assert view.log_probs is view.log_probs
    assert view.log_probs.is_leaf
    torch.testing.assert_close(view.log_probs, plain_log_probs(view), atol=1e-12, rtol=1e-12)


def test_the_teachers_log_probs_need_a_teacher_of_these_tokens() -> None:
    view = a_pass()
    with pytest.raises(BugError, match="does not speak"):
        _ = view.teacher_log_probs
    theirs = a_pass()
    theirs.teacher = DenseTarget(view.hidden.detach() * 2, view.head.detach())
    torch.testing.assert_close(
        theirs.teacher_log_probs,
        (2 * view.hidden @ view.head.t()).log_softmax(-1).gather(1, view.batch.labels.unsqueeze(1)).squeeze(1),
    )


# --------------------------------------------------------------------------------- eight rows once, one row eight times
def recipe_of(name: str, *objectives: str, **tables: Any) -> dict[str, Any]:
    given = [{"name": objective} for objective in objectives] or None
    laid = {**({"objective": given} if given else {}), **tables}
    return shipped(name, **{"student": {"layer_count": 1}, "teacher": {"signals": "dense"}, **laid})


CUT: dict[str, dict[str, Any]] = {
    "supervised": recipe_of("imitate"),
    "forward_kl, dense": recipe_of("match"),
    "forward_kl, stored": recipe_of("match", teacher={"signals": "stored"}),
    "jensen_shannon": recipe_of("match", "jensen_shannon"),
    "hidden_mse": recipe_of("hidden_states", "hidden_mse"),
    "attention_relation": recipe_of("minilm", "attention_relation", "value_relation"),
    "dpo": recipe_of("dpo", optimizer={"learning_rate": 1e-4}),
    "pro": recipe_of("pro", optimizer={"learning_rate": 1e-4}),
    "grpo": recipe_of("grpo", optimizer={"learning_rate": 5e-5}, rollout={"max_tokens": 4, "samples": 3}),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("passes")


@pytest.fixture
def project(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDSTUDIO_THREADS", "1")
    found = shared / "test.kdstudio"
    return found if found.exists() else make_full_project(shared, signals=True)


def losses(project: Path, name: str, made: dict[str, Any], steps: int) -> tuple[list[float], list[float]]:
    """The curve of eight units in one pass, and of eight passes of one."""
    found = []
    for rows, accumulation in ((8, 1), (1, 8)):
        run = {"steps": steps, "rows_per_batch": rows, "accumulation": accumulation, "audit": "off"}
        run |= {"evaluate_every": 99, "checkpoint_every": 99}
        once = f"{name} {rows}x{accumulation}"
        train(project, once, {**made, "run": {**made["run"], **run}})
        found.append([float.fromhex(value) for value in curve(project / "runs" / once).values()])
    return found[0], found[1]


def differences(once: Sequence[float], eight: Sequence[float]) -> list[float]:
    """Relative, or absolute where the loss is below one nat."""
    return [(one - other) / max(1.0, abs(one)) for one, other in zip(once, eight, strict=True)]


@pytest.mark.parametrize("name", CUT)
def test_eight_units_once_are_one_unit_eight_times(project: Path, name: str) -> None:
    once, eight = losses(project, name, CUT[name], 50)
    assert len(once) == 50
    assert once[0] == pytest.approx(eight[0], rel=1e-6, abs=1e-7)
    apart = differences(once, eight)
    assert max(map(abs, apart)) <= 1e-4
    assert abs(sum(apart)) <= 5e-4  # rounding has no direction: nothing drifts to one side
    if name == "grpo":  # its loss is about 0 by nature: what was written must be the same as well
        rewards = [list(curve(project / "runs" / f"{name} {cut}", "reward").values()) for cut in ("8x1", "1x8")]
        ours, theirs = ([float.fromhex(value) for value in each] for each in rewards)
        assert ours == pytest.approx(theirs, abs=1e-6)
        assert max(ours) > 0


def test_ktos_baseline_is_that_of_a_pass(project: Path) -> None:
    """An exception: its baseline is the mean over a pass. Where the student is its reference, all of them are 0."""
    once, eight = losses(project, "kto", recipe_of("kto", optimizer={"learning_rate": 1e-4}), 8)
    assert once[0] == pytest.approx(0.5, abs=1e-6) == eight[0]
    assert max(map(abs, differences(once, eight))) > 1e-4
    assert once[-1] < 0.47 > eight[-1]


def test_a_discrepancy_is_that_of_a_pass(project: Path) -> None:
    """The other one: samples are compared as wholes, and a pass is a sample."""
    made = recipe_of("discrepancy", "maximum_mean_discrepancy")
    once, eight = losses(project, "discrepancy", made, 8)
    assert eight[0] > once[0] > 0  # fewer points stand for their distribution less well
    assert once[-1] < once[0]
    assert eight[-1] < eight[0]
