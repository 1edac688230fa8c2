"""Losses that teach an order: which of two responses is better, or how a list of them ranks.

The policy's log-probabilities come first and gradients flow only through them; references and scores are detached. A
log-probability is the sum over a response's tokens, in nats, unless a docstring says mean. Inputs below float32 are
widened. Ties teach nothing: two responses of one score are never compared.

Every function raises `BadInput` for shapes or parameters that do not fit, and `KnownError` for a log-probability or a
score that is not finite: where a reference rules a response out (-inf) a log-ratio means nothing, and such a row must
be removed or its candidate masked.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from kdstudio.errors import BadInput, KnownError


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float = 0.1,
    loss: Literal["sigmoid", "hinge"] = "sigmoid",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log sigma(beta h) with h = log pi/ref (chosen) - log pi/ref (rejected); [B] from log-probs [B].

    Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, equation 7; log 2 where the policy is its reference.
    `label_smoothing` e in [0, 0.5) is the chance that a pair is the wrong way round (conservative DPO, Mitchell 2023,
    https://ericmitchell.ai/cdpo.pdf): (1 - e) of this loss and e of the swapped pair's. "hinge" is max(0, 1 - beta h),
    the hinge-norm of Liu et al. 2023 (RSO), https://arxiv.org/abs/2309.06657; it has no smoothing.
    """
    _require_positive(beta=beta)
    if loss not in ("sigmoid", "hinge"):
        raise BadInput("Unknown kind of DPO loss", f"Got {loss!r}.", 'Choose "sigmoid" or "hinge".')
    if not 0 <= label_smoothing < 0.5 or (loss == "hinge" and label_smoothing):
        detail = f"Got {label_smoothing} with the {loss} loss."
        raise BadInput("Label smoothing is out of range", detail, "Use 0 to 0.5 with sigmoid, or 0 with hinge.")
    reward = beta * _margin(chosen, rejected, reference_chosen, reference_rejected)
    if loss == "hinge":
        return functional.relu(1 - reward)
    return -(1 - label_smoothing) * functional.logsigmoid(reward) - label_smoothing * functional.logsigmoid(-reward)


def ipo(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, *, beta: float = 0.1
) -> Tensor:
    """(h - 1 / (2 beta))^2 with h as in `dpo`; [B]. 1 / (4 beta^2) where the policy is its reference.

    Azar et al. 2023, https://arxiv.org/abs/2310.12036, equation 17 (their tau is beta). The paper's log-probs are sums;
    TRL divides each by its length first. Either can be passed: the caller decides, and beta has another meaning then.
    """
    _require_positive(beta=beta)
    return (_margin(chosen, rejected, reference_chosen, reference_rejected) - 1 / (2 * beta)).square()


def kto(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    baseline: Tensor | None = None,
) -> Tensor:
    """`kto_unpaired` of both responses of each pair, and their mean; [B]. 0.5 where the policy is its reference.

    The mean, not the sum: so the mean over pairs is the paper's mean over all 2 B responses.
    """
    _sequences(
        chosen=chosen, rejected=rejected, reference_chosen=reference_chosen, reference_rejected=reference_rejected
    )
    both = kto_unpaired(
        torch.cat([chosen, rejected]),
        torch.cat([reference_chosen, reference_rejected]),
        torch.arange(2 * len(chosen), device=chosen.device) < len(chosen),
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
        baseline=baseline,
    )
    return both.view(2, -1).mean(dim=0)


