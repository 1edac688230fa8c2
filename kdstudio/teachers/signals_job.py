"""The job that stores a teacher's signals for accepted responses: what training reads instead of running the teacher.

The vault is the truth: a row whose signal is there and sound is never scored again, so that a broken run goes on. What
is damaged, or of another file than the teacher's of today, is said before it is scored anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs.events import Dropped, Event, Warned
from kdstudio.models.conversation import Conversation, encode_conversation
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.teachers.base import Teacher
from kdstudio.teachers.ensemble import mixture_name, open_signal_teacher
from kdstudio.teachers.opening import tokenizer_of
from kdstudio.teachers.signals import Draws, Rule, ShapedTail, Signal
from kdstudio.teachers.signals_draws import drawn, shows_all
from kdstudio.teachers.signals_shaped import fitted_to, sample_tokens, with_shapes
from kdstudio.teachers.tail_shape import TailShape, kept_shape
from kdstudio.teachers.vault import Vault
from kdstudio.teachers.vault_teachers import Origin, earlier_signals, remember_origin

DEFAULT_TOP_K = 50
MAXIMUM_TOP_K = 1024
MAXIMUM_DRAWS = 1024
_ROWS_AT_ONCE = 512  # scored together: enough neighbours to share beginnings, few enough to begin soon
_SPREAD = 2  # the shape of the tails is fitted to one in so many tokens of the first rows
_FLUSH_SECONDS = 2.0


class SignalsJob(Protocol):
    """What this job needs of `jobs.child.Job`."""

    project_folder: Path
    parameters: dict[str, Any]
    secrets: dict[str, str]

    def emit(self, event: Event, *, durable: bool = False) -> None:
        """Append to the journal."""
        ...

    def progress(self, done: int, total: int, *, unit: str = "rows", tokens: int = 0, stage: str = "") -> None:
        """Report progress."""
        ...

    def continues(self) -> bool:
        """True to go on; blocks while paused."""
        ...


@dataclass
class _Work:
    """A row to score."""

    key: str
    conversation: Conversation


@dataclass
class _Tally:
    """What was covered so far; `new_` counts what this attempt computed."""

    rows: int = 0
    tokens: int = 0
    new_rows: int = 0
    new_tokens: int = 0
    left_out: int = 0
    mass: float = 0.0
    seconds: float = field(default=0.0)

    def add(self, tokens: int, mass: float, *, new: bool) -> None:
        self.rows += 1
        self.tokens += tokens
        self.new_rows += new
        self.new_tokens += tokens * new
        self.mass += mass


@dataclass
class _Scoring:
    """One run of the job: who scores what by which rule, and what came of it so far."""

    job: SignalsJob
    project: Project
    teacher: Teacher
    vault: Vault
    origin: Origin
    rule: Rule
    shape: TailShape | None = None
    total: int = 0
    tally: _Tally = field(default_factory=_Tally)

    def key(self, conversation: Conversation) -> str:
        """The name of a row's signal."""
        pair = (conversation.prompt_ids, conversation.response_ids)
        return Vault.key(self.origin.fingerprint, self.rule, *pair)

    def progress(self) -> None:
        """Report what was covered."""
        tally = self.tally
        self.job.progress(tally.rows + tally.left_out, self.total, tokens=tally.new_tokens, stage="Scoring")


