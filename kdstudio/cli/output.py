"""What the command line prints: JSON on stdout when asked for, text for people on stderr."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from kdstudio import files, settings
from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs.events import (
    Body,
    Checked,
    Checkpoint,
    Event,
    Failed,
    Finished,
    Line,
    Metric,
    Progress,
    Sample,
    Started,
    State,
    Warned,
    encode,
    now,
)
from kdstudio.jobs.supervisor import ACTIVE, Supervisor
from kdstudio.project import Project
from kdstudio.secrets import redact

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON on stdout: one object, or one a line.")]
ProjectPath = Annotated[Path, typer.Argument(help="The project folder, NAME.kdstudio.")]


def wants_json(words: list[str]) -> bool:
    """Whether `--json` is among the words, also when they could not be parsed."""
    return "--json" in words


def fail(error: KnownError, *, as_json: bool) -> int:
    """Print an error the way that was asked for; returns its exit code."""
    if as_json:
        print(json.dumps({"error": error.as_dict()}, ensure_ascii=False), flush=True)
    print(f"\nError: {error}" if error.detail or error.hint else f"\nError: {error.title}", file=sys.stderr)
    return error.exit_code


def broke(error: Exception) -> KnownError:
    """What to say of an error that nothing expected: the system's words for a file's, else where the trace is kept."""
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        hint = "Check the disk and the folder's rights, then try again."
        return KnownError("A file cannot be used", f"{place}{error.strerror}.", hint)
    path = settings.data_folder() / "reports" / f"{now().translate({58: None, 46: None})}.txt"
    with suppress(OSError, KnownError):
        files.write_text(path, redact("".join(traceback.format_exception(error))))
    return KnownError(
        "The program broke",
        redact(f"{type(error).__name__}: {error}"),
        f"This is a fault of the program, and your project is safe. Please report it with {path}",
    )


def say(text: str = "") -> None:
    """One line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def show(value: Any, *, as_json: bool, text: str = "") -> None:
    """The result of a verb: one JSON object on stdout, or text."""
    print(json.dumps(value, ensure_ascii=False, default=str) if as_json else text, flush=True)


@contextmanager
def opened(path: Path, *, read_only: bool = False) -> Iterator[Project]:
    """A project for the length of a verb. `BadInput`: there is none; `KnownError`: it is open elsewhere."""
    if not path.exists() and path.with_name(path.name + ".kdstudio").exists():
        path = path.with_name(path.name + ".kdstudio")
    if not path.exists():
        raise BadInput("There is no project here", f"{path} does not exist.", f"Make one with: kdstudio init {path}")
    project = Project.open(path, read_only=read_only)
    try:
        yield project
    finally:
        project.close()


def follow(
    supervisor: Supervisor,
    project: Project,
    run_id: str,
    *,
    as_json: bool,
    labels: Mapping[str, Any] | None = None,
    bodies: bool = False,
) -> dict[str, Any]:
    """Show a run until it is over; returns its result. `labels` are added to each JSON line.

    `bodies`: print what servers sent, raw, as JSON too; the journal has it in any case.

    Raises `KnownError` or `BadInput` with the job's own words when it failed. Ctrl+C asks it to stop, and waits.
    """
    said = Saying(labels, bodies=bodies)
    while True:
        try:
            for identity, line in supervisor.poll():
                if identity == run_id:
                    said.line(line, as_json=as_json)
            if run_id not in supervisor.active():
                break
            time.sleep(0.05)
        except KeyboardInterrupt:
            say("\nStopping; what was done is kept. (Ctrl+C again to leave at once.)")
            supervisor.stop(run_id)
    said.end()
    run = project.runs.get(run_id)
    if run.state in ("failed", "interrupted"):
        error = run.error or {}
        kind = BadInput if error.get("bad_input") else KnownError
        raise kind(error.get("title", "The job failed"), error.get("detail", ""), error.get("hint", ""))
    if run.state in ACTIVE:
        raise KnownError("The job is still running", f"Run {run_id}.", "See: kdstudio jobs PROJECT")
    return dict(run.result or {})


class Saying:
    """Turns events into JSON lines, or into one progress line that is rewritten on a terminal."""

    def __init__(self, labels: Mapping[str, Any] | None = None, *, bodies: bool = False) -> None:
        self._labels, self._bodies = dict(labels or {}), bodies
        self._spoke_at = 0.0
        self._open = False

    def line(self, line: Line, *, as_json: bool) -> None:
        """Show one event."""
        if as_json and isinstance(line.event, Body) and not self._bodies:
            return
        if as_json:
            told = encode(line.event, line.seq, line.t).decode()
            sys.stdout.write(f"{json.dumps({**json.loads(told), **self._labels})}\n" if self._labels else told)
            sys.stdout.flush()
            return
        text = _text(line.event)
        if not text:
            return
        if not isinstance(line.event, Progress):
            self.end()
            say(text)
        elif sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
            self._open = True
        elif time.monotonic() - self._spoke_at > 5 or line.event.done >= line.event.total:
            self._spoke_at = time.monotonic()
            say(text)

    def end(self) -> None:
        """Leave the rewritten line standing and go to the next."""
        if self._open:
            print(file=sys.stderr)
        self._open = False


def _text(event: Event) -> str:
    match event:
        case Progress():
            eta = f", {duration(event.eta)} left" if event.eta else ""
            rate = f" at {event.rate:,.1f} {event.rate_unit}" if event.rate else ""
            stage = f"{event.stage}: " if event.stage else ""
            return f"  {stage}{event.done:,} of {event.total:,} {event.unit}{rate}{eta}"
        case Metric(values=values) if any(name.startswith("held_out") for name in values):
            figures = ", ".join(
                f"{name.removeprefix('held_out_').replace('_', ' ')} {value:.3f}"
                for name, value in values.items()
                if name.startswith("held_out")
            )
            return f"  step {event.step}: held-out {figures}"
        case Sample():
            return f'  "{_short(event.prompt)}": {_short(event.student, 160)}'
        case Warned(title=title, detail=detail, hint=hint):
            said = title.rstrip(".")
            return f"  Note: {said}. {detail} {hint}".rstrip()
        case Checked(level=level, title=title, detail=detail) if level != "good":
            return f"  {level.capitalize()}: {title}. {detail}".rstrip()
        case State(state=state) if state != "running":
            return f"  {state}"
        case Started(note=note):
            return f"  {note}" if note else ""
        case Finished(stopped=True):
            return "  Stopped; what was done is kept."
        case Checkpoint() | Failed() | _:
            return ""


def _short(text: str, characters: int = 60) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= characters else flat[: characters - 1] + "…"


def counted(number: int, thing: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def duration(seconds: float) -> str:
    """`75` -> `1 min 15 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
