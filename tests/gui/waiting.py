"""Waiting for a job in a test: until it ends well, and not a moment longer when it ends otherwise."""

from __future__ import annotations

from pytestqt.qtbot import QtBot

from kdstudio.project import Project

_MILLISECONDS = 180_000


class EndedOtherwiseError(Exception):
    """A job that should have finished failed, stopped or was interrupted."""


def wait_finished(project: Project, run_id: str, qtbot: QtBot, milliseconds: int = _MILLISECONDS) -> None:
    """Let the window work until the run is finished. Raises with the run's own words when it ends otherwise."""

    def finished() -> bool:
        run = project.runs.get(run_id)
        if run.state in ("failed", "stopped", "interrupted") and run.error:
            raise EndedOtherwiseError(f"{run.title} {run.state}: {run.error}")
        return run.state == "finished"

    qtbot.waitUntil(finished, timeout=milliseconds)
