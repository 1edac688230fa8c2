"""Who answers in a run: one teacher or several side by side, and where a recipe asks for them, a judge or the student.

Each teacher answers in a thread of its own, hosted ones beside local ones. One that fails is set aside, and its
questions go to the others; only a judge and a student have no substitute, since what two judges say cannot be compared.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from kdstudio import settings
from kdstudio.elicitation.members import Member, Outcome, Turn
from kdstudio.elicitation.routing import NAMED, Sharing, sharing_of
from kdstudio.elicitation.student_file import as_file
from kdstudio.errors import BadInput, KnownError, Stopped, in_one_line
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.background_loop import StopWatch
from kdstudio.teachers.base import Capabilities, Completion, Request, Teacher
from kdstudio.teachers.ledger import ledger_of
from kdstudio.teachers.opening import open_teacher
from kdstudio.teachers.presence import absence
from kdstudio.teachers.signals import SparseSignal

if TYPE_CHECKING:
    from kdstudio.jobs.child import Job

_LOOK_SECONDS = 0.05
_AHEAD, _MOST_WAITING = 64, 1024  # questions that wait for one teacher, and for all
_LOCAL_KINDS = ("gguf", "huggingface")
_MEMORY_SHARE = 0.6  # of what is free, for the weights of local teachers side by side


def _never() -> bool:
    return False


def open_speakers(job: Job) -> Teacher:
    """Whoever this run asks, as one teacher: `teacher`, or `teachers` with `share`; and `judge` and `student`.

    Raises `KnownError` or `BadInput` when a single teacher cannot be used, or when they cannot be told apart.
    """
    parameters, ledger = job.parameters, ledger_of(job)
    named = [TeacherSpec(**spec) for spec in parameters.get("teachers") or [parameters["teacher"]]]
    teachers = [as_file(_batched(spec, parameters), job.run_folder) for spec in named]
    judge, student = (_optional(job, role) for role in ("judge", "student"))
    if parameters.get("batch") and not any(one is not None and _is_hosted(one) for one in (*teachers, judge, student)):
        raise BadInput(
            "Nobody here answers in batches", "Only providers of hosted models do.", "Ask without batches (--no-batch)."
        )
    if student is None and _speaks(parameters, "student"):
        raise BadInput("The recipe asks the student", "This run has none.", "Name it, for example with --student NAME.")
    if len(teachers) == 1 and judge is None and student is None:
        return open_teacher(teachers[0], job.secrets, ledger=ledger)
    names = tuple(spec.name for spec in teachers)
    specs = {spec.name: spec for spec in (*teachers, *(one for one in (judge, student) if one is not None))}
    if len(set(names)) < len(names):
        raise BadInput("A teacher is named twice", ", ".join(names), "Name each teacher of the run once.")
    sharing = sharing_of(parameters, names, judge.name if judge else "", student.name if student else "")
    members = _members(specs.values(), lambda spec: open_teacher(spec, job.secrets, ledger=ledger))
    _set_absent_aside(job, specs.values(), members, sharing)
    return Speakers(members, sharing)


def _set_absent_aside(job: Job, specs: Iterable[TeacherSpec], members: Iterable[Member], sharing: Sharing) -> None:
    """Find out before the first question who is not there, and say it once.

    Raises `KnownError` when no teacher is there, or when the judge or the student is not.
    """
    absent = {spec.name: words for spec in specs if (words := absence(spec, job.secrets))}
    if not absent:
        return
    told = "; ".join(f"{name}: {words}" for name, words in absent.items())
    hint = "Move the file back or start the server, or leave that teacher out; what has no answer then is asked again."
    there = [name for name in sharing.teachers if name not in absent]
    if not there or not absent.keys().isdisjoint((sharing.judge, sharing.student)):
        raise KnownError("Who this run asks is not there", f"{told}.", hint)
    for member in members:
        if member.name in absent:
            member.failed = KnownError("It is not there", absent[member.name])
    title = f"{len(absent)} of {len(sharing.teachers)} teachers {'is' if len(absent) == 1 else 'are'} not there"
    job.warn(title, f"{told}. The run goes on with {', '.join(there)}.", hint)


def _optional(job: Job, role: str) -> TeacherSpec | None:
    spec = job.parameters.get(role)
    return as_file(_batched(TeacherSpec(**spec), job.parameters), job.run_folder) if spec else None


def _batched(spec: TeacherSpec, parameters: Mapping[str, Any]) -> TeacherSpec:
    """The teacher as this run asks it: in batches or not, as the run says, else as it says itself; no trial waits."""
    wish = False if parameters.get("trial") else parameters.get("batch")
    return spec if wish is None or not _is_hosted(spec) else replace(spec, options={**spec.options, "batch": wish})


def _is_hosted(spec: TeacherSpec) -> bool:
    return spec.kind in ("openai", "anthropic")


def _speaks(parameters: Mapping[str, Any], role: str) -> bool:
    steps = parameters.get("recipe", {}).get("step", ())
    return any(isinstance(step, Mapping) and step.get("speaker") == role for step in steps)


def _members(specs: Iterable[TeacherSpec], open_: Callable[[TeacherSpec], Teacher]) -> list[Member]:
    """Local teachers side by side where their weights fit the memory, sharing the processor; else in turn."""
    all_specs = list(specs)
    local = [spec for spec in all_specs if spec.kind in _LOCAL_KINDS]
    together = sum(map(_weight_bytes, local)) <= _MEMORY_SHARE * psutil.virtual_memory().available
    turn = Turn()
    threads = max(1, settings.thread_count() // max(1, len(local)))
    members = []
    for spec in all_specs:
        is_local = spec.kind in _LOCAL_KINDS
        options = {"threads": threads, **spec.options} if is_local and together and len(local) > 1 else spec.options
        own = turn if is_local and not together else Turn()
        members.append(Member(spec.name, partial(open_, replace(spec, options=options)), own))
    return members


def _weight_bytes(spec: TeacherSpec) -> int:
    """About what a local teacher's weights take; 0 for what is not there, which opening it will say."""
    path = Path(spec.path).expanduser()
    files = list(path.glob("*.safetensors")) if path.is_dir() else [path]
    stored = sum(file.stat().st_size for file in files if file.is_file())
    return 2 * stored if spec.kind == "huggingface" else stored  # torch holds 32 bits where files hold 16


