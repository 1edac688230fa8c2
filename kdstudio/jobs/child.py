"""The child's side of a job: `python -m kdstudio job RUN_FOLDER`.

A child appends to its journal, shows that it is alive every five seconds, and looks for requests to pause, go on
or stop. It holds the run's lock, so that there are never two writers.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import psutil

from kdstudio import __version__
from kdstudio.errors import BadInput, KnownError, Stopped
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.events import Event, Failed, Finished, Line, Progress, Started, State, Warned
from kdstudio.jobs.journal import JournalWriter, read_journal
from kdstudio.secrets import redact

JOBS: dict[str, str] = {
    "elicit": "kdstudio.elicitation.job:run",
    "signals": "kdstudio.teachers.signals_job:run",
    "train": "kdstudio.distillation.job:run",
    "evaluate": "kdstudio.evaluation.job:run",
    "export": "kdstudio.export.job:run",
    "fetch_sample": "kdstudio.teachers.sample:run",
    "probe": "kdstudio.teachers.probe:run",
}
EXIT_DONE, EXIT_FAILED, EXIT_BUSY = 0, 1, 3
_CONTROL_SECONDS = 0.25
_PROGRESS_SECONDS = 0.25


class Job:
    """What a job function receives: its parameters, its journal, and whether it may go on."""

    def __init__(self, run_folder: Path, secrets: dict[str, str] | None = None) -> None:
        described = run_files.read_job(run_folder)
        self.run_folder = run_folder
        self.project_folder = run_folder.parent.parent
        self.kind = described.kind
        self.parameters = described.parameters
        self.secrets = secrets or {}
        self._history = list(read_journal(run_folder))
        self.resumed = any(isinstance(line.event, Started) for line in self._history)
        self._journal = JournalWriter(run_folder)
        self._running = threading.Event()
        self._running.set()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._began = time.monotonic()
        self._progress_at = 0.0
        self._stage: str | None = None
        self._reported = Progress()
        self._first_done = 0
        self._first_tokens = 0

    def emit(self, event: Event, *, durable: bool = False) -> None:
        """Append an event to the journal; `durable` waits for the disk. Safe from any thread."""
        self._journal.write(event, durable=durable)

    def emit_all(self, events: Iterable[Event], *, durable: bool = False) -> None:
        """Append several events at once; `durable` waits for the disk, once for all of them. Safe from any thread."""
        self._journal.write_all(events, durable=durable)

    def warn(self, title: str, detail: str = "", hint: str = "") -> None:
        """Say something that the person should know and that does not stop the job."""
        self.emit(Warned(title, detail, hint))

    def progress(self, done: int, total: int, *, unit: str = "rows", tokens: int = 0, stage: str = "") -> None:
        """Report progress, at most four times a second; rate is tokens (else units) a second of this stage."""
        moment = time.monotonic()
        if stage != self._stage:
            self._stage, self._first_done, self._first_tokens, self._began = stage, done, tokens, moment
        self._reported = Progress(done, total, unit)
        if moment - self._progress_at < _PROGRESS_SECONDS and done < total:
            return
        self._progress_at = moment
        elapsed = moment - self._began
        units = (done - self._first_done) / elapsed if elapsed > 0.2 else 0.0
        rate = (tokens - self._first_tokens) / elapsed if tokens and elapsed > 0.2 else units
        eta = (total - done) / units if units > 0 else None
        self.emit(Progress(done, total, unit, rate, "tokens/s" if tokens else f"{unit}/s", eta, stage))

    def waiting(self, stage: str) -> None:
        """Report what is waited for, beside the figures that were reported last."""
        self.emit(replace(self._reported, stage=stage))

    def continues(self) -> bool:
        """True to go on. Blocks while paused; False once a stop was asked for: save, and return what there is."""
        if not self._running.is_set():
            self._wait_while_paused()
        return not self._stopping.is_set()

    def _wait_while_paused(self) -> None:
        paused_at = time.monotonic()
        self.emit(State("paused"))
        while not self._running.wait(_CONTROL_SECONDS) and not self._stopping.is_set():
            continue
        self._began += time.monotonic() - paused_at
        if not self._stopping.is_set():
            self.emit(State("running"))

    def earlier(self) -> Iterator[Line]:
        """What earlier attempts of this same run journalled."""
        return iter(self._history)

    def stop(self) -> None:
        """Ask the job to end at the next opportunity (also what SIGTERM and the control file do).

        Only sets a flag: a signal may arrive while this very thread holds the journal's lock.
        """
        self._stopping.set()

    def _watch(self) -> None:
        """Body of the watching thread: heartbeat and requests."""
        beat, said = 0.0, False
        while not self._ended.wait(_CONTROL_SECONDS):
            if time.monotonic() - beat >= run_files.HEARTBEAT_SECONDS:
                with suppress(OSError):
                    (self.run_folder / run_files.HEARTBEAT_NAME).touch()
                beat = time.monotonic()
            wish = run_files.requested(self.run_folder)
            if wish == "stop":
                self.stop()
            elif wish == "pause":
                self._running.clear()
            else:
                self._running.set()
            if self._stopping.is_set() and not said:
                said = True
                with suppress(KnownError):  # a full disk: the job's own thread meets it too, and says it
                    self.emit(State("stopping"))

    def run(self, function: Callable[[Job], dict[str, Any]]) -> int:
        """Run a job function to its end and journal how it ended; returns the process's exit code."""
        watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
        watcher.start()
        try:
            self.emit(Started(self.kind, os.getpid()), durable=True)
            result = function(self)
            self._finish(Finished(result, stopped=self._stopping.is_set()))
            return EXIT_DONE
        except Stopped as stopped:
            self._end(Finished({"detail": stopped.detail}, stopped=True))
            return EXIT_DONE
        except KnownError as error:
            self._end(
                Failed(error.title, error.detail, error.hint, self._log_tail(), bad_input=isinstance(error, BadInput))
            )
        except MemoryError:
            self._end(
                Failed("Out of memory", "The job asked for more memory than there is.", _MEMORY_HINT, self._log_tail())
            )
        except Exception as error:  # noqa: BLE001 -- the last wall: whatever it is, the person gets words and the log its traceback
            sys.stderr.write(redact(traceback.format_exc(), tuple(self.secrets.values())))
            self._end(
                Failed(
                    "The job broke",
                    redact(f"{type(error).__name__}: {error}", tuple(self.secrets.values())),
                    "This is a fault of the program. The run can be resumed; please report it with the log.",
                    self._log_tail(),
                )
            )
        return EXIT_FAILED

    def _finish(self, event: Event) -> None:
        self._ended.set()
        self._journal.write_last(event)

    def _end(self, event: Event) -> None:
        """Finish where nothing is left to be done about a journal that takes no more: the log has its words."""
        try:
            self._finish(event)
        except KnownError as error:
            sys.stderr.write(f"{error}\n")

    def _log_tail(self) -> str:
        sys.stderr.flush()
        return redact(run_files.log_tail(self.run_folder), tuple(self.secrets.values()))


