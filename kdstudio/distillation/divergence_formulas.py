"""Each divergence as one small formula over two distributions, with its derivative beside it.

A formula reads `Outcomes` (teacher p, student q over V outcomes, a block of n rows) and returns its value [n] in nats
and its slope q * dD/dq [n, V]. The softmax carries the slope to the student's logits z in the same way for all of them,

    dD/dz = slope - q * sum(slope),

so that a formula needs no autograd, and the head's kernel can form the gradient while it computes the value. An outcome
with p = q = 0 adds nothing to any of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdstudio.errors import BadInput

_SMALLEST = torch.finfo(torch.float32).tiny
_LIMIT = 1e-6  # an exponent this close to 0 takes the limit's formula


class Outcomes:
    """A block of n rows: the teacher's p and the student's q over V outcomes, from their logits at one temperature.

    Logits of -inf rule an outcome out. NaN and +inf have no distribution: they come out as NaN, never as a number.
    """

    def __init__(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> None:
        self._student = _softened(student_logits, temperature)
        self._teacher = _softened(teacher_logits, temperature)
        self.q, self._student_total = _softmax(self._student)
        self.p, self._teacher_total = _softmax(self._teacher)
        lowest = torch.minimum(self._student.amin(), self._teacher.amin())
        self._ruled_out = not bool(torch.isfinite(lowest))

    @functools.cached_property
    def log_p(self) -> Tensor:
        """[n, V]."""
        return self._teacher - self._teacher_total.unsqueeze(-1)

    @functools.cached_property
    def log_q(self) -> Tensor:
        """[n, V]."""
        return self._student - self._student_total.unsqueeze(-1)

    @functools.cached_property
    def log_ratio(self) -> Tensor:
        """log(p / q) [n, V]; exactly 0 where the logits agree, and 0 where both rule the outcome out."""
        ratio = torch.sub(self._teacher, self._student)
        if self._ruled_out:
            ratio = ratio.masked_fill_(self._teacher == self._student, 0.0)
        return ratio.sub_((self._teacher_total - self._student_total).unsqueeze(-1))

    def times(self, weight: Tensor, logarithm: Tensor) -> Tensor:
        """weight * logarithm, which is 0 wherever the weight is, also where the logarithm is infinite."""
        product = weight * logarithm
        return product.masked_fill_(weight == 0, 0.0) if self._ruled_out else product


def _softened(logits: Tensor, temperature: float) -> Tensor:
    wide = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    wide = wide - wide.amax(dim=-1, keepdim=True)
    return wide if temperature == 1 else wide.div_(temperature)


def _softmax(shifted: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities [n, V] and log-sum-exp [n] of logits whose largest is 0: one exponential each, not two."""
    mass = shifted.exp()
    total = mass.sum(dim=-1)
    return mass.div_(total.unsqueeze(-1)), total.log()


Formula = Callable[..., tuple[Tensor, Tensor]]


def forward_kl(both: Outcomes) -> tuple[Tensor, Tensor]:
    """sum p log(p / q); slope -p."""
    return both.times(both.p, both.log_ratio).sum(dim=-1), both.p.neg()


def reverse_kl(both: Outcomes) -> tuple[Tensor, Tensor]:
    """sum q log(q / p); slope q log(q / p), short of a multiple of q, which the softmax cancels."""
    slope = both.times(both.q, both.log_ratio).neg_()
    return slope.sum(dim=-1), slope


