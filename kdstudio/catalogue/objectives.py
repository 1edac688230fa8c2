"""The objectives: what a student can be trained towards, and the signals each one needs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from kdstudio.registry import Entry, Params, Registry


class Signal(StrEnum):
    """What an objective reads besides the student's own logits."""

    REFERENCE_TEXT = "reference text"
    TEACHER_SIGNAL = "teacher signal"


@dataclass(frozen=True)
class Objective(Entry):
    """An objective's description. `needs` names its signals; `family` groups it in forms and docs."""

    family: str
    needs: tuple[Signal, ...]


class SupervisedParams(Params):
    """Parameters of sequence-level distillation."""

    label_smoothing: float = Field(
        0.0, ge=0, le=0.5, description="Share of the target spread over the whole vocabulary."
    )


class ForwardKLParams(Params):
    """Parameters of forward KL."""

    temperature: float = Field(
        1.0,
        gt=0,
        le=20,
        description="Softens both distributions; the loss is multiplied by its square (Hinton et al. 2015).",
    )


OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    (
        Objective(
            key="forward_kl",
            label="Match (forward KL)",
            when="With a teacher of the same tokenizer: the student learns its whole distribution at each token.",
            reference="https://arxiv.org/abs/1503.02531",
            params=ForwardKLParams,
            family="divergence",
            needs=(Signal.TEACHER_SIGNAL,),
        ),
        Objective(
            key="supervised",
            label="Imitate (supervised)",
            when="Any teacher, an API too: the student learns to write the accepted responses.",
            reference="https://arxiv.org/abs/1606.07947",
            params=SupervisedParams,
            family="supervised",
            needs=(Signal.REFERENCE_TEXT,),
        ),
    ),
)
