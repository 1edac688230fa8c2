"""The student as it began: what preferences and policies are held near to."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.distillation.batches import Batch
from kdstudio.distillation.forward import Embedded, head_weight, response_hidden
from kdstudio.distillation.kernels import label_log_probs
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.teacher_signals import Precision
from kdstudio.errors import BugError, Stopped
from kdstudio.students.build import Student


class Reference:
    """Log-probs under the student's first weights. Made before any checkpoint is restored.

    Under LoRA the first weights are what the adapters stand beside, so nothing is copied. The log-probs of stored rows
    are kept: each is computed once.
    """

    def __init__(self, student: Student, rows: TrainingRows, device: torch.device, precision: Precision) -> None:
        self._student, self._rows, self._device, self._precision = student, rows, device, precision
        self._prefix = rows.prefix.to(device)
        self._copy: PreTrainedModel | None = None
        if student.wrapped is None:
            self._copy = copy.deepcopy(student.model).to(device).requires_grad_(False).eval()  # type: ignore[arg-type]
        self._known: dict[int, Tensor] = {}

    @contextlib.contextmanager
    def network(self) -> Iterator[PreTrainedModel]:
        """The network with its first weights, for as long as the block lasts."""
        if self._student.wrapped is not None:
            with self._student.wrapped.disable_adapter():
                yield self._student.model
        elif self._copy is not None:
            yield self._copy
        else:
            raise BugError("the reference was freed, but it is asked to run")

    def remember(self, rows: Sequence[int], *, going_on: Callable[[int, int], bool]) -> None:
        """Run stored rows now; `going_on(done, total)` may stop it."""
        done = 0
        for group in self._rows.groups(rows):
            batch = self._rows.batch(group, self._device)
            lengths = [len(example.response_ids) for example in batch.examples]
            self._known.update(zip(group, torch.split(self._run(batch), lengths), strict=True))
            done += len(group)
            if not going_on(done, len(rows)):
                raise Stopped("The reference was still reading the rows.")

    def forget(self) -> None:
        """Free the copy: from now on only remembered rows can be read."""
        self._copy = None

    def log_probs(self, batch: Batch) -> Tensor:
        """[N] log-probs of the batch's labels."""
        if all(row in self._known for row in batch.rows):
            return torch.cat([self._known[row] for row in batch.rows])
        return self._run(batch)

    @torch.no_grad()
    def _run(self, batch: Batch) -> Tensor:
        with self.network() as network:
            was_training = network.training
            network.train(False)
            with self._precision():
                hidden = response_hidden(network, batch, Embedded(network, batch, self._prefix))
            found = label_log_probs(hidden.float(), head_weight(network), batch.labels)
            network.train(was_training)
        return found