def jensen_shannon(both: Outcomes, beta: float) -> tuple[Tensor, Tensor]:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q; slope (1 - beta) q log(q / m)."""
    log_mixture = _log_mixture(both, beta)
    slope = both.times(both.q, both.log_q - log_mixture).mul_(1 - beta)
    teacher = both.times(both.p, both.log_p - log_mixture)
    return teacher.sum(dim=-1).mul_(beta) + slope.sum(dim=-1), slope


def symmetric_kl(both: Outcomes, weight: float) -> tuple[Tensor, Tensor]:
    """(1 - weight) KL(p || q) + weight KL(q || p)."""
    forward, forward_slope = forward_kl(both)
    reverse, reverse_slope = reverse_kl(both)
    value = _blend(forward, reverse, weight)
    return value, forward_slope.mul_(1 - weight).add_(reverse_slope, alpha=weight)


def skew_kl(both: Outcomes, alpha: float) -> tuple[Tensor, Tensor]:
    """KL(p || m), m = alpha p + (1 - alpha) q; slope -p (1 - alpha) q / m."""
    log_mixture = _log_mixture(both, alpha)
    value = both.times(both.p, both.log_p - log_mixture).sum(dim=-1)
    if alpha == 0:
        return value, both.p.neg()
    ratio = (both.log_p - log_mixture).exp_()  # p / m, at most 1 / alpha
    return value, ratio.mul_(both.q).mul_(alpha - 1)


def skew_reverse_kl(both: Outcomes, alpha: float) -> tuple[Tensor, Tensor]:
    """KL(q || m), m = (1 - alpha) p + alpha q; slope q log(q / m) - alpha q^2 / m, short of a multiple of q."""
    logarithm = both.log_q - _log_mixture(both, 1 - alpha)
    terms = both.times(both.q, logarithm)
    value = terms.sum(dim=-1)
    return value, terms.sub_(both.times(both.q, logarithm.exp()), alpha=alpha) if alpha else terms


def total_variation(both: Outcomes) -> tuple[Tensor, Tensor]:
    """1/2 sum |p - q|; slope 1/2 q sign(q - p)."""
    difference = both.q - both.p
    return difference.abs().sum(dim=-1).mul_(0.5), difference.sign_().mul_(both.q).mul_(0.5)


def adaptive_kl(both: Outcomes, head_mass: float) -> tuple[Tensor, Tensor]:
    """(g_h KL(p || q) + g_l KL(q || p)) / (g_h + g_l), g the |p - q| in the teacher's head and in the rest, constants.

    The head: the likeliest outcomes whose cumulated p is at most `head_mass`, and always the likeliest one.
    """
    gap = (both.p - both.q).abs_()
    whole = gap.sum(dim=-1)
    inside = _head_gap(both.p, gap, head_mass) if head_mass < 1 else whole  # a cumulated p of 1 may round above it
    share = torch.where(whole > 0, inside / whole.clamp_min(_SMALLEST), torch.full_like(whole, 0.5))
    forward, forward_slope = forward_kl(both)
    reverse, reverse_slope = reverse_kl(both)
    rest = 1 - share
    value = _weighted(share, forward) + _weighted(rest, reverse)
    return value, forward_slope.mul_(share.unsqueeze(-1)).add_(reverse_slope.mul_(rest.unsqueeze(-1)))


def _head_gap(p: Tensor, gap: Tensor, head_mass: float) -> Tensor:
    """The gap [n] within each row's head: as many of the likeliest outcomes are sorted as the head is long."""
    k, vocabulary = min(64, p.shape[-1]), p.shape[-1]
    while True:
        chosen, ids = p.topk(k, dim=-1)
        before = chosen.cumsum(dim=-1)
        inside = before <= head_mass
        if k == vocabulary or not bool(inside[:, -1].any()):
            break
        k = min(vocabulary, 8 * k)
    inside[:, 0] = True
    return gap.gather(-1, ids).masked_fill_(~inside, 0.0).sum(dim=-1)