def run(job: SignalsJob) -> dict[str, Any]:
    """Store signals for accepted responses. Parameters: `teacher`, `top_k` (50), `limit` (0 is all).

    In place of `teacher`, `teachers` with their `weights` are scored as the mixture of them. With `draws` (and a `seed`
    for them) each token keeps so many draws from the teacher in place of its top k; with `tail` "shaped" its top k and
    how the rest is spread.

    Returns rows, tokens, seconds, tokens_per_second, captured_mass (0..1), bytes_per_token, new_rows, left_out and
    damaged (records). Raises `BadInput` when the teacher cannot score text.
    """
    rule = _rule(job.parameters)
    shaped = isinstance(rule, int) and job.parameters.get("tail") == "shaped"
    specs = [TeacherSpec(**spec) for spec in job.parameters.get("teachers") or [job.parameters["teacher"]]]
    name = mixture_name([spec.name for spec in specs], job.parameters.get("weights") or [1.0] * len(specs))
    path = specs[0].path if len(specs) == 1 else ""
    teacher = open_signal_teacher(job.parameters, job.secrets)
    try:
        _require_able(teacher, name, rule, shaped=shaped)
        for note in getattr(teacher, "notes", []):
            print(note)  # noqa: T201 - a child's standard output is its log
        origin = Origin(name, path, teacher.capabilities.fingerprint)
        with Project.open(job.project_folder, read_only=True) as project, Vault(project.vault_folder) as vault:
            scoring = _Scoring(job, project, teacher, vault, origin, rule)
            if shaped:
                _find_shape(scoring)
            return _store(scoring)
    finally:
        teacher.close()


def _rule(parameters: dict[str, Any]) -> Rule:
    if draws := int(parameters.get("draws") or 0):
        return Draws(max(1, min(draws, MAXIMUM_DRAWS)), max(0, int(parameters.get("seed") or 0)))
    return max(1, min(int(parameters.get("top_k") or DEFAULT_TOP_K), MAXIMUM_TOP_K))


def _require_able(teacher: Teacher, name: str, rule: Rule, *, shaped: bool) -> None:
    if not teacher.capabilities.top_k_log_probs:
        raise BadInput(
            "This teacher cannot score text",
            f"{name} gives no log-probs of given tokens.",
            "Use a GGUF teacher, or train on its answers alone.",
        )
    if isinstance(rule, Draws) and not shows_all(teacher):
        raise BadInput(
            "Nothing can be drawn from this teacher",
            f"{name} does not show its whole distributions.",
            "Store its likeliest tokens instead: leave out --draws.",
        )
    if shaped and not shows_all(teacher):
        raise BadInput(
            "The tails of this teacher cannot be seen",
            f"{name} does not show its whole distributions.",
            "Store its likeliest tokens with one bucket for the rest: --tail bucket.",
        )


def _find_shape(run: _Scoring) -> None:
    """The family of the teacher's tails: the vault's, or fitted now to the first rows; without a row there is none."""
    teacher, top_k = run.teacher, run.rule
    at_most, pairs, read = sample_tokens(run.teacher.capabilities.vocabulary_size), [], 0
    for _, item in _conversations(run):
        if isinstance(item, Conversation):
            pairs.append((item.prompt_ids, item.response_ids))
            read += len(item.response_ids)
        if read >= _SPREAD * at_most:
            break
    if not pairs or not shows_all(teacher) or not isinstance(top_k, int):
        return
    tokens = min(read, at_most)

    def fit() -> TailShape:
        return fitted_to(teacher, pairs, top_k, tokens, stop=lambda: not run.job.continues())

    run.shape = kept_shape(run.vault.folder, run.origin.fingerprint, top_k, tokens, fit)
    run.rule = ShapedTail(top_k, run.shape.name)


def _store(run: _Scoring) -> dict[str, Any]:
    job, tally, vault = run.job, run.tally, run.vault
    run.total = _total(run.project, _limit(job))
    began, work = time.monotonic(), []
    _say_changed(run)
    for item in _missing(run):
        work.append(item)
        if len(work) == _ROWS_AT_ONCE:
            _score(run, work)
            work = []
        if not job.continues():
            break
    if job.continues():
        _score(run, work)
    vault.flush()
    seconds = time.monotonic() - began
    if tally.rows:  # also of signals that were stored before there was such a record
        remember_origin(vault.folder, run.origin, run.rule)
    _say_damaged(run)
    run.progress()
    return {
        "rows": tally.rows,
        "tokens": tally.tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tally.new_tokens / seconds, 2) if seconds > 0 else 0.0,
        "captured_mass": round(tally.mass / tally.tokens, 6) if tally.tokens else 0.0,
        "bytes_per_token": round(vault.bytes_per_token, 2),
        "new_rows": tally.new_rows,
        "left_out": tally.left_out,
        "damaged": vault.damaged,
    }