def kto_unpaired(
    log_probs: Tensor,
    reference: Tensor,
    desirable: Tensor,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    baseline: Tensor | None = None,
) -> Tensor:
    """weight * (1 - sigma(+-beta (r - z0))), + if `desirable` (bool [B]); r = log pi/ref; [B] in [0, weight].

    Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306, equation 8. z0 is a constant for the gradient and at least
    0, being an estimate of KL(pi || ref). `baseline` (one number) is that estimate before it is held above 0: in the
    paper the mean log-ratio of responses paired with other rows' prompts. Without one it is the mean log-ratio of this
    batch, good and bad responses alike, which is biased but costs no forward pass, and couples the rows of a batch.
    """
    log_probs, reference = _sequences(log_probs=log_probs, reference=reference)
    _require_positive(beta=beta)
    _require_not_negative(desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    if desirable.shape != log_probs.shape:
        raise BadInput("Shapes differ", f"desirable is {list(desirable.shape)}, log_probs {list(log_probs.shape)}.")
    ratio = log_probs - reference.detach()
    if baseline is None:
        baseline = ratio.mean()
    elif baseline.numel() != 1:
        raise BadInput("The baseline must be one number", f"Got shape {list(baseline.shape)}.")
    distance = ratio - baseline.detach().to(ratio.dtype).reshape(()).clamp(min=0.0)
    good = desirable.to(ratio.dtype)  # 1 or 0
    weight = desirable_weight * good + undesirable_weight * (1 - good)
    return weight * torch.sigmoid(beta * (1 - 2 * good) * distance)


def orpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor | None = None,
    reference_rejected: Tensor | None = None,
    *,
    weight: float = 0.1,
) -> Tensor:
    """-s_w - weight * log sigma(log odds(s_w) - log odds(s_l)) of MEAN log-probs s, odds = e^s / (1 - e^s); [B].

    Hong et al. 2024, https://arxiv.org/abs/2403.07691, equations 6 and 7. There is no reference: the two arguments are
    here so that every loss of pairs is called alike. A mean log-prob nearer to 0 than the type's epsilon (probability
    one) has infinite odds; it counts as minus epsilon.
    """
    del reference_chosen, reference_rejected
    _require_not_negative(weight=weight)
    chosen, rejected = _sequences(chosen=chosen, rejected=rejected)
    return -chosen - weight * functional.logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def simpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor | None = None,
    reference_rejected: Tensor | None = None,
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
) -> Tensor:
    """-log sigma(beta (s_w - s_l) - gamma) of MEAN log-probs s; [B].

    Meng et al. 2024, https://arxiv.org/abs/2405.14734, equation 6. gamma is the margin itself, not its ratio to beta as
    in the authors' settings. There is no reference; see `orpo`.
    """
    del reference_chosen, reference_rejected
    _require_positive(beta=beta)
    chosen, rejected = _sequences(chosen=chosen, rejected=rejected)
    return -functional.logsigmoid(beta * (chosen - rejected) - gamma)


def spin(data: Tensor, own: Tensor, opponent_data: Tensor, opponent_own: Tensor, *, beta: float = 0.1) -> Tensor:
    """-log sigma(beta [log pi/opponent (data) - log pi/opponent (own)]); [B]. log 2 at the opponent itself.

    Chen et al. 2024, https://arxiv.org/abs/2401.01335, equation 4.7 with the logistic loss (their lambda is beta). The
    opponent is the previous iteration's student and wrote `own`; `data` is the teacher's response.
    """
    return dpo(data, own, opponent_data, opponent_own, beta=beta)