def alpha_beta(both: Outcomes, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """The alpha-beta divergence, with its limits where alpha, beta or their sum is 0.

    -1/(ab) sum(p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)); the slope is -1/a q^b (p^a - q^a) in all cases, and
    -q^b log(p / q) where a = 0.
    """
    total, ratio = alpha + beta, both.log_ratio
    if min(abs(alpha), abs(beta), abs(total)) < _LIMIT:
        return _alpha_beta_limit(both, alpha, beta)
    size = ratio.abs()
    power = torch.where(
        ratio > 0, ratio.new_tensor(beta), ratio.new_tensor(alpha)
    )  # the larger side is the base, so that no exponential overflows
    terms = torch.expm1(-power * size).sub_(torch.expm1(size.mul_(-total)).mul_(power / total))
    value = both.times((torch.maximum(both.log_p, both.log_q) * total).exp_(), terms).sum(dim=-1).div_(-alpha * beta)
    return value, _alpha_beta_slope(both, alpha, beta)


def _alpha_beta_slope(both: Outcomes, alpha: float, beta: float) -> Tensor:
    p_alpha, q_alpha = (both.log_p * alpha).exp_(), (both.log_q * alpha).exp_()
    return p_alpha.sub_(q_alpha).mul_((both.log_q * beta).exp_()).div_(-alpha)


def _alpha_beta_limit(both: Outcomes, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    ratio = both.log_ratio
    if abs(alpha) < _LIMIT and abs(beta) < _LIMIT:
        return ratio.square().sum(dim=-1).mul_(0.5), ratio.neg()
    if abs(alpha + beta) < _LIMIT:
        terms = torch.expm1(ratio * alpha).sub_(ratio, alpha=alpha)
        return terms.sum(dim=-1).div_(alpha**2), torch.expm1(ratio * alpha).div_(-alpha)
    power = alpha + beta  # the one of the two that is not 0
    base, size = (torch.maximum(both.log_p, both.log_q) * power).exp_(), ratio.abs() * power
    fall = torch.expm1(-size)
    # sum(a log(a / b) - a + b) of powered masses, a the teacher's where beta = 0 and the student's where alpha = 0
    heavier = ratio > 0 if abs(beta) < _LIMIT else ratio < 0
    terms = torch.where(heavier, size + fall, both.times((-size).exp_(), size).neg_() - fall)
    value = both.times(base, terms).sum(dim=-1).div_(power**2)
    if abs(alpha) < _LIMIT:
        return value, both.times((both.log_q * beta).exp_(), ratio).neg_()
    return value, _alpha_beta_slope(both, alpha, 0.0)


def sorted_distance(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """sum |p_(i) - q_(i)| over both in falling order, zeros after the shorter; slope q_(i) sign(q_(i) - p_(i)).

    p [n, V'] and q [n, V] may be over different vocabularies.
    """
    q_sorted, places = q.sort(dim=-1, descending=True)
    p_sorted = p.sort(dim=-1, descending=True).values
    shared = min(p.shape[-1], q.shape[-1])
    difference = q_sorted.clone()
    difference[:, :shared] -= p_sorted[:, :shared]
    value = difference.abs().sum(dim=-1) + p_sorted[:, shared:].sum(dim=-1)
    return value, torch.empty_like(q).scatter_(-1, places, difference.sign_().mul_(q_sorted))


def universal_logit(both: Outcomes) -> tuple[Tensor, Tensor]:
    """`sorted_distance` over one vocabulary."""
    return sorted_distance(both.p, both.q)


def _log_mixture(both: Outcomes, teacher_share: float) -> Tensor:
    """log(share p + (1 - share) q) [n, V]; finite also where both are 0."""
    if teacher_share == 0:
        return both.log_q
    if teacher_share == 1:
        return both.log_p
    mixture = torch.lerp(both.q, both.p, teacher_share)
    return mixture.clamp_min_(_SMALLEST).log_()


def _blend(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """(1 - weight) first + weight second, where a weight of 0 also silences what is infinite."""
    if weight in (0, 1):
        return second if weight else first
    return first * (1 - weight) + second * weight


def _weighted(weight: Tensor, value: Tensor) -> Tensor:
    return (weight * value).masked_fill(weight == 0, 0.0)


FORMULAS: dict[str, Formula] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
    "symmetric_kl": symmetric_kl,
    "skew_kl": skew_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "total_variation": total_variation,
    "adaptive_kl": adaptive_kl,
    "alpha_beta": alpha_beta,
    "universal_logit": universal_logit,
}

DEFAULTS: dict[str, dict[str, float]] = {
    "jensen_shannon": {"beta": 0.5},
    "symmetric_kl": {"weight": 0.5},
    "skew_kl": {"alpha": 0.1},
    "skew_reverse_kl": {"alpha": 0.1},
    "adaptive_kl": {"head_mass": 0.5},
    "alpha_beta": {"alpha": 0.2, "beta": 0.7},
}

RANGES: dict[str, tuple[float, float]] = {
    "beta": (0.0, 1.0),
    "weight": (0.0, 1.0),
    "alpha": (0.0, 1.0),
    "head_mass": (0.0, 1.0),
    "alpha_beta.alpha": (-1.0, 2.0),
    "alpha_beta.beta": (-1.0, 2.0),
}


def check_parameters(name: str, temperature: float, parameters: dict[str, float]) -> None:
    """Raises `BadInput` where a divergence is undefined: a temperature that is not positive, a share outside [0, 1]."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise _undefined(name, "temperature", temperature, "above 0")
    unknown = set(parameters) - set(DEFAULTS.get(name, {}))
    if unknown:
        raise BadInput(
            "Unknown parameter",
            f"{name} has none called {min(unknown)!r}.",
            f"Known: {', '.join(DEFAULTS.get(name, {})) or 'none'}, temperature.",
        )
    for key, value in parameters.items():
        low, high = RANGES.get(f"{name}.{key}", RANGES.get(key, (-math.inf, math.inf)))
        if not (math.isfinite(value) and low <= value <= high):
            raise _undefined(name, key, value, f"from {low:g} to {high:g}")


def _undefined(name: str, key: str, value: float, allowed: str) -> BadInput:
    return BadInput(
        "This divergence is not defined there", f"{name} has {key} = {value:g}.", f"Choose {key} {allowed}."
    )
