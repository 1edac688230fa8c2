"""The head's kernel against its plain composition: all logits at once, then the formula, with autograd behind both."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdstudio.distillation.divergences import DIVERGENCES, SPARSE, random_sampled, sparse
from kdstudio.distillation.head_terms import LabelTerm, SampledTerm, dense_term, sparse_term
from kdstudio.distillation.kernels import fused_head, label_log_probs, linear_divergence, sequence_backward
from kdstudio.errors import BadInput

TOKENS, VOCABULARY, WIDTH, TOP = 7, 23, 5, 4
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
FORMS = [
    (name, form)
    for name in DIVERGENCES
    for form in ("hidden", "logits", "sparse")
    if form != "sparse" or name in SPARSE
]


@dataclass(frozen=True)
class Stored:
    """A top-k signal."""

    ids: Tensor
    log_probs: Tensor
    tail_log_prob: Tensor


Teacher = Stored | Tensor | tuple[Tensor, Tensor]


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def sides(tokens: int = TOKENS, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """The student's hidden states and head: leaves."""
    hidden = numbers(tokens, WIDTH, seed=1, dtype=dtype, scale=scale)
    return hidden.requires_grad_(), numbers(VOCABULARY, WIDTH, seed=2, dtype=dtype).requires_grad_()


def stored(tokens: int = TOKENS, top: int = TOP, dtype: torch.dtype = torch.float64) -> Stored:
    log_probs, ids = numbers(tokens, VOCABULARY, seed=3).log_softmax(-1).sort(descending=True)
    tail = log_probs[:, top:].logsumexp(-1) if top < VOCABULARY else torch.full((tokens,), -torch.inf)
    return Stored(ids[:, :top], log_probs[:, :top].to(dtype), tail.to(dtype))


def teacher(form: str, tokens: int = TOKENS, dtype: torch.dtype = torch.float64) -> Teacher:
    """The teacher is wider than the student where it comes as a network."""
    if form == "sparse":
        return stored(tokens, dtype=dtype)
    states, head = numbers(tokens, WIDTH + 3, seed=4, dtype=dtype), numbers(VOCABULARY, WIDTH + 3, seed=5, dtype=dtype)
    return (states, head) if form == "hidden" else states @ head.t()


def composed(hidden: Tensor, head: Tensor, theirs: Teacher, name: str, **parameters: float) -> Tensor:
    logits = hidden @ head.t()
    if isinstance(theirs, Stored):
        return sparse(name, logits, theirs.ids, theirs.log_probs, theirs.tail_log_prob, **parameters)
    return DIVERGENCES[name](logits, theirs if isinstance(theirs, Tensor) else theirs[0] @ theirs[1].t(), **parameters)


def gradients(values: Tensor, upstream: Tensor | None, *leaves: Tensor) -> tuple[Tensor, ...]:
    """Of a sum, or of a sum weighed by `upstream`."""
    loss = values.sum() if upstream is None else (values * upstream).sum()
    return torch.autograd.grad(loss, leaves)


def same(found: Callable[..., Tensor], expected: Callable[..., Tensor], *leaves: Tensor, tolerance: float) -> None:
    """Values and gradients, for equal and for uneven upstream gradients."""
    torch.testing.assert_close(found(), expected(), atol=tolerance, rtol=tolerance)
    for upstream in (None, numbers(len(found()), seed=9, dtype=leaves[0].dtype)):
        for ours, theirs in zip(
            gradients(found(), upstream, *leaves), gradients(expected(), upstream, *leaves), strict=True
        ):
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_divergence_of_every_teacher_is_its_composition(
    name: str, form: str, dtype: torch.dtype, temperature: float
) -> None:
    hidden, head = sides(dtype=dtype)
    theirs, weights = teacher(form, dtype=dtype), numbers(TOKENS, seed=6, dtype=dtype).abs()
    found = functools.partial(linear_divergence, hidden, head, theirs, name, temperature=temperature)
    expected = functools.partial(composed, hidden, head, theirs, name, temperature=temperature)
    same(found, expected, hidden, head, tolerance=TOLERANCE[dtype])
    weighed = functools.partial(found, token_weights=weights, chunk=3)
    same(weighed, lambda: expected() * weights, hidden, head, tolerance=TOLERANCE[dtype])