_MEMORY_HINT = "Use a smaller batch, shorter rows or fewer layers; see the estimate on the Train page."


def job_function(kind: str) -> Callable[[Job], dict[str, Any]]:
    """Import what executes a kind of job. Raises `KnownError` when the `local` extra it needs is not installed."""
    module_name, _, name = JOBS[kind].partition(":")
    try:
        function: Callable[[Job], dict[str, Any]] = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kdstudio"):
            raise
        raise KnownError(
            "Local models are not installed",
            f"This job needs the Python package {error.name!r}.",
            'Install them with: pip install "kdstudio[local]"',
        ) from error
    return function


def main(arguments: list[str]) -> int:
    """Entry of the child: RUN_FOLDER [--secrets] [--attached]."""
    faulthandler.enable()
    run_folder = Path(arguments[0]).resolve()
    lock = filelock.FileLock(str(run_folder / run_files.LOCK_NAME))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        sys.stderr.write(f"{run_folder} is served by another process.\n")
        return EXIT_BUSY
    secrets: dict[str, str] = json.loads(sys.stdin.readline() or "{}") if "--secrets" in arguments else {}
    try:
        _write_status(run_folder)
        job = Job(run_folder, secrets)
    except KnownError as error:  # nothing can be journalled: the log has it
        sys.stderr.write(f"{error}\n")
        return EXIT_FAILED
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: job.stop())
    if "--attached" in arguments:
        threading.Thread(target=_stop_with_caller, args=(job,), name="caller", daemon=True).start()
    code = job.run(lambda current: job_function(current.kind)(current))
    sys.stderr.flush()
    return code


def _write_status(run_folder: Path) -> None:
    earlier = run_files.read_status(run_folder)
    versions = {"kdstudio": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "llama-cpp-python", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    process = psutil.Process()
    run_files.write_status(
        run_folder, run_files.Status(process.pid, process.create_time(), earlier.attempts + 1, versions)
    )


def _stop_with_caller(job: Job) -> None:
    """A job started from the command line ends with it: its standard input closes even when the caller is killed."""
    while sys.stdin.readline():
        continue
    job.stop()
