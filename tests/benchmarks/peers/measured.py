"""How both sides are measured: the same inputs from a folder, the same clock, the same account of memory."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.autograd import backward

THREADS = 2
_SAMPLE_SECONDS = 0.002


@dataclass(frozen=True)
class Inputs:
    """One row of T tokens, of which the last R are the response, under two heads.

    `hidden` [T, Hs], `head` [V, Hs] of the student, leaves that want gradients; `teacher_hidden` [T, Ht],
    `teacher_head` [V, Ht]; `labels` [T] int64, -100 in the prompt; the teacher's stored signal of the response tokens:
    `ids` [R, k] int64, `log_probs` [R, k], `tail_log_prob` [R].
    """

    hidden: Tensor
    head: Tensor
    teacher_hidden: Tensor
    teacher_head: Tensor
    labels: Tensor
    ids: Tensor
    log_probs: Tensor
    tail_log_prob: Tensor

    @property
    def responses(self) -> int:
        """R."""
        return int(self.ids.shape[0])

    @property
    def rows(self) -> slice:
        """The hidden states that predict the response."""
        return slice(-self.responses - 1, -1)

    def require_gradients(self) -> Self:
        """Make leaves of the student's side."""
        self.hidden.requires_grad_()
        self.head.requires_grad_()
        return self

    def save(self, folder: Path) -> None:
        """One .npy file a tensor."""
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name).numpy())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote, in memory of this process's own."""
        return cls(**{field.name: torch.from_numpy(np.load(folder / f"{field.name}.npy")) for field in fields(cls)})

    @classmethod
    def random(cls, tokens: int, responses: int, vocabulary: int, widths: tuple[int, int], top_k: int) -> Self:
        """From a fixed seed; logits have a standard deviation of 2 (student) and 3 (teacher): somewhat peaked."""
        generator = torch.Generator().manual_seed(0)

        def normal(rows: int, width: int, scale: float) -> Tensor:
            return torch.randn(rows, width, generator=generator) * scale

        student, teacher = widths
        teacher_hidden, teacher_head = normal(tokens, teacher, 1.0), normal(vocabulary, teacher, 3 / teacher**0.5)
        found = torch.log_softmax(teacher_hidden[-responses - 1 : -1] @ teacher_head.t(), -1).topk(top_k)
        labels = torch.randint(vocabulary, (tokens,), generator=generator)
        labels[:-responses] = -100
        return cls(
            hidden=normal(tokens, student, 1.0),
            head=normal(vocabulary, student, 2 / student**0.5),
            teacher_hidden=teacher_hidden,
            teacher_head=teacher_head,
            labels=labels,
            ids=found.indices,
            log_probs=found.values,
            tail_log_prob=torch.log1p(-found.values.exp().sum(-1).clamp(max=1 - 1e-6)),
        )


class PeakMemory:
    """The highest resident memory while entered, sampled in a thread. `extra`: beyond the start; `total`: all."""

    def __enter__(self) -> Self:
        self._process = psutil.Process()
        self._start = self.total = self._process.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def extra(self) -> int:
        """Bytes."""
        return self.total - self._start

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            self.total = max(self.total, self._process.memory_info().rss)


Loss = Callable[[Inputs], Tensor]
"""From the inputs to the mean loss over the response tokens, with a graph."""


def forward_and_backward(loss: Loss, folder: Path, name: str, runs: int) -> None:
    """Measure `loss` with its backward pass, leave the gradients in `folder`, and print the line of JSON.

    The first run is watched for its memory and warms up; the others are timed. A tiny one before them starts the
    threads and loads what is loaded lazily, so that none of that counts as memory of the work.
    """
    torch.set_num_threads(THREADS)
    small = Inputs.random(32, 16, 512, (16, 16), 50).require_gradients()
    backward(loss(small))
    inputs = Inputs.load(folder).require_gradients()
    with PeakMemory() as memory:
        value = loss(inputs)
        backward(value)
    for leaf in ("hidden", "head"):
        gradient = getattr(inputs, leaf).grad
        if gradient is not None:
            np.save(folder / f"{name}.{leaf}.npy", gradient.numpy())
    moments = [_now()]
    for _ in range(runs):
        inputs.hidden.grad = inputs.head.grad = None
        backward(loss(inputs))
        moments.append(_now())
    print(json.dumps({**_between(moments), "extra_bytes": memory.extra, "loss": value.item()}))


def _now() -> tuple[float, float]:
    """The clock, and what the process has had of the cores: where others work too, the second tells more."""
    return time.perf_counter(), time.process_time()


def _between(moments: list[tuple[float, float]]) -> dict[str, list[float]]:
    pairs = list(itertools.pairwise(moments))
    return {
        "seconds": [later[0] - earlier[0] for earlier, later in pairs],
        "core_seconds": [later[1] - earlier[1] for earlier, later in pairs],
    }


class StepClock:
    """The time between the ends of training steps, and the highest memory after the first, which only warms up."""

    def __init__(self) -> None:
        self._ends: list[tuple[float, float]] = []
        self._memory = PeakMemory()
        self._peak = 0

    def step_done(self) -> None:
        """To be called at the end of each step."""
        self._ends.append(_now())
        if len(self._ends) == 1:
            self._memory.__enter__()
        self._peak = self._memory.total

    def report(self, loss: float) -> None:
        """Print the line of JSON; `loss`: that of the first step."""
        self._memory.__exit__(None, None, None)
        print(json.dumps({**_between(self._ends), "total_bytes": self._peak, "loss": loss}))
