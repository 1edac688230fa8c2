"""Learning from rewards for the student's own answers, and the reward model itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdstudio.catalogue.objectives.base import Objective, Signal
from kdstudio.registry import Params


class RewardModelParams(Params):
    """Parameters of the reward model."""

    margin: float = Field(0.0, ge=0, le=10, description="By how much the better response's reward must lead.")


class PolicyParams(Params):
    """What policy gradients share."""

    clip: float = Field(0.2, gt=0, lt=1, description="How far a token's probability may move in one round of answers.")
    kl_weight: float = Field(0.05, ge=0, le=10, description="Weight of staying near the student's beginning.")


class PPOParams(PolicyParams):
    """Parameters of PPO with a value head."""

    gamma: float = Field(1.0, ge=0, le=1, description="Discount of later rewards.")
    gae_lambda: float = Field(
        0.95, ge=0, le=1, description="Between the value head's guess (0) and the rewards seen (1)."
    )
    value_weight: float = Field(0.1, ge=0, le=10, description="Weight of the value head's own loss.")


class GRPOParams(PolicyParams):
    """Parameters of GRPO."""

    scale: Literal["std", "none"] = Field(
        "std", description="std: advantages in units of the group's spread; none: as they are (Dr. GRPO)."
    )


_NEEDS = (Signal.ROLLOUTS, Signal.REWARDS, Signal.REFERENCE_MODEL)

REINFORCEMENT_OBJECTIVES = (
    Objective(
        "reward_model",
        "Reward model",
        "From preferences, a model that scores answers, for PPO or GRPO to use.",
        "https://arxiv.org/abs/2203.02155",
        RewardModelParams,
        "reinforcement",
        (Signal.PREFERENCES,),
        ("InstructGPT's reward model", "UltraRM", "WizardMath's IRM"),
    ),
    Objective(
        "grpo",
        "Practise for reward (GRPO)",
        "Own answers in groups, each compared with its group: rewards without a second network.",
        "https://arxiv.org/abs/2402.03300",
        GRPOParams,
        "reinforcement",
        _NEEDS,
        ("GRPO", "Dr. GRPO", "RLAIF", "d-RLAIF"),
    ),
    Objective(
        "ppo",
        "Practise for reward (PPO)",
        "As GRPO, with a value head that learns what to expect at each token.",
        "https://arxiv.org/abs/1707.06347",
        PPOParams,
        "reinforcement",
        _NEEDS,
        ("PPO", "RLHF", "RLAIF", "WizardMath"),
    ),
)