@pytest.mark.parametrize("form", ["hidden", "logits", "sparse"])
@pytest.mark.parametrize("chunk", [1, 3, 64, None])
@pytest.mark.parametrize("tokens", [0, 1, 2, 17])
def test_any_number_of_tokens_in_chunks_of_any_size(tokens: int, chunk: int | None, form: str) -> None:
    hidden, head = sides(tokens)
    theirs = teacher(form, tokens)
    same(
        lambda: linear_divergence(hidden, head, theirs, "reverse_kl", chunk=chunk),
        lambda: composed(hidden, head, theirs, "reverse_kl"),
        hidden,
        head,
        tolerance=1e-10,
    )


@pytest.mark.parametrize("name", SPARSE)
def test_a_stored_signal_of_everything_is_the_dense_one(name: str) -> None:
    hidden, head = sides()
    everything = stored(top=VOCABULARY)
    dense = torch.empty(TOKENS, VOCABULARY, dtype=torch.float64).scatter_(1, everything.ids, everything.log_probs)
    same(
        lambda: linear_divergence(hidden, head, everything, name),
        lambda: linear_divergence(hidden, head, dense, name),
        hidden,
        head,
        tolerance=1e-10,
    )


def test_parameters_reach_the_formula() -> None:
    hidden, head = sides()
    theirs = teacher("hidden")
    chosen: tuple[tuple[str, dict[str, Any]], ...] = (("jensen_shannon", {"beta": 0.1}), ("skew_kl", {"alpha": 0.6}))
    for name, given in chosen:
        found = linear_divergence(hidden, head, theirs, name, **given)
        torch.testing.assert_close(found, composed(hidden, head, theirs, name, **given), atol=1e-10, rtol=1e-10)
        assert not torch.allclose(found, linear_divergence(hidden, head, theirs, name))


@pytest.mark.parametrize("size", [VOCABULARY - 6, VOCABULARY + 9])
def test_a_vocabulary_of_another_size_is_compared_by_sorting(size: int) -> None:
    hidden, head = sides()
    theirs = numbers(TOKENS, size, seed=7)
    found = functools.partial(linear_divergence, hidden, head, theirs, "universal_logit", chunk=2)
    expected = functools.partial(composed, hidden, head, theirs, "universal_logit")
    same(found, expected, hidden, head, tolerance=1e-10)


@pytest.mark.parametrize("chunk", [1, 4, None])
def test_several_terms_share_one_walk(chunk: int | None) -> None:
    hidden, head = sides()
    labels = torch.arange(TOKENS) * 3 % VOCABULARY
    signal, dense = stored(), numbers(TOKENS, VOCABULARY, seed=8)
    ids, counts = signal.ids, torch.tensor([[3, 1, 0, 2]] * TOKENS)
    terms = [
        (LabelTerm(labels, smoothing=0.2), 0.7),
        (dense_term("jensen_shannon", lambda rows, _: dense[rows], 2.0), 2.0),
        (sparse_term("skew_kl", ids, signal.log_probs, signal.tail_log_prob), 1.0),
        (SampledTerm(ids, counts), 0.5),
    ]

    def each() -> list[Tensor]:
        logits = hidden @ head.t()
        entropy = torch.nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.2)
        return [
            entropy,
            DIVERGENCES["jensen_shannon"](logits, dense, temperature=2.0),
            sparse("skew_kl", logits, ids, signal.log_probs, signal.tail_log_prob),
            random_sampled(logits, ids, counts),
        ]

    def expected() -> Tensor:
        return sum((part * weight for part, (_, weight) in zip(each(), terms, strict=True)), torch.zeros(TOKENS))

    same(lambda: fused_head(hidden, head, terms, chunk=chunk)[0], expected, hidden, head, tolerance=1e-10)
    _, parts = fused_head(hidden, head, terms, token_weights=numbers(TOKENS), chunk=chunk)
    torch.testing.assert_close(parts, torch.stack(each()), atol=1e-10, rtol=1e-10)
    assert not parts.requires_grad


