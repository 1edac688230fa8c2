"""What was asked of a teacher that costs money: written before it is sent, and again before it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kdstudio.jobs.child import Job


class Ledger(Protocol):
    """Keeps the attempts of one run."""


def ledger_of(job: Job) -> Ledger:
    """The ledger of a run, with what earlier processes wrote into it."""
    return _Pending(job)


class _Pending:
    def __init__(self, job: Job) -> None:
        self.job = job
