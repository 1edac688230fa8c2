"""The job that stores a teacher's signals for accepted responses: what training reads instead of running the teacher.

The vault is the truth: a row whose signal is there and sound is never scored again, so that a broken run goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs.events import Dropped, Event
from kdstudio.models.conversation import Conversation, Tokenizer, encode_conversation
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.teachers.base import Teacher
from kdstudio.teachers.opening import open_teacher, tokenizer_of
from kdstudio.teachers.signals import SparseSignal
from kdstudio.teachers.vault import Vault

DEFAULT_TOP_K = 50
MAXIMUM_TOP_K = 1024
_ROWS_AT_ONCE = 512  # scored together: enough neighbours to share beginnings, few enough to begin soon
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

    def add(self, signal: SparseSignal, *, new: bool) -> None:
        self.rows += 1
        self.tokens += len(signal)
        self.new_rows += new
        self.new_tokens += len(signal) * new
        self.mass += float(np.sum(signal.captured_mass, dtype=np.float64))


def run(job: SignalsJob) -> dict[str, Any]:
    """Store signals for accepted responses. Parameters: `teacher`, `top_k` (50), `limit` (0 is all).

    Returns rows, tokens, seconds, tokens_per_second, captured_mass (0..1), bytes_per_token, new_rows, left_out. Raises
    `BadInput` when the teacher cannot score text.
    """
    spec = TeacherSpec(**job.parameters["teacher"])
    top_k = max(1, min(int(job.parameters.get("top_k") or DEFAULT_TOP_K), MAXIMUM_TOP_K))
    teacher = open_teacher(spec, job.secrets)
    try:
        if not teacher.capabilities.top_k_log_probs:
            raise BadInput(
                "This teacher cannot score text",
                f"{spec.name} gives no log-probs of given tokens.",
                "Use a GGUF teacher, or train on its answers alone.",
            )
        for note in getattr(teacher, "notes", []):
            print(note)  # noqa: T201 - a child's standard output is its log
        with Project.open(job.project_folder, read_only=True) as project, Vault(project.vault_folder) as vault:
            return _store(job, project, teacher, vault, top_k)
    finally:
        teacher.close()


def _store(job: SignalsJob, project: Project, teacher: Teacher, vault: Vault, top_k: int) -> dict[str, Any]:
    tally, total = _Tally(), _total(project, int(job.parameters.get("limit") or 0))
    began, work = time.monotonic(), []
    for item in _rows(job, project, teacher, vault, top_k, tally):
        work.append(item)
        if len(work) == _ROWS_AT_ONCE:
            _score(job, teacher, vault, work, top_k, tally, total)
            work = []
        if not job.continues():
            break
    if job.continues():
        _score(job, teacher, vault, work, top_k, tally, total)
    vault.flush()
    seconds = time.monotonic() - began
    job.progress(tally.rows + tally.left_out, total, tokens=tally.new_tokens, stage="Scoring")
    return {
        "rows": tally.rows,
        "tokens": tally.tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tally.new_tokens / seconds, 2) if seconds > 0 else 0.0,
        "captured_mass": round(tally.mass / tally.tokens, 6) if tally.tokens else 0.0,
        "bytes_per_token": round(vault.bytes_per_token, 2),
        "new_rows": tally.new_rows,
        "left_out": tally.left_out,
    }


def _total(project: Project, limit: int) -> int:
    accepted = project.rows.counts().get(("response", "accepted"), 0)
    return min(accepted, limit) if limit else accepted


def _rows(
    job: SignalsJob, project: Project, teacher: Teacher, vault: Vault, top_k: int, tally: _Tally
) -> Iterator[_Work]:
    """Rows without a sound signal; the others are counted, and those that cannot be scored said and left out."""
    tokenizer: Tokenizer = tokenizer_of(teacher)
    capabilities, seen = teacher.capabilities, set[str]()
    for prompt, response in project.rows.pairs(status="accepted", limit=int(job.parameters.get("limit") or 0)):
        try:
            conversation = encode_conversation(tokenizer, prompt.messages, response.text)
        except KnownError as error:
            tally.left_out += 1
            job.emit(Dropped(prompt.id, "signals", error.title))
            continue
        if len(conversation.ids) > capabilities.context_tokens > 0:
            tally.left_out += 1
            reason = f"{len(conversation.ids):,} tokens; the teacher reads {capabilities.context_tokens:,}"
            job.emit(Dropped(prompt.id, "signals", reason))
            continue
        key = Vault.key(capabilities.fingerprint, top_k, conversation.prompt_ids, conversation.response_ids)
        stored = vault.get(key)
        if stored is not None:
            tally.add(stored, new=False)
        elif key in seen:  # the same text twice: one signal serves both
            tally.rows += 1
        else:
            seen.add(key)
            yield _Work(key, conversation)


def _score(
    job: SignalsJob, teacher: Teacher, vault: Vault, work: list[_Work], top_k: int, tally: _Tally, total: int
) -> None:
    if not work:
        return
    pairs = [(item.conversation.prompt_ids, item.conversation.response_ids) for item in work]
    written = time.monotonic()
    for index, signal in teacher.score(pairs, top_k, stop=lambda: not job.continues()):
        vault.put(work[index].key, signal)
        tally.add(signal, new=True)
        if time.monotonic() - written > _FLUSH_SECONDS:
            vault.flush()
            written = time.monotonic()
        job.progress(tally.rows + tally.left_out, total, tokens=tally.new_tokens, stage="Scoring")
