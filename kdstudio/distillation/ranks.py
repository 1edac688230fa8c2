"""Several processes that train one student: each takes a share of a step's rows, gradients are added up.

The first process is the job itself: it alone writes to the journal and saves checkpoints. The others are started by it,
do the same in the same order, and end with it. What a step is does not depend on how many share it: every process knows
the whole step, so that counts, schedules and the loss are those of one process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.distributed.tensor import DTensor

from kdstudio import settings
from kdstudio.distillation.batches import Batch, pad
from kdstudio.distillation.bound.row_level import groups_of
from kdstudio.distillation.objectives import Sums
from kdstudio.distillation.reporter import Reporter
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.events import Event

_RANK = "KDSTUDIO_RANK"
_ENDING_SECONDS = 30


@contextlib.contextmanager
def started(run_folder: Path, processes: int) -> Iterator[None]:
    """The other processes of a run, for as long as the block lasts; nothing for one process, or in one of them."""
    if processes <= 1 or _RANK in os.environ:
        yield
        return
    port = _free_port()
    threads = max(1, settings.thread_count() // processes)
    kept = dict(os.environ)
    others = [
        subprocess.Popen(
            [sys.executable, "-m", "kdstudio.distillation.ranks", str(run_folder)],
            env={**kept, **_variables(rank, processes, port, threads), _RANK: str(rank)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        for rank in range(1, processes)
    ]
    os.environ.update(_variables(0, processes, port, threads))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)
        for other in others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                other.wait(_ENDING_SECONDS)
            other.kill()
            other.wait()
        _leave()


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _variables(rank: int, processes: int, port: int, threads: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
        "KDSTUDIO_THREADS": str(threads),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SharedReporter:
    """A job as every process sees it: the first one's word on going on holds for all, and it alone reports."""

    def __init__(self, job: Reporter, accelerator: Accelerator) -> None:
        self._job, self._accelerator = job, accelerator
        self.run_folder = job.run_folder

    def emit(self, event: Event, *, durable: bool = False) -> None:
        """Append to the journal, in the first process."""
        if self._accelerator.is_main_process:
            self._job.emit(event, durable=durable)

    def warn(self, title: str, detail: str = "", hint: str = "") -> None:
        """Say something, once."""
        if self._accelerator.is_main_process:
            self._job.warn(title, detail, hint)

    def progress(self, done: int, total: int, *, unit: str = "rows", tokens: int = 0, stage: str = "") -> None:
        """Report progress, once."""
        if self._accelerator.is_main_process:
            self._job.progress(done, total, unit=unit, tokens=tokens, stage=stage)

    def continues(self) -> bool:
        """Whether the first process was asked to stop; all hear the same."""
        word = [self._job.continues() if self._accelerator.is_main_process else True]
        broadcast_object_list(word)
        return bool(word[0])


class Shares:
    """How a step is divided, and how what was found is added up again."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.count, self.index = accelerator.num_processes, accelerator.process_index

    @property
    def several(self) -> bool:
        """Whether there is more than one process."""
        return bool(self.count > 1)

    def own(self, batch: Batch, extras: Mapping[str, Tensor], prefix: int) -> tuple[Batch, dict[str, Tensor]] | None:
        """This process's share of a pass: whole rows, whole groups; None where nothing is left for it."""
        if not self.several:
            return batch, dict(extras)
        grouped = any(example.group for example in batch.examples)
        units = groups_of(batch.examples) if grouped else [[place] for place in range(len(batch.examples))]
        places = [place for unit in units[self.index :: self.count] for place in unit]
        if not places:
            return None
        chosen = pad([batch.examples[place] for place in places], tuple(batch.rows[place] for place in places), prefix)
        kept = torch.cat([(batch.owner == place).nonzero().squeeze(1) for place in places])
        return chosen.to(batch.labels.device), {name: value[kept] for name, value in extras.items()}

    def first(self, batch: Batch, prefix: int) -> Batch:
        """The pass's first row alone, for a process that has none of its own but must compute along."""
        return pad(batch.examples[:1], batch.rows[:1], prefix).to(batch.labels.device)

    def add_up(self, parameters: Sequence[Tensor], sums: Sums) -> None:
        """Sum gradients and figures over all processes, in place. Of weights that are cut up that has been done."""
        if not self.several:
            return
        kinds = {"parts": sums.parts, "figures": sums.figures}
        names = [(kind, name) for kind, found in kinds.items() for name in sorted(found)]
        known: list[list[tuple[str, str]]] = [[] for _ in range(self.count)]
        torch.distributed.all_gather_object(known, names)
        every = sorted({name for own in known for name in own})
        values = [sums.loss, *(kinds[kind].get(name, 0.0) for kind, name in every)]
        loss, *others = self._accelerator.reduce(torch.tensor(values, dtype=torch.float64), "sum").tolist()
        sums.loss = loss
        for (kind, name), value in zip(every, others, strict=True):
            kinds[kind][name] = value
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if not isinstance(parameter, DTensor):
                parameter.grad = self._accelerator.reduce(parameter.grad, "sum")


class _Follower:
    """The job as the other processes have it: nobody listens to them."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.project_folder = run_folder.parent.parent
        self.parameters: dict[str, Any] = run_files.read_job(run_folder).parameters

    def emit(self, event: Event, *, durable: bool = False) -> None:
        """Say nothing."""

    def warn(self, title: str, detail: str = "", hint: str = "") -> None:
        """Say nothing."""

    def progress(self, done: int, total: int, *, unit: str = "rows", tokens: int = 0, stage: str = "") -> None:
        """Say nothing."""

    def continues(self) -> bool:
        """The first process decides."""
        return True


if __name__ == "__main__":
    from kdstudio.distillation.job import run

    run(_Follower(Path(sys.argv[1])))
    _leave()