@pytest.mark.parametrize("frozen", ["head", "hidden", "both"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    hidden, head = sides()
    theirs, leaves = teacher("hidden"), {"hidden": hidden, "head": head}
    wanted = [leaf for name, leaf in leaves.items() if frozen not in (name, "both")]
    expected = gradients(composed(hidden, head, theirs, "forward_kl"), numbers(TOKENS), *wanted) if wanted else ()
    for name, leaf in leaves.items():
        leaf.requires_grad_(frozen not in (name, "both"))
    found = linear_divergence(hidden, head, theirs, "forward_kl", chunk=2)
    assert found.requires_grad is bool(wanted)
    if wanted:
        torch.testing.assert_close(gradients(found, numbers(TOKENS), *wanted), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "skew_reverse_kl"])
def test_half_precision_is_widened_before_anything_is_computed(name: str) -> None:
    hidden, head = sides(dtype=torch.bfloat16)
    theirs = teacher("hidden", dtype=torch.bfloat16)
    assert isinstance(theirs, tuple)
    wide = [part.detach().float().requires_grad_() for part in (hidden, head)]
    expected = composed(wide[0], wide[1], (theirs[0].float(), theirs[1].float()), name)
    found = linear_divergence(hidden, head, theirs, name)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for ours, exact in zip(gradients(found, None, hidden, head), gradients(expected, None, *wide), strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours, exact.bfloat16(), atol=1e-6, rtol=1e-2)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_teacher_may_come_in_another_precision(name: str) -> None:
    hidden, head = sides()
    theirs = numbers(TOKENS, VOCABULARY, seed=4)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-10)):
        given = theirs.to(dtype)
        found = linear_divergence(hidden, head, given, name)
        torch.testing.assert_close(found, composed(hidden, head, given.double(), name), atol=tolerance, rtol=tolerance)