def rrhf(
    mean_log_probs: Tensor,
    scores: Tensor,
    best_log_probs: Tensor | None = None,
    *,
    weight: float = 1.0,
    margin: float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """weight * sum over r_j > r_i of max(0, s_i - s_j + margin), + the best response's NLL; [B] from [B, n].

    Yuan et al. 2023, https://arxiv.org/abs/2304.05302, equations 2 to 4 (weight 1, margin 0; their code weighs 100).
    The best response has the highest score, the first of several; `best_log_probs` [B] is its log-prob as a sum, as in
    equation 3, without which its mean is taken. Each row has its own such term (their code reads the batch's first row
    only). `mask` [B, n] is true at candidates: a single one gives its NLL, none at all gives 0.
    """
    s, r, real = _candidates(mean_log_probs, scores, mask)
    _require_not_negative(weight=weight, margin=margin)
    behind = functional.relu(s.unsqueeze(1) - s.unsqueeze(2) + margin)  # [b, j, i] = s_i - s_j
    ranking = torch.where(_better(r, real), behind, torch.zeros_like(behind)).sum(dim=(1, 2))
    return weight * ranking + _nll_of_best(s, r, real, best_log_probs)


def pro(
    mean_log_probs: Tensor,
    scores: Tensor,
    *,
    sft_weight: float = 0.05,
    mask: Tensor | None = None,
    best_log_probs: Tensor | None = None,
) -> Tensor:
    """sum over k of -log e^(s_k G_k) / (e^(s_k G_k) + sum over i of e^(s_i g_ki)), + an SFT term; [B] from [B, n].

    Song et al. 2023, https://arxiv.org/abs/2306.17492, section 3: g_ki = r_k - r_i is one over the temperature of
    the pair, i runs over the candidates with r_i < r_k and G_k is the largest g_ki. A tie (g_ki = 0, an infinite
    temperature) leaves both out of each other's sum, so the order in which candidates are given never matters; taken
    literally it would add a constant e^0 that outweighs all others. The SFT term is sft_weight (n - 1)^2 NLL(best),
    n the row's number of candidates: a single one gives 0. `best_log_probs` and `mask` as in `rrhf`.
    """
    s, r, real = _candidates(mean_log_probs, scores, mask)
    _require_not_negative(sft_weight=sft_weight)
    gaps = torch.where(_better(r, real), r.unsqueeze(2) - r.unsqueeze(1), torch.zeros_like(r).unsqueeze(2))
    rivals = (s.unsqueeze(1) * gaps).masked_fill(gaps == 0, -torch.inf)
    own = s * gaps.amax(dim=2)
    ranking = torch.cat([own.unsqueeze(2), rivals], dim=2).logsumexp(dim=2) - own
    factor = sft_weight * (real.sum(dim=1) - 1).clamp(min=0).square().to(s.dtype)
    return ranking.sum(dim=1) + factor * _nll_of_best(s, r, real, best_log_probs)


def ranknet(scores: Tensor, targets: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """sum over t_i > t_j of log(1 + e^(s_j - s_i)); [B] from the student's scores and the targets, both [B, n].

    Burges et al. 2005, https://doi.org/10.1145/1102351.1102363, with certain targets; used to distil rankings by Sun et
    al. 2023, https://arxiv.org/abs/2304.09542, section 4. A higher target is better: turn a rank's sign round. `mask`
    [B, n] is true at candidates; fewer than two give 0.
    """
    s, t, real = _candidates(scores, targets, mask)
    losses = functional.softplus(s.unsqueeze(1) - s.unsqueeze(2))  # [b, i, j] = s_j - s_i
    return torch.where(_better(t, real), losses, torch.zeros_like(losses)).sum(dim=(1, 2))


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _require_positive(**parameters: float) -> None:
    for name, value in parameters.items():
        if not (value > 0 and math.isfinite(value)):
            raise BadInput(f"{name} must be above zero", f"Got {value}.")


def _require_not_negative(**parameters: float) -> None:
    for name, value in parameters.items():
        if not (value >= 0 and math.isfinite(value)):
            raise BadInput(f"{name} must not be negative", f"Got {value}.")


def _require_finite(name: str, values: Tensor) -> None:
    broken = (~values.detach().isfinite()).nonzero()
    if len(broken):
        position = broken[0].tolist()
        raise KnownError(
            f"{name} is not finite",
            f"At {position} of the batch it is {values[tuple(position)].item()}.",
            "A model that rules a response out cannot rank it: remove the row, or mask the candidate.",
        )


def _sequences(**log_probs: Tensor) -> list[Tensor]:
    """The tensors, widened, of one shape [B] and finite."""
    shapes = {name: list(tensor.shape) for name, tensor in log_probs.items()}
    if any(len(shape) != 1 or shape != next(iter(shapes.values())) for shape in shapes.values()):
        raise BadInput("Log-probabilities must all be of one shape [B]", f"Got {shapes}.")
    for name, tensor in log_probs.items():
        _require_finite(name, tensor)
    return [_wide(tensor) for tensor in log_probs.values()]


def _margin(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor) -> Tensor:
    chosen, rejected, reference_chosen, reference_rejected = _sequences(
        chosen=chosen, rejected=rejected, reference_chosen=reference_chosen, reference_rejected=reference_rejected
    )
    return (chosen - reference_chosen.detach()) - (rejected - reference_rejected.detach())


def _log_odds(mean_log_prob: Tensor) -> Tensor:
    """log(e^s / (1 - e^s)). expm1 keeps the digits near s = 0; far below it the log is 0 to within rounding of s."""
    s = mean_log_prob.clamp(max=-torch.finfo(mean_log_prob.dtype).eps)
    return s - torch.log(-torch.expm1(s))


def _candidates(log_probs: Tensor, scores: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, scores (detached) and the mask, all [B, n], with masked places at 0 whatever they held."""
    real = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.bool()
    if log_probs.ndim != 2 or not log_probs.shape == scores.shape == real.shape:
        shapes = [list(tensor.shape) for tensor in (log_probs, scores, real)]
        raise BadInput("Log-probabilities, scores and mask must be of one shape [B, n]", f"Got {shapes}.")
    if not log_probs.shape[1]:
        raise BadInput("There is nothing to rank", "The list of candidates is empty.")
    s, r = (torch.where(real, _wide(side), 0.0) for side in (log_probs, scores.detach()))
    _require_finite("A candidate's log-probability", s)
    _require_finite("A candidate's score", r)
    return s, r, real


def _better(scores: Tensor, real: Tensor) -> Tensor:
    """[b, j, i]: candidate j of row b scores strictly higher than candidate i, and both are there."""
    return (scores.unsqueeze(2) > scores.unsqueeze(1)) & real.unsqueeze(2) & real.unsqueeze(1)


def _nll_of_best(s: Tensor, r: Tensor, real: Tensor, best_log_probs: Tensor | None) -> Tensor:
    if best_log_probs is None:
        best = r.masked_fill(~real, -torch.inf).argmax(dim=1, keepdim=True)  # argmax takes the first of several
        best_log_probs = s.gather(1, best).squeeze(1)
    elif best_log_probs.shape != s.shape[:1]:
        raise BadInput("best_log_probs must be of shape [B]", f"Got {list(best_log_probs.shape)}.")
    known = torch.where(real.any(dim=1), _wide(best_log_probs), 0.0)
    _require_finite("best_log_probs", known)
    return -known
