"""What training needs of the job it runs in. A child's `Job` is one; so is anything a test or script brings along."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from kdstudio.jobs.events import Event


class Reporter(Protocol):
    """A place to report to, and somebody who may ask for a pause or a stop."""

    run_folder: Path

    def emit(self, event: Event, *, durable: bool = False) -> None:
        """Append an event to the journal; `durable` waits for the disk."""
        ...

    def warn(self, title: str, detail: str = "", hint: str = "") -> None:
        """Say something that does not stop the run."""
        ...

    def progress(self, done: int, total: int, *, unit: str = "rows", tokens: int = 0, stage: str = "") -> None:
        """Report progress."""
        ...

    def continues(self) -> bool:
        """Wait while paused; False once a stop was asked for."""
        ...


class TrainingJob(Reporter, Protocol):
    """A job with its project and its parameters: `recipe` and `teacher`."""

    project_folder: Path
    parameters: dict[str, Any]
