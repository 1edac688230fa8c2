"""Where the teacher's signal comes from during training: the vault, or the teacher's own network beside the student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.distillation.batches import Batch
from kdstudio.distillation.forward import Embedded, head_weight, response_hidden, watched_hidden
from kdstudio.distillation.inner_states import InnerStates, Watch
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.targets import DenseTarget, MixedTarget, TeacherTarget
from kdstudio.errors import BugError, Stopped

Precision = Callable[[], AbstractContextManager[object]]


class SignalSource(Protocol):
    """Gives the teacher's view of the response tokens of a batch."""

    kind: Literal["dense", "stored"]

    def target(self, batch: Batch) -> TeacherTarget:
        """The signal of the batch's N tokens, on the batch's device."""
        ...


class DenseTeacher:
    """The teacher's network. Its last hidden states are kept, never V numbers a token: the head is applied when read.

    Rows announced to `remember` are run once, in fixed groups, so that an interrupted run that starts over meets the
    same bits. When every row is remembered, `forget_body` gives the network's memory back. `outcomes`: the student's;
    further ids of a padded vocabulary are left out.
    """

    kind: Literal["dense", "stored"] = "dense"

    def __init__(
        self,
        network: PreTrainedModel,
        rows: TrainingRows,
        device: torch.device,
        precision: Precision,
        *,
        outcomes: int | None = None,
    ) -> None:
        self._network: PreTrainedModel | None = network.to(device).requires_grad_(False).eval()  # type: ignore[arg-type]
        self._head = head_weight(network).detach()[:outcomes]
        self._rows = rows
        self._prefix = rows.prefix.to(device)
        self._device = device
        self._precision = precision
        self._hidden: dict[int, Tensor] = {}

    def cache_bytes(self, rows: Sequence[int]) -> int:
        """What remembering `rows` takes."""
        return self._rows.response_tokens(rows) * self._head.shape[1] * 4

    def remember(self, rows: Sequence[int], *, going_on: Callable[[int, int], bool]) -> None:
        """Run `rows` now and keep their hidden states; `going_on(done, total)` hears of each group, and may stop it."""
        done = 0
        for group in self._rows.groups(rows):
            batch = self._rows.batch(group, self._device)
            self.keep(batch, self._run(batch))
            done += len(group)
            if not going_on(done, len(rows)):
                raise Stopped("The teacher was still reading the rows.")

    def keep(self, batch: Batch, hidden: Tensor) -> None:
        """Remember the hidden states [N, H] of the batch's response tokens, from wherever they come."""
        parts = torch.split(hidden, [len(self._rows.examples[row].response_ids) for row in batch.rows])
        self._hidden.update({row: part.clone() for row, part in zip(batch.rows, parts, strict=True)})

    @property
    def members(self) -> tuple[DenseTeacher, ...]:
        """Itself: a mixture has several."""
        return (self,)

    def unknown(self, rows: Sequence[int]) -> list[int]:
        """Those of `rows` that are not remembered."""
        return [row for row in rows if row not in self._hidden]

    def can_read(self, rows: Sequence[int]) -> bool:
        """Whether these rows can be read now: remembered, or the body still there."""
        return self._network is not None or not self.unknown(rows)

    def look(self, batch: Batch, watch: Watch) -> tuple[DenseTarget, InnerStates | None]:
        """Run the batch now and keep the inner states that are watched."""
        with torch.no_grad(), self._precision():
            network = self.network()
            hidden, kept = watched_hidden(network, batch, Embedded(network, batch, self._prefix), watch)
        return DenseTarget(hidden.float(), self._head), kept

    def network(self) -> PreTrainedModel:
        """The network itself, for what only a running teacher can do. Raises `BugError` once its body was freed."""
        if self._network is None:
            raise BugError("the teacher's body was freed, but it is asked to run")
        return self._network

    def forget_body(self) -> None:
        """Free everything but the head; from now on only remembered rows can be read."""
        self._network = None

    def target(self, batch: Batch) -> DenseTarget:
        """Remembered, or run now."""
        if all(row in self._hidden for row in batch.rows):
            return DenseTarget(torch.cat([self._hidden[row] for row in batch.rows]), self._head)
        return DenseTarget(self._run(batch), self._head)

    def _run(self, batch: Batch) -> Tensor:
        with torch.no_grad(), self._precision():
            network = self.network()
            return response_hidden(network, batch, Embedded(network, batch, self._prefix)).float()


class MixedTeacher:
    """Several teachers of one vocabulary that run beside the student: it learns from their mean.

    `shares` sum to 1. What a single network alone can say, hidden states or an answer, a mean does not.
    """

    kind: Literal["dense", "stored"] = "dense"

    def __init__(self, members: Sequence[DenseTeacher], shares: Sequence[float]) -> None:
        self.members, self._shares = tuple(members), tuple(shares)

    def cache_bytes(self, rows: Sequence[int]) -> int:
        """What remembering `rows` takes, all members together."""
        return sum(member.cache_bytes(rows) for member in self.members)

    def remember(self, rows: Sequence[int], *, going_on: Callable[[int, int], bool]) -> None:
        """As a single teacher does; progress is counted over all."""
        total = len(rows) * len(self.members)
        for place, member in enumerate(self.members):
            before = place * len(rows)
            member.remember(rows, going_on=lambda done, _, before=before: going_on(before + done, total))  # type: ignore[misc]

    def can_read(self, rows: Sequence[int]) -> bool:
        """Whether all members can read these rows now."""
        return all(member.can_read(rows) for member in self.members)

    def forget_body(self) -> None:
        """Free everything but the heads."""
        for member in self.members:
            member.forget_body()

    def target(self, batch: Batch) -> MixedTarget:
        """The mean at the batch's tokens."""
        return MixedTarget(tuple(member.target(batch) for member in self.members), self._shares)


RunningTeacher = DenseTeacher | MixedTeacher
