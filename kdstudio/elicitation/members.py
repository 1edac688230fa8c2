"""A teacher among others: its own thread, the questions that wait for it, and its turn in memory that is too small."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kdstudio.errors import BugError, KnownError
from kdstudio.teachers.base import Completion, Request, Teacher

Outcome = tuple["Member", Completion | BaseException]
OpenTeacher = Callable[[], Teacher]


class Turn:
    """A place in memory for one teacher at a time: whoever takes it frees the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: Member | None = None

    @contextmanager
    def taken(self, member: Member) -> Iterator[None]:
        """Wait for the place and keep it for the block; the teacher stays open afterwards, until another needs it."""
        with self._lock:
            if self._held is not None and self._held is not member:
                self._held.close()
            self._held = member
            yield


class Member:
    """One teacher by its `name`. What it was given and has not answered is in `asked` and `waiting`.

    Questions are handed over by the one who deals them; the member's thread takes them while its teacher has room, and
    waits when there are none. `failed` is why it was set aside.
    """

    def __init__(self, name: str, open_: OpenTeacher, turn: Turn | None = None) -> None:
        self.name = name
        self.failed: KnownError | None = None
        self.asked: dict[str, Request] = {}
        self.waiting: deque[Request] = deque()
        self._open, self._turn = open_, turn or Turn()
        self._teacher: Teacher | None = None
        self._changed = threading.Condition()
        self._leaving = False
        self._notes_said = 0

    def give(self, request: Request) -> None:
        """Let a question wait for this teacher."""
        with self._changed:
            self.waiting.append(request)
            self._changed.notify()

    def unanswered(self) -> list[Request]:
        """Take back whatever it was given, in order."""
        with self._changed:
            left = [*self.asked.values(), *self.waiting]
            self.asked.clear()
            self.waiting.clear()
            return left

    def answered(self, key: str) -> bool:
        """Note an answer; false when the question is not this teacher's (any more)."""
        with self._changed:
            return self.asked.pop(key, None) is not None

    def leave(self) -> None:
        """Let the thread end when it has nothing to do."""
        with self._changed:
            self._leaving = True
            self._changed.notify()

    def start(self, stop: Callable[[], bool], done: queue.SimpleQueue[Outcome]) -> threading.Thread:
        """A thread that answers what is given, into `done`, until `leave`; an error is the last thing it puts there."""
        self._leaving = False
        thread = threading.Thread(target=self._answer, args=(stop, done), name=f"teacher-{self.name}", daemon=True)
        thread.start()
        return thread

    def _answer(self, stop: Callable[[], bool], done: queue.SimpleQueue[Outcome]) -> None:
        try:
            while self._has_work() and not stop():
                with self._turn.taken(self):
                    self._round(stop, done)
        except BaseException as error:  # noqa: BLE001 -- judged, or raised again, in the caller's thread
            done.put((self, error))

    def _has_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self.waiting or self._leaving)
            return bool(self.waiting)

    def _round(self, stop: Callable[[], bool], done: queue.SimpleQueue[Outcome]) -> None:
        """Ask what waits, and what comes while there are answers under way."""
        if self._teacher is None:
            self._teacher = self._open()
            self._notes_said = 0
        taking, answers = _Taking(self), 0
        for completion in self._teacher.generate(taking, stop=stop):
            answers += 1
            done.put((self, completion))
        if answers < taking.count and not stop():
            raise BugError(f"{self.name} left {taking.count - answers} questions without an answer")

    def take(self) -> Request | None:
        """The next question that waits, from now on asked; None when there is none now."""
        with self._changed:
            if not self.waiting:
                return None
            request = self.waiting.popleft()
            self.asked[request.key] = request
            return request

    def fresh_notes(self) -> list[str]:
        """What the teacher has noted since the last call."""
        notes = self._teacher.notes if self._teacher is not None else []
        fresh = notes[self._notes_said :]
        self._notes_said += len(fresh)
        return list(fresh)

    def close(self) -> None:
        """Free the teacher; it is opened again when it is asked again."""
        if self._teacher is not None:
            self._teacher.close()
            self._teacher = None


class _Taking:
    """The questions that wait for a member. It ends when none waits now, and goes on when asked again and one does:

    a teacher that answers many at once meets those that come in the meantime, and none waits for what may never come.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self.count = 0

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        request = self._member.take()
        if request is None:
            raise StopIteration
        self.count += 1
        return request
