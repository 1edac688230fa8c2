"""The objectives: what a student can be trained towards, and the signals each one needs."""

from __future__ import annotations

from kdstudio.catalogue.objectives.base import RUNNING_TEACHER, TEACHER_SIGNALS, Family, Objective, Signal
from kdstudio.catalogue.objectives.divergence import DIVERGENCE_OBJECTIVES
from kdstudio.catalogue.objectives.on_policy import ON_POLICY_OBJECTIVES
from kdstudio.catalogue.objectives.ranking import RANKING_OBJECTIVES
from kdstudio.catalogue.objectives.reinforcement import REINFORCEMENT_OBJECTIVES
from kdstudio.catalogue.objectives.similarity import SIMILARITY_OBJECTIVES
from kdstudio.catalogue.objectives.supervised import SUPERVISED_OBJECTIVES
from kdstudio.registry import Registry

__all__ = ["OBJECTIVES", "RUNNING_TEACHER", "TEACHER_SIGNALS", "Family", "Objective", "Signal"]

OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    (
        *DIVERGENCE_OBJECTIVES,
        *SUPERVISED_OBJECTIVES,
        *ON_POLICY_OBJECTIVES,
        *SIMILARITY_OBJECTIVES,
        *RANKING_OBJECTIVES,
        *REINFORCEMENT_OBJECTIVES,
    ),
)
