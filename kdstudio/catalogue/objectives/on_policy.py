"""Learning on the student's own answers, judged token by token by the teacher."""

from __future__ import annotations

from pydantic import Field

from kdstudio.catalogue.objectives.base import Objective, Signal
from kdstudio.registry import Params


class MiniLLMParams(Params):
    """Parameters of MiniLLM."""

    gamma: float = Field(1.0, ge=0, le=1, description="How much later tokens count; 1 counts them all alike.")
    length_normalised: bool = Field(True, description="Mean instead of sum over later tokens, against short answers.")
    single_step: bool = Field(True, description="The exact reverse KL at each token beside the long-term part.")


class OnPolicyRewardParams(Params):
    """Parameters of on-policy distillation as a reward."""

    alpha: float = Field(1.0, gt=0, le=10, description="Scale of the advantage log p - log q.")


_NEEDS = (Signal.WHOLE_DISTRIBUTION, Signal.ROLLOUTS)

ON_POLICY_OBJECTIVES = (
    Objective(
        "minillm",
        "MiniLLM (policy gradient on reverse KL)",
        "Own answers, where each token is judged by all that follows from it.",
        "https://arxiv.org/abs/2306.08543",
        MiniLLMParams,
        "on-policy",
        _NEEDS,
        ("MiniLLM",),
    ),
    Objective(
        "on_policy_as_reward",
        "The teacher's log-probs as reward",
        "Own answers, each token rewarded by how much likelier the teacher finds it: cheap and steady.",
        "https://thinkingmachines.ai/blog/on-policy-distillation/",
        OnPolicyRewardParams,
        "on-policy",
        _NEEDS,
        ("On-policy distillation", "Qwen3's strong-to-weak distillation"),
    ),
)
