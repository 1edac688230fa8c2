"""The journal's vocabulary: one JSON object a line, `v, seq, t, event, ...`.

The journal is the truth about a job. A reader ignores an unterminated last line and events it does not know,
refuses a newer major version, and may read the same line any number of times without harm.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from kdstudio.errors import KnownError

VERSION = 1
_ENCODER = json.JSONEncoder(ensure_ascii=False)
MAXIMUM_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Event:
    """Base of all events. `seq` counts from 1 in one run; `t` is UTC, ISO 8601."""

    event: ClassVar[str] = ""


@dataclass(frozen=True)
class Started(Event):
    """The child is up. `resumed_from` is the step or row count it continues at (0 for a new run)."""

    event: ClassVar[str] = "started"
    kind: str = ""
    pid: int = 0
    resumed_from: int = 0
    total: int = 0
    note: str = ""


@dataclass(frozen=True)
class Progress(Event):
    """`done` of `total` units (`unit`: rows, steps, tokens, bytes), `rate` in `rate_unit`, `eta` in seconds."""

    event: ClassVar[str] = "progress"
    done: int = 0
    total: int = 0
    unit: str = "rows"
    rate: float = 0.0
    rate_unit: str = "tokens/s"
    eta: float | None = None
    stage: str = ""


@dataclass(frozen=True)
class Answer(Event):
    """A teacher's raw answer, journalled before it is parsed; `key` names the request, so it is never asked again.

    `teacher` names who answered where several might have; `request` is the question's digest, in a trial only.
    `log_probs`, where they were asked for: [text, log-prob in nats, [[text, log-prob] of the likeliest]] by token.
    """

    event: ClassVar[str] = "answer"
    key: str = ""
    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    error: str = ""
    reasoning: str = ""
    teacher: str = ""
    request: str = ""
    log_probs: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Attempt(Event):
    """A request to a teacher that may cost money, on the disk before it is sent.

    `teacher` and `key` name the question, `number` counts its attempts over all processes of the run, `reserved` is
    the most that it can cost in US dollars. An attempt without a `body` or a `settled` event may have been billed.
    `batch` is the mark of the batch that it belongs to, "" for a question asked by itself.
    """

    event: ClassVar[str] = "attempt"
    teacher: str = ""
    key: str = ""
    number: int = 0
    reserved: float = 0.0
    batch: str = ""


@dataclass(frozen=True)
class Body(Event):
    """A raw body as it came from a server, or the `part`-th of `parts` of a long one, on the disk before it is parsed.

    `encoding`: "" for plain text, "zlib+base64" for a long one (the text's UTF-8, compressed).
    """

    event: ClassVar[str] = "body"
    teacher: str = ""
    key: str = ""
    number: int = 0
    text: str = ""
    part: int = 1
    parts: int = 1
    encoding: str = ""


@dataclass(frozen=True)
class Settled(Event):
    """What became of an attempt: "answered" with its tokens and its cost in US dollars, or "refused" at no cost."""

    event: ClassVar[str] = "settled"
    teacher: str = ""
    key: str = ""
    number: int = 0
    outcome: str = "answered"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class Row(Event):
    """A row for the project: `kind` is prompt, response or preference; `row` the columns that `project` ingests."""

    event: ClassVar[str] = "row"
    kind: str = "response"
    row: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dropped(Event):
    """A row that a step did not let through, and why; `prompt` is the prompt's id (0 if it has none), `key` the row."""

    event: ClassVar[str] = "dropped"
    prompt: int = 0
    step: str = ""
    reason: str = ""
    key: str = ""


@dataclass(frozen=True)
class Funnel(Event):
    """How many rows entered each step of a recipe, left it, and fell in it by reason, so far; the last one counts.

    `steps`: objects with `step` (from 0), `type`, `entered`, `left` and `fell` (reason -> rows); `passed_by`, if any
    did.
    """

    event: ClassVar[str] = "funnel"
    steps: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Traced(Event):
    """What one step (`step` counts from 0) did to one row of a trial: the columns it wrote, or why the row fell.

    `by`: nothing, because its `when` was false for the row.
    """

    event: ClassVar[str] = "traced"
    key: str = ""
    step: int = 0
    type: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    by: bool = False


@dataclass(frozen=True)
class Metric(Event):
    """Named figures at a step: loss, learning_rate, tokens_per_second, memory_bytes, held_out_forward_kl, ..."""

    event: ClassVar[str] = "metric"
    step: int = 0
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample(Event):
    """A text the student wrote at a step, beside the teacher's."""

    event: ClassVar[str] = "sample"
    step: int = 0
    prompt: str = ""
    student: str = ""
    teacher: str = ""


@dataclass(frozen=True)
class Checkpoint(Event):
    """A complete checkpoint exists at `path` (relative to the run folder)."""

    event: ClassVar[str] = "checkpoint"
    step: int = 0
    path: str = ""


@dataclass(frozen=True)
class State(Event):
    """The job paused, resumed, or is stopping at a person's request (`state`: paused, running, stopping)."""

    event: ClassVar[str] = "state"
    state: str = "running"


@dataclass(frozen=True)
class Warned(Event):
    """Something the person should know that does not stop the job."""

    event: ClassVar[str] = "warning"
    title: str = ""
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Checked(Event):
    """One line of what was looked at before the first step; `level` is good, warning or fault.

    `passages`: a row's text in pieces, each with "read" or "learnt", where the line is about what is trained on.
    """

    event: ClassVar[str] = "checked"
    level: str = "good"
    title: str = ""
    detail: str = ""
    passages: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Finished(Event):
    """The job ended well; `result` holds the keys that `--json` promises for its kind. `stopped`: early, on request."""

    event: ClassVar[str] = "finished"
    result: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False


@dataclass(frozen=True)
class Failed(Event):
    """The job ended badly: what the person is told, and the log's tail for a report.

    `bad_input`: what it was given cannot be used (the command line's exit code 2), rather than a failure (1).
    """

    event: ClassVar[str] = "failed"
    title: str = ""
    detail: str = ""
    hint: str = ""
    log_tail: str = ""
    bad_input: bool = False


@dataclass(frozen=True)
class Batch(Event):
    """Where a batch of attempts stands, on the disk before the next step is taken; the attempts name it by its `mark`.

    `state`: "planned" (about to be sent; `after` is the newest batch that the provider had before it), "sent" (the
    provider calls it `id`), "ended" (all that came of it is in the journal), "refused" (the provider does not have it).
    """

    event: ClassVar[str] = "batch"
    teacher: str = ""
    mark: str = ""
    state: str = "planned"
    id: str = ""
    after: str = ""
    count: int = 0


KINDS: dict[str, type[Event]] = {
    kind.event: kind
    for kind in (
        Started,
        Progress,
        Answer,
        Attempt,
        Body,
        Settled,
        Row,
        Dropped,
        Funnel,
        Traced,
        Metric,
        Sample,
        Checkpoint,
        State,
        Warned,
        Checked,
        Finished,
        Failed,
        Batch,
    )
}


@dataclass(frozen=True)
class Line:
    """One decoded line of a journal."""

    seq: int
    t: str
    event: Event


def now() -> str:
    """The time as journals and rows write it: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode(event: Event, seq: int, t: str | None = None) -> bytes:
    """One line with its newline. `finished` spreads its result beside its own keys, as `--json` promises.

    Raises `KnownError` when the line would pass `MAXIMUM_LINE_BYTES`.
    """
    body = vars(event)
    if isinstance(event, Finished):
        body = {**dataclasses.asdict(event)["result"], "stopped": event.stopped}
    record = {"v": VERSION, "seq": seq, "t": t or now(), "event": event.event, **body}
    try:
        data = _ENCODER.encode(record).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate in a model's answer: only the escaped form carries it
        data = json.dumps(record).encode() + b"\n"
    if len(data) > MAXIMUM_LINE_BYTES:
        raise KnownError("A journal line is too long", f"An event of kind {event.event!r} takes {len(data):,} bytes.")
    return data


def decode(line: bytes) -> Line | None:
    """Read one terminated line. `None`: torn, too long, not JSON, or an event this version does not know.

    Raises `KnownError` when the line was written by a newer major version.
    """
    if not line.endswith(b"\n") or len(line) > MAXIMUM_LINE_BYTES:
        return None
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or not isinstance(body.get("seq"), int):
        return None
    if not isinstance(body.get("v"), int) or body["v"] > VERSION:
        raise KnownError(
            "This run was written by a newer KD Studio",
            f"Its journal has version {body.get('v')!r}; this program reads up to {VERSION}.",
            "Update KD Studio to open it.",
        )
    event = _event(body)
    return None if event is None else Line(body["seq"], str(body.get("t", "")), event)


def _event(body: dict[str, Any]) -> Event | None:
    kind = KINDS.get(str(body.get("event")))
    if kind is None:
        return None
    if kind is Finished:
        result = {key: value for key, value in body.items() if key not in ("v", "seq", "t", "event", "stopped")}
        return Finished(result, bool(body.get("stopped", False)))
    names = {item.name for item in dataclasses.fields(kind)}
    try:
        return kind(**{key: value for key, value in body.items() if key in names})
    except TypeError:
        return None