class Speakers:
    """Implements `base.Teacher` over several: each request goes to one of them, and comes back with its name.

    `notes` grows by theirs and by who was set aside. Requests are taken one by one, and only in the caller's thread. A
    `KnownError` is raised when the last teacher fails, the judge, or the student.
    """

    def __init__(self, members: Sequence[Member], sharing: Sharing) -> None:
        self.capabilities = Capabilities()
        self.notes: list[str] = []
        self._members = {member.name: member for member in members}
        self._sharing = sharing
        self._open = 0  # questions that were given to a member and have no answer yet
        self._closing = threading.Event()

    def generate(self, requests: Iterable[Request], *, stop: Callable[[], bool] = _never) -> Iterator[Completion]:
        """As `base.Teacher.generate`; `Completion.teacher` says who answered."""
        source, done = iter(requests), queue.SimpleQueue[Outcome]()
        if not self._able():
            raise next(member.failed for member in self._members.values() if member.failed is not None)
        with StopWatch(stop) as watch, self._threads(watch, done) as threads:
            exhausted = False
            while not watch.stopped:
                if watch.may_begin and not exhausted:
                    exhausted = yield from self._deal(source)
                if exhausted and not self._open:
                    break
                yield from self._received(done)
            for member in self._members.values():
                member.leave()
            while any(thread.is_alive() for thread in threads) or not done.empty():  # what a stop met under way
                yield from self._received(done, stopped=watch.stopped)

    @contextmanager
    def _threads(self, watch: StopWatch, done: queue.SimpleQueue[Outcome]) -> Iterator[list[threading.Thread]]:
        """Every member that is able at work in a thread of its own; all have ended after the block."""
        self._closing.clear()

        def stop() -> bool:
            while not (self._closing.is_set() or watch.stopped or watch.may_begin):
                self._closing.wait(_LOOK_SECONDS)  # paused
            return self._closing.is_set() or watch.stopped

        threads = [member.start(stop, done) for member in self._members.values() if member.failed is None]
        try:
            yield threads
        finally:
            self._closing.set()
            for member in self._members.values():
                member.leave()
            for thread in threads:
                thread.join()
            for member in self._members.values():
                member.unanswered()
            self._open = 0

    def _able(self) -> list[str]:
        return [name for name, member in self._members.items() if member.failed is None]

    def _deal(self, source: Iterator[Request]) -> Generator[Completion, None, bool]:
        """Hand out questions until enough wait for everyone; returns whether there are no more."""
        while self._hungry():
            request = next(source, None)
            if request is None:
                return True
            yield from self._give(request)
        return False

    def _hungry(self) -> bool:
        waiting = [len(member.waiting) for member in self._members.values() if member.failed is None]
        return min(waiting) < _AHEAD and sum(waiting) < _MOST_WAITING

    def _give(self, request: Request) -> Iterator[Completion]:
        if request.speaker == "judge" and not self._sharing.judge:
            self._note(f"No judge was named: {self._sharing.default} judges too.")
        name = self._sharing.speaker_of(request, self._able())
        if name:
            self._open += 1
            self._members[name].give(request)
        else:
            yield Completion(request.key, "", "error", error=self._nobody(request))

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _nobody(self, request: Request) -> str:
        named = self._members.get(request.speaker.removeprefix(NAMED))
        if named is not None and named.failed is not None:
            return f"{named.name} was set aside. {in_one_line(str(named.failed))}"
        return f"This run has no {request.speaker.replace(NAMED, 'teacher called ')}."

    def _received(self, done: queue.SimpleQueue[Outcome], *, stopped: bool = False) -> Iterator[Completion]:
        """What came, waiting for a moment at most. After a stop a teacher's end is no failure."""
        try:
            member, outcome = done.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            return
        for note in member.fresh_notes():
            self._note(f"{member.name}: {note}")
        if isinstance(outcome, Completion):
            if member.answered(outcome.key):
                self._open -= 1
                yield replace(outcome, teacher=outcome.teacher or member.name)
        elif not isinstance(outcome, KnownError) or (isinstance(outcome, Stopped) and not stopped):
            raise outcome
        elif not stopped:
            yield from self._set_aside(member, outcome)

    def _set_aside(self, member: Member, error: KnownError) -> Iterator[Completion]:
        """Let others answer what a teacher that failed has not. Raises its error where nobody can."""
        member.failed = error
        able = self._able()
        only = member.name in (self._sharing.judge, self._sharing.student)
        if only or not any(name in able for name in self._sharing.teachers):
            raise error
        left = member.unanswered()
        self._open -= len(left)
        count = f"{len(left):,} unanswered {'question' if len(left) == 1 else 'questions'}"
        self.notes.append(f"{member.name} was set aside, and its {count} with it. {in_one_line(str(error))}")
        for request in left:
            yield from self._give(request)

    def score(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], top_k: int, *, stop: Callable[[], bool] = _never
    ) -> Iterator[tuple[int, SparseSignal]]:
        """Who should score is not said. Raises `KnownError`."""
        del sequences, top_k, stop
        raise KnownError(
            "Several teachers give no signal side by side",
            "Each has log-probs of its own.",
            "Weigh them: kdstudio signals PROJECT --teacher A --teacher B --weight 0.7 --weight 0.3.",
        )

    def close(self) -> None:
        """Free all of them."""
        for member in self._members.values():
            member.close()
