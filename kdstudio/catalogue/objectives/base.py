"""What describes an objective: its family, the signals it reads, the methods a person knows it by."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import Field

from kdstudio.registry import Entry, Params


class Signal(StrEnum):
    """What an objective reads besides the student's own logits."""

    REFERENCE_TEXT = "reference text"
    TEACHER_SIGNAL = "teacher signal"
    WHOLE_DISTRIBUTION = "the teacher's whole distribution"
    HIDDEN_STATES = "the teacher's hidden states"
    ATTENTION = "the teacher's attention"
    ROLLOUTS = "the student's own answers"
    PREFERENCES = "preferences"
    REFERENCE_MODEL = "the student as it began"
    REWARDS = "rewards"


TEACHER_SIGNALS = frozenset((Signal.TEACHER_SIGNAL, Signal.WHOLE_DISTRIBUTION, Signal.HIDDEN_STATES, Signal.ATTENTION))
"""What only a teacher with weights on this machine can give."""

RUNNING_TEACHER = TEACHER_SIGNALS - {Signal.TEACHER_SIGNAL}
"""What a teacher gives only while it runs beside the student."""

Family = Literal["supervised", "divergence", "similarity", "on-policy", "ranking", "reinforcement"]


@dataclass(frozen=True)
class Objective(Entry):
    """An objective's description. `needs` names its signals; `family` groups it in forms and docs.

    `methods`: published methods that it is, or is the loss of. `preset`: one of the few shown first.
    """

    family: Family
    needs: tuple[Signal, ...]
    methods: tuple[str, ...] = ()
    preset: bool = False


class TemperatureParams(Params):
    """Parameters of a divergence: the temperature."""

    temperature: float = Field(
        1.0,
        gt=0,
        le=20,
        description="Softens both distributions; the loss is multiplied by its square (Hinton et al. 2015).",
    )
