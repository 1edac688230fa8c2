"""What a bound objective is: the catalogue's description with the code that computes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from kdstudio.distillation.cross_target import CrossTarget
from kdstudio.distillation.inner_states import Watch
from kdstudio.distillation.passes import Part, Pass
from kdstudio.distillation.stored_signals import DrawnTarget
from kdstudio.distillation.targets import SparseTarget, TeacherTarget, WholeTarget
from kdstudio.errors import BugError


@dataclass(frozen=True)
class Setting:
    """What an objective may know before the first pass: both networks' configs, and the run's seed."""

    student: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


class Bound(Protocol):
    """An objective with its parameters bound. `module`: own weights, trained with the student."""

    @property
    def module(self) -> nn.Module | None:
        """Its own weights, if it has any."""
        ...

    def watch(self) -> tuple[Watch, Watch]:
        """What to keep of the student's and of the teacher's forward pass."""
        ...

    def prepare(self, view: Pass) -> dict[str, Tensor]:
        """What stays fixed while a round of own answers is learnt from, without gradients; often nothing."""
        ...

    def read(self, view: Pass) -> Sequence[Part]:
        """Its parts of the loss over a pass."""
        ...


class Objective:
    """A bound objective that reads a pass by one function and watches nothing."""

    def __init__(self, read: Callable[[Pass], Sequence[Part]], module: nn.Module | None = None) -> None:
        self._read, self.module = read, module

    def watch(self) -> tuple[Watch, Watch]:
        """Nothing inside."""
        return Watch(), Watch()

    def prepare(self, view: Pass) -> dict[str, Tensor]:  # noqa: ARG002 - others read it
        """Nothing."""
        return {}

    def read(self, view: Pass) -> Sequence[Part]:
        """Call the function."""
        return self._read(view)


Binder = Callable[[dict[str, Any], Setting], Bound]
"""(parameters, setting) -> the bound objective."""


def teacher_of(view: Pass, name: str) -> TeacherTarget | CrossTarget | DrawnTarget:
    """The pass's teacher, which the objective was promised."""
    if view.teacher is None:
        raise BugError(f"{name} was asked for without a teacher signal")
    return view.teacher


def signal_of(view: Pass, name: str) -> TeacherTarget:
    """The teacher's signal over the student's own vocabulary."""
    teacher = teacher_of(view, name)
    if isinstance(teacher, CrossTarget):
        raise BugError(f"{name} was asked for across vocabularies")
    if isinstance(teacher, DrawnTarget):
        raise BugError(f"{name} was asked for with stored draws")
    return teacher


def dense_of(view: Pass, name: str) -> WholeTarget:
    """The teacher's whole distribution over the student's own vocabulary."""
    teacher = signal_of(view, name)
    if isinstance(teacher, SparseTarget):
        raise BugError(f"{name} was asked for with a stored signal")
    return teacher
