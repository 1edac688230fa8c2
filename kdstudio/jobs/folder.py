"""What lies in a run's folder besides its journal: the frozen job, its status, its lock and its control file."""

from __future__ import annotations

import json
import time
import tomllib
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import tomlkit

from kdstudio import files
from kdstudio.errors import BadInput

JOB_NAME, STATUS_NAME, CONTROL_NAME, HEARTBEAT_NAME, LOCK_NAME, LOG_NAME = (
    "job.toml",
    "status.json",
    "control",
    "heartbeat",
    "lock",
    "log.txt",
)
ASKED_NAME = "asked"  # of the project, with a journal of what was asked by hand
HEARTBEAT_SECONDS = 5.0
NOT_RESPONDING_SECONDS = 60.0


@dataclass(frozen=True)
class JobFile:
    """The frozen description of a run: what it does and with which parameters. Never holds a secret."""

    kind: str
    parameters: dict[str, Any]
    created: str = ""
    title: str = ""
    secret_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """Which process serves a run. A pid alone may be reused, so its start time goes with it."""

    pid: int = 0
    process_started: float = 0.0
    attempts: int = 0
    versions: dict[str, str] = field(default_factory=dict)


def write_job(run_folder: Path, job: JobFile) -> None:
    """Freeze a job into its folder."""
    run_folder.mkdir(parents=True, exist_ok=True)
    tables = {"version": 1, **asdict(job), "secret_names": list(job.secret_names)}
    files.write_text(run_folder / JOB_NAME, tomlkit.dumps(plain(tables)))


def read_job(run_folder: Path) -> JobFile:
    """Read a frozen job. Raises `BadInput` when the folder holds none."""
    try:
        tables = tomllib.loads((run_folder / JOB_NAME).read_text("utf-8"))
        return JobFile(
            kind=tables["kind"],
            parameters=tables.get("parameters", {}),
            created=tables.get("created", ""),
            title=tables.get("title", ""),
            secret_names=tuple(tables.get("secret_names", ())),
        )
    except (OSError, KeyError, ValueError) as error:
        raise BadInput(
            "This is not a run folder", f"{run_folder}: {error}.", "Choose a folder inside runs/."
        ) from error


def plain(value: Any) -> Any:
    """TOML knows no null: absent and empty mean the same in our tables."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item is not None}
    return [plain(item) for item in value if item is not None] if isinstance(value, list | tuple) else value


def write_status(run_folder: Path, status: Status) -> None:
    """Say which process serves the run."""
    files.write_text(run_folder / STATUS_NAME, json.dumps(asdict(status)))


def read_status(run_folder: Path) -> Status:
    """The last process that served the run; pid 0 if none did or the file is unreadable."""
    try:
        return Status(**json.loads((run_folder / STATUS_NAME).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return Status()


def process_of(run_folder: Path) -> psutil.Process | None:
    """The living process that serves a run, or None. Guards against a pid that another program got since."""
    status = read_status(run_folder)
    if not status.pid:
        return None
    with suppress(psutil.Error):
        process = psutil.Process(status.pid)
        same = abs(process.create_time() - status.process_started) < 2.0
        if same and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def request(run_folder: Path, wish: str) -> None:
    """Ask the child to "pause", "run" or "stop"; it looks twice a second."""
    files.write_text(run_folder / CONTROL_NAME, wish)


def requested(run_folder: Path) -> str:
    """What was last asked of the child ("run" if nothing)."""
    try:
        return (run_folder / CONTROL_NAME).read_text("utf-8").strip() or "run"
    except OSError:
        return "run"


def heartbeat_age(run_folder: Path) -> float:
    """Seconds since the child last showed that it is alive (0 if it never did)."""
    try:
        return max(0.0, time.time() - (run_folder / HEARTBEAT_NAME).stat().st_mtime)
    except OSError:
        return 0.0


def log_tail(run_folder: Path, characters: int = 4000) -> str:
    """The end of what the child printed, for a report."""
    try:
        with (run_folder / LOG_NAME).open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - characters * 4))
            return stream.read().decode("utf-8", "replace")[-characters:]
    except OSError:
        return ""
