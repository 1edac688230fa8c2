"""Divergences between the teacher's and the student's distribution at each token."""

from __future__ import annotations

from pydantic import Field

from kdstudio.catalogue.objectives.base import Objective, Signal, TemperatureParams
from kdstudio.registry import Params


class JensenShannonParams(TemperatureParams):
    """Parameters of the generalised Jensen-Shannon divergence."""

    beta: float = Field(
        0.5, gt=0, lt=1, description="The teacher's share in the mixture: near 0 like forward KL, near 1 like reverse."
    )


class SymmetricParams(TemperatureParams):
    """Parameters of the symmetric KL."""

    weight: float = Field(0.5, ge=0, le=1, description="The share of reverse KL; the rest is forward KL.")


class SkewParams(TemperatureParams):
    """Parameters of the skewed KLs."""

    alpha: float = Field(0.1, ge=0, lt=1, description="How much of the first distribution is mixed into the second.")


class ContrastiveSkewParams(SkewParams):
    """Parameters of DistiLLM-2's contrastive loss."""

    final_balance: float = Field(
        1.5, ge=1, lt=2, description="Weight of the student's own answers at the end; it starts at 1, the others fall."
    )


class AdaptiveParams(TemperatureParams):
    """Parameters of adaptive KL."""

    head_mass: float = Field(
        0.5, ge=0, le=1, description="The teacher's likeliest tokens up to this mass are its head."
    )


class AlphaBetaParams(TemperatureParams):
    """Parameters of the alpha-beta divergence."""

    alpha: float = Field(0.2, ge=0, le=2, description="Larger: more of the gradient where the two differ most.")
    beta: float = Field(0.7, ge=0, le=2, description="Larger: more of the gradient where the student is confident.")


class SampledParams(Params):
    """Parameters of random-sampled distillation."""

    draws: int = Field(50, ge=1, le=1024, description="Tokens drawn from the teacher at each position.")


class ByteAlignedParams(Params):
    """Parameters of byte-aligned distillation across tokenizers."""

    beta: float = Field(
        0.5, ge=0, le=1, description="The teacher's share in the mixture, on tokens both vocabularies know."
    )


def _divergence(
    key: str, label: str, when: str, paper: str, params: type[Params], methods: tuple[str, ...], *, preset: bool = False
) -> Objective:
    reference = f"https://arxiv.org/abs/{paper}" if paper[0].isdigit() else paper
    return Objective(key, label, when, reference, params, "divergence", (Signal.TEACHER_SIGNAL,), methods, preset)


DIVERGENCE_OBJECTIVES = (
    _divergence(
        "forward_kl",
        "Match (forward KL)",
        "With a teacher of the same tokenizer: the student learns its whole distribution at each token.",
        "1503.02531",
        TemperatureParams,
        ("Word-level KD", "Knowledge distillation (Hinton et al. 2015)", "BabyLlama", "sparse_topk"),
        preset=True,
    ),
    _divergence(
        "reverse_kl",
        "Reverse KL",
        "A much smaller student: it says less that the teacher would never say, and covers less.",
        "2306.08543",
        TemperatureParams,
        ("MiniLLM's single-step term",),
    ),
    _divergence(
        "jensen_shannon",
        "Jensen-Shannon",
        "Between forward and reverse KL, bounded: steady where the two distributions are far apart.",
        "2306.13649",
        JensenShannonParams,
        ("GKD's divergence", "f-DISTILL (JS)"),
    ),
    _divergence(
        "symmetric_kl",
        "Forward and reverse KL, mixed",
        "To cover the teacher and to avoid what it rules out, in a share of your choice.",
        "2404.02657",
        SymmetricParams,
        ("Jeffreys divergence", "Weighted sum of divergences", "BitDistiller's CAKLD"),
    ),
    _divergence(
        "skew_kl",
        "Skewed KL",
        "As forward KL, but bounded: quicker and steadier early in training.",
        "2402.03898",
        SkewParams,
        ("DistiLLM",),
    ),
    _divergence(
        "skew_reverse_kl",
        "Skewed reverse KL",
        "As reverse KL, but bounded: the best single choice on the student's own answers in DistiLLM.",
        "2402.03898",
        SkewParams,
        ("DistiLLM",),
    ),
    Objective(
        "contrastive_skew",
        "Contrastive skew (DistiLLM-2)",
        "With own answers beside the teacher's: pulls towards the ones and away from the others' faults.",
        "https://arxiv.org/abs/2503.07067",
        ContrastiveSkewParams,
        "divergence",
        (Signal.TEACHER_SIGNAL, Signal.ROLLOUTS),
        ("DistiLLM-2",),
    ),
    _divergence(
        "total_variation",
        "Total variation",
        "The plain distance of probabilities: rare tokens count as little as they are likely.",
        "2307.15190",
        TemperatureParams,
        ("f-DISTILL (TVD)", "TVD++"),
    ),
    _divergence(
        "adaptive_kl",
        "Adaptive KL",
        "Lets the larger gap decide at each token: the teacher's head or its tail.",
        "2404.02657",
        AdaptiveParams,
        ("AKL", "Rethinking KL"),
    ),
    _divergence(
        "alpha_beta",
        "Alpha-beta divergence",
        "For comparing: two numbers move it from forward to reverse KL and beyond.",
        "2505.04560",
        AlphaBetaParams,
        ("ABKD",),
    ),
    Objective(
        "universal_logit",
        "Sorted logits (ULD)",
        "A teacher with another tokenizer: compares sorted probabilities, token by token.",
        "https://arxiv.org/abs/2402.12030",
        TemperatureParams,
        "divergence",
        (Signal.WHOLE_DISTRIBUTION,),
        ("Universal logit distillation",),
    ),
    Objective(
        "byte_aligned",
        "Byte-aligned (GOLD)",
        "A teacher with another tokenizer that shares words: aligns both texts by bytes, merges probabilities.",
        "https://huggingface.co/docs/trl/gold_trainer",
        ByteAlignedParams,
        "divergence",
        (Signal.WHOLE_DISTRIBUTION,),
        ("GOLD", "ULD (hybrid)"),
    ),
    Objective(
        "random_sampled_topk",
        "Random-sampled logits",
        "An unbiased stand-in for the whole distribution from a few draws at each token.",
        "https://arxiv.org/abs/2503.16870",
        SampledParams,
        "divergence",
        (Signal.WHOLE_DISTRIBUTION,),
        ("RS-KD", "Sparse logit sampling"),
    ),
)