def _limit(job: SignalsJob) -> int:
    return int(job.parameters.get("limit") or 0)


def _total(project: Project, limit: int) -> int:
    accepted = project.rows.counts().get(("response", "accepted"), 0)
    return min(accepted, limit) if limit else accepted


def _say_changed(run: _Scoring) -> None:
    """Warn when rows that have no signal of this teacher have one of the file that was in its place before."""
    without = (
        (found.prompt_ids, found.response_ids)
        for _, found in _conversations(run)
        if isinstance(found, Conversation) and not run.vault.has(run.key(found))
    )
    if count := earlier_signals(run.vault, run.origin, without):
        detail = f"{count:,} stored signals belong to the earlier one; they are kept, and these rows are scored anew."
        run.job.emit(
            Warned("The teacher's file changed", detail, "With the earlier file back, its signals count again.")
        )


def _say_damaged(run: _Scoring) -> None:
    if count := run.vault.damaged:
        detail = f"{count:,} no longer had the checksum they were written with; those of these rows were scored anew."
        run.job.emit(Warned("Stored signals were damaged", detail, "Have the disk checked if this happens again."))


def _conversations(run: _Scoring) -> Iterator[tuple[int, Conversation | str]]:
    """Each accepted response in tokens, or why it cannot be scored, with its prompt's id."""
    tokenizer, context = tokenizer_of(run.teacher), run.teacher.capabilities.context_tokens
    for prompt, response in run.project.rows.pairs(status="accepted", limit=_limit(run.job)):
        try:
            conversation = encode_conversation(tokenizer, prompt.conversation, response.text)
        except KnownError as error:
            yield prompt.id, error.title
            continue
        if len(conversation.ids) > context > 0:
            yield prompt.id, f"{len(conversation.ids):,} tokens; the teacher reads {context:,}"
        else:
            yield prompt.id, conversation


def _missing(run: _Scoring) -> Iterator[_Work]:
    """Rows without a sound signal; the others are counted, and those that cannot be scored said and left out."""
    tally, seen = run.tally, set[str]()
    for prompt_id, found in _conversations(run):
        if isinstance(found, str):
            tally.left_out += 1
            run.job.emit(Dropped(prompt_id, "signals", found))
            continue
        key = run.key(found)
        stored = run.vault.look(key)
        if stored is not None:
            tally.add(stored.tokens, stored.mass, new=False)
        elif key in seen:  # the same text twice: one signal serves both
            tally.rows += 1
        else:
            seen.add(key)
            yield _Work(key, found)


def _score(run: _Scoring, work: list[_Work]) -> None:
    if not work:
        return
    remember_origin(run.vault.folder, run.origin, run.rule)  # before there is anything whose origin would be unknown
    written = time.monotonic()
    for index, signal in _signals(run, work):
        run.vault.put(work[index].key, signal)
        run.tally.add(len(signal), float(np.sum(signal.captured_mass, dtype=np.float64)), new=True)
        if time.monotonic() - written > _FLUSH_SECONDS:
            run.vault.flush()
            written = time.monotonic()
        run.progress()


def _signals(run: _Scoring, work: list[_Work]) -> Iterator[tuple[int, Signal]]:
    pairs = [(item.conversation.prompt_ids, item.conversation.response_ids) for item in work]

    def stop() -> bool:
        return not run.job.continues()

    if isinstance(run.rule, Draws):
        if shows_all(run.teacher):
            yield from drawn(run.teacher, pairs, run.rule, stop=stop)
        return
    if run.shape is not None and isinstance(run.rule, ShapedTail) and shows_all(run.teacher):
        yield from with_shapes(run.teacher, pairs, run.rule.top_k, run.shape, stop=stop)
        return
    if isinstance(run.rule, int):
        yield from run.teacher.score(pairs, run.rule, stop=stop)
