"""Learning from preferences: which of several responses to a prompt is better."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdstudio.catalogue.objectives.base import Objective, Signal
from kdstudio.registry import Params

_BETA = "How far the student may leave its beginning for the preferences; smaller is further."


class DPOParams(Params):
    """Parameters of direct preference optimisation."""

    beta: float = Field(0.1, gt=0, le=10, description=_BETA)
    loss: Literal["sigmoid", "hinge"] = Field("sigmoid", description="sigmoid: DPO; hinge: SLiC's margin.")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="Share of preferences taken to be the wrong way.")


class BetaParams(Params):
    """Parameters: beta alone."""

    beta: float = Field(0.1, gt=0, le=10, description=_BETA)


class KTOParams(BetaParams):
    """Parameters of KTO."""

    desirable_weight: float = Field(1.0, gt=0, le=100, description="Weight of good responses.")
    undesirable_weight: float = Field(1.0, gt=0, le=100, description="Weight of bad responses.")


class ORPOParams(Params):
    """Parameters of ORPO."""

    odds_weight: float = Field(0.1, gt=0, le=100, description="Weight of the odds ratio beside imitation.")


class SimPOParams(Params):
    """Parameters of SimPO."""

    beta: float = Field(2.0, gt=0, le=20, description="Scale of the mean log-probs.")
    gamma: float = Field(1.0, ge=0, le=20, description="By how much the better response must lead.")


class RRHFParams(Params):
    """Parameters of RRHF."""

    rank_weight: float = Field(1.0, gt=0, le=1000, description="Weight of the ranking beside imitation of the best.")


class PROParams(Params):
    """Parameters of PRO."""

    sft_weight: float = Field(0.05, ge=0, le=100, description="Weight of imitating the best response.")


_PAIRS = (Signal.PREFERENCES, Signal.REFERENCE_MODEL)


def _ranking(
    key: str,
    label: str,
    when: str,
    paper: str,
    params: type[Params],
    methods: tuple[str, ...],
    needs: tuple[Signal, ...] = _PAIRS,
) -> Objective:
    return Objective(key, label, when, f"https://arxiv.org/abs/{paper}", params, "ranking", needs, methods)


RANKING_OBJECTIVES = (
    _ranking(
        "dpo",
        "Prefer (DPO)",
        "Pairs of a better and a worse response: the usual first choice.",
        "2305.18290",
        DPOParams,
        ("Zephyr's dDPO", "Self-Rewarding", "iterative DPO", "KnowTuning", "CycleAlign", "ALMoST", "RLCD"),
    ),
    _ranking(
        "ipo", "IPO", "Pairs that are nearly certain, where DPO would never stop.", "2310.12036", BetaParams, ("IPO",)
    ),
    _ranking("kto", "KTO", "Good and bad responses that need not come in pairs.", "2402.01306", KTOParams, ("KTO",)),
    _ranking(
        "orpo",
        "ORPO",
        "Pairs and imitation in one, without a second model in memory.",
        "2403.07691",
        ORPOParams,
        ("ORPO",),
        (Signal.PREFERENCES,),
    ),
    _ranking(
        "simpo",
        "SimPO",
        "Pairs without a second model; long answers gain nothing by their length.",
        "2405.14734",
        SimPOParams,
        ("SimPO",),
        (Signal.PREFERENCES,),
    ),
    _ranking(
        "rrhf",
        "Rank by log-prob (RRHF)",
        "Several scored responses to a prompt, without a second model.",
        "2304.05302",
        RRHFParams,
        ("RRHF",),
        (Signal.PREFERENCES,),
    ),
    _ranking(
        "pro",
        "Rank by order (PRO)",
        "Several responses whose scores' distances matter.",
        "2306.17492",
        PROParams,
        ("PRO",),
        (Signal.PREFERENCES,),
    ),
    _ranking(
        "spin",
        "Against its own past (SPIN)",
        "Accepted responses alone: the student learns to tell them from its own answers, round by round.",
        "2401.01335",
        BetaParams,
        ("SPIN",),
        (Signal.REFERENCE_TEXT, Signal.ROLLOUTS, Signal.REFERENCE_MODEL),
    ),
)