def test_autocast_around_it_changes_nothing() -> None:
    hidden, head = sides(dtype=torch.float32)
    theirs = teacher("hidden", dtype=torch.float32)
    expected = linear_divergence(hidden, head, theirs, "forward_kl")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_divergence(hidden, head, theirs, "forward_kl")
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_logits_of_ten_thousand_stay_numbers(name: str) -> None:
    hidden, head = sides(scale=1e4)
    theirs = numbers(TOKENS, VOCABULARY, seed=4, scale=1e4)
    expected = composed(hidden, head, theirs, name)
    found = linear_divergence(hidden, head, theirs, name)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    for ours, exact in zip(gradients(found, None, hidden, head), gradients(expected, None, hidden, head), strict=True):
        assert bool(ours.isfinite().all())
        torch.testing.assert_close(ours, exact, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_outcomes_that_the_teacher_rules_out(name: str) -> None:
    hidden, head = sides()
    theirs = numbers(TOKENS, VOCABULARY, seed=4)
    theirs[:, ::3] = -torch.inf
    found, expected = linear_divergence(hidden, head, theirs, name), composed(hidden, head, theirs, name)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    assert not bool(found.isnan().any())
    pairs = zip(gradients(found, None, hidden, head), gradients(expected, None, hidden, head), strict=True)
    for ours, exact in pairs:
        torch.testing.assert_close(ours, exact, atol=1e-10, rtol=1e-10, equal_nan=True)


def test_what_is_no_number_stays_so() -> None:
    hidden, head = sides()
    with torch.no_grad():
        hidden[2] = torch.nan
        hidden[5] = torch.inf
    for form in ("hidden", "sparse"):
        found = linear_divergence(hidden, head, teacher(form), "forward_kl", chunk=2)
        assert found.isnan().tolist() == [place in (2, 5) for place in range(TOKENS)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_log_probs_of_labels_and_their_way_back(dtype: torch.dtype) -> None:
    hidden, head = sides(17, dtype)
    labels, upstream = torch.arange(17) * 5 % VOCABULARY, numbers(17, seed=9, dtype=dtype)
    expected = (hidden @ head.t()).log_softmax(-1).gather(1, labels.unsqueeze(1)).squeeze(1)
    found = label_log_probs(hidden, head, labels)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    scalar = sequence_backward(hidden, head, labels, upstream)
    torch.testing.assert_close(scalar, (expected * upstream).sum(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(
        torch.autograd.grad(scalar, (hidden, head)),
        gradients(expected, upstream, hidden, head),
        atol=TOLERANCE[dtype],
        rtol=TOLERANCE[dtype],
    )


# The weights of adaptive KL are constants by design, so its slope is not that of its value
@pytest.mark.parametrize(("name", "form"), [pair for pair in FORMS if pair[0] != "adaptive_kl" and pair[1] != "logits"])
def test_finite_differences_agree(name: str, form: str) -> None:
    hidden, head = sides(2)
    theirs = teacher(form, 2)
    assert torch.autograd.gradcheck(
        lambda ours, weight: linear_divergence(ours, weight, theirs, name, chunk=1), (hidden, head)
    )


def test_a_graph_that_is_kept_gives_its_gradients_again() -> None:
    hidden, head = sides()
    loss = linear_divergence(hidden, head, teacher("hidden"), "forward_kl").sum() * 3
    first = torch.autograd.grad(loss, (hidden, head), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, (hidden, head)), first, atol=1e-12, rtol=1e-12)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the most numbers that any operation gave back."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for item in made if isinstance(made, tuple | list) else [made]:
            if isinstance(item, Tensor):
                self.numbers = max(self.numbers, item.numel())
        return made


@pytest.mark.parametrize("form", ["hidden", "sparse"])
@pytest.mark.parametrize("upstream", [None, numbers(200)])
def test_the_logits_of_all_tokens_never_exist(form: str, upstream: Tensor | None) -> None:
    tokens, chunk = 200, 4
    hidden, head = sides(tokens)
    theirs, kept = teacher(form, tokens), [0]

    def keep(item: Tensor) -> Tensor:
        kept.append(item.numel())
        return item

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda item: item), Largest() as largest:
        found = linear_divergence(hidden, head, theirs, "forward_kl", chunk=chunk)
        gradients(found, upstream, hidden, head)
    assert 0 < max(kept) <= tokens * WIDTH
    assert largest.numbers <= max(tokens * (WIDTH + 3), VOCABULARY * (WIDTH + 3), chunk * VOCABULARY)
    assert largest.numbers < tokens * VOCABULARY / 2


@pytest.mark.parametrize(
    ("theirs", "name"),
    [
        (numbers(TOKENS, VOCABULARY + 1), "forward_kl"),
        (numbers(TOKENS + 1, VOCABULARY), "forward_kl"),
        (numbers(TOKENS + 1, VOCABULARY), "universal_logit"),
        (numbers(TOKENS), "forward_kl"),
        ((numbers(TOKENS, 3), numbers(VOCABULARY - 1, 3)), "reverse_kl"),
        (stored(TOKENS + 1), "forward_kl"),
        (stored(), "universal_logit"),
        (teacher("logits"), "no_such_divergence"),
    ],
)
def test_what_cannot_be_compared_is_refused(theirs: Teacher, name: str) -> None:
    with pytest.raises(BadInput):
        linear_divergence(*sides(), theirs, name)


def test_a_head_that_does_not_learn_is_walked_in_large_chunks() -> None:
    """There is no gradient of the head beside which their memory would be small."""
    seen: list[int] = []

    def logits(rows: slice, _: object) -> Tensor:
        seen.append(rows.stop - rows.start)
        return torch.zeros(rows.stop - rows.start, VOCABULARY)

    for learns, sizes in ((False, [40]), (True, [32, 8])):
        seen.clear()
        hidden, head = torch.zeros(40, 4, requires_grad=True), torch.zeros(VOCABULARY, 4, requires_grad=learns)
        fused_head(hidden, head, [(dense_term("forward_kl", logits), 1.0)])
        assert seen == sizes
