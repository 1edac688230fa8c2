"""Learning to write the accepted responses."""

from __future__ import annotations

from pydantic import Field

from kdstudio.catalogue.objectives.base import Objective, Signal
from kdstudio.registry import Params


class SupervisedParams(Params):
    """Parameters of sequence-level distillation."""

    label_smoothing: float = Field(
        0.0, ge=0, le=0.5, description="Share of the target spread over the whole vocabulary."
    )
    row_weights: bool = Field(False, description="Weigh each row by its `weight:` tag (weight:0.5), as C-RLFT does.")


class RationaleParams(Params):
    """Parameters of learning rationale and answer as two tasks."""

    rationale_weight: float = Field(
        0.5, gt=0, le=10, description="Weight of the reasoning's tokens; the answer's have weight 1."
    )


class TokenWeightParams(Params):
    """Parameters of weighing tokens by the teacher."""

    floor: float = Field(0.1, ge=0, le=1, description="Weight of a token that the teacher rules out.")


SUPERVISED_OBJECTIVES = (
    Objective(
        "supervised",
        "Imitate (supervised)",
        "Any teacher, an API too: the student learns to write the accepted responses.",
        "https://arxiv.org/abs/1606.07947",
        SupervisedParams,
        "supervised",
        (Signal.REFERENCE_TEXT,),
        ("SeqKD", "Self-Instruct", "Alpaca", "Vicuna", "Orca", "WizardLM", "OpenChat's C-RLFT", "LMSI", "STaR"),
        preset=True,
    ),
    Objective(
        "rationale_multitask",
        "Reasoning and answer, weighed apart",
        "Responses with reasoning in front: learn both, and let the answer count for more.",
        "https://arxiv.org/abs/2305.02301",
        RationaleParams,
        "supervised",
        (Signal.REFERENCE_TEXT,),
        ("Distilling Step-by-Step", "CoT-Distill", "Fine-tune-CoT"),
    ),
    Objective(
        "weighted_tokens",
        "Tokens weighed by the teacher",
        "Text that the teacher did not write itself: learn most from the tokens it would have written too.",
        "https://arxiv.org/abs/2311.04072",
        TokenWeightParams,
        "supervised",
        (Signal.REFERENCE_TEXT, Signal.TEACHER_SIGNAL),
        ("FIGA",),
    ),
)
