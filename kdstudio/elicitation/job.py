"""The job that asks a teacher as a recipe says. Every answer is journalled before anything reads it.

Rows begin one by one as the teacher has room for them. Continued after a kill the job asks nothing twice: answers in
the journal are read back, and only rows that are missing are written.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kdstudio.elicitation.answers import bounded, from_event, to_event
from kdstudio.elicitation.inputs import inputs_of
from kdstudio.elicitation.judged import run_here
from kdstudio.elicitation.passage import PYTHON
from kdstudio.elicitation.pipeline import Ask, Fallen, Outcome, Pipeline, Trace, Unasked, Written
from kdstudio.elicitation.pools import Made, Pools
from kdstudio.elicitation.reading_notes import ReadingNotes
from kdstudio.elicitation.roots import Rounds
from kdstudio.elicitation.setting import asking_everyone, setting_of
from kdstudio.elicitation.speakers import open_speakers
from kdstudio.elicitation.trial import digest_of, tried_answers
from kdstudio.elicitation.values import with_values
from kdstudio.errors import BugError, KnownError
from kdstudio.jobs.events import Answer, Dropped, Event, Funnel, Row, Traced, Warned
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.recipe import ElicitationRecipe, recipe_hash, validate_recipe
from kdstudio.teachers.base import Completion, Request, Teacher
from kdstudio.teachers.ledger import ledger_of

if TYPE_CHECKING:
    from kdstudio.jobs.child import Job

WINDOW = 4_096
"""So many rows may wait for an earlier one; then no more are begun until what is open was answered."""
_FUNNEL_SECONDS = 1.0


def run(job: Job) -> dict[str, Any]:
    """Elicit as `job.parameters` say; returns rows, rejected, dropped, tokens, seconds, tokens_per_second and funnel.

    Raises `BadInput` for a recipe that cannot run and `KnownError` when there is nothing to ask or nobody answers.
    """
    parameters = job.parameters
    recipe = validate_recipe(parameters["recipe"], ElicitationRecipe)
    values = parameters.get("values") or {}
    recipe = with_values(recipe, values)
    hash_ = recipe_hash(recipe) if values else str(parameters["recipe_hash"])
    history = _History(job)
    with Project.open(job.project_folder, read_only=True) as project:
        inputs = inputs_of(job.run_folder, project, parameters, recipe, hash_, begun=bool(history.known))
        if not inputs.roots:
            raise KnownError(
                "There is nothing to ask",
                "The project has no row that matches, or all have this teacher's answer to this recipe and seed.",
                "Import prompts, or ask again with another recipe, another seed or more samples.",
            )
        seed = int(parameters.get("seed", 0))
        pools = Pools(project, Made(job.run_folder), seed, inputs.last_prompt, inputs.drawn_from)
        setting = setting_of(project, parameters, pools)
        recipe = asking_everyone(recipe) if setting.faithful else recipe
        teacher = str(parameters["teacher"]["name"])
        pipeline = Pipeline(recipe, recipe_hash=hash_, teacher=teacher, seed=seed, setting=setting)
        notes = ReadingNotes(job, history.warned)
        rounds = Rounds(recipe.step, inputs, pools, project, history.begun, notes.read)
        trial = bool(parameters.get("trial"))
        tried = {} if trial else tried_answers(project, job.run_folder, parameters)
        try:
            result = _Elicitation(job, pipeline, rounds, history, tried).run()
            notes.end()
            return result
        finally:
            pools.made.close()


class _History:
    """What earlier attempts of this run journalled: answers, rows and falls."""

    def __init__(self, job: Job) -> None:
        self.known: dict[str, Completion] = {}
        self.written: set[str] = set()
        self.dropped: Counter[tuple[int, str, str]] = Counter()
        self.warned: list[Warned] = []
        for line in job.earlier():
            event: Event = line.event
            if isinstance(event, Answer) and event.finish_reason != "error":
                self.known[event.key] = from_event(event)
            elif isinstance(event, Row):
                self.written.add(str(event.row.get("key")))
            elif isinstance(event, Dropped):
                self.dropped[event.prompt, event.step, event.reason] += 1
            elif isinstance(event, Warned):
                self.warned.append(event)
        self.begun = {key.partition(":")[0] for key in self.known}


class _Elicitation:
    """One run: what is open, what was counted."""

    def __init__(
        self,
        job: Job,
        pipeline: Pipeline,
        rounds: Rounds,
        history: _History,
        tried: Mapping[str, tuple[str, Completion]],
    ) -> None:
        self._job, self._pipeline, self._rounds, self._history, self._tried = job, pipeline, rounds, history, tried
        self._spec = TeacherSpec(**job.parameters["teacher"])
        self._trial = bool(job.parameters.get("trial"))
        self._beginning = rounds.begin(pipeline)
        self._total = rounds.size * pipeline.questions_from(0)
        self._waiting: deque[Ask] = deque()
        self._open: dict[str, Ask] = {}
        self._rows = self._rejected = self._done = self._tokens = self._new_tokens = 0
        self._fallen: Counter[str] = Counter()
        self._last_error = ""
        self._funnel_at, self._over = time.monotonic(), False

    def run(self) -> dict[str, Any]:
        """Everything: each row's questions, and those that grow out of their answers."""
        requests, seconds = self._requests(), 0.0
        first = next(requests, None)  # reads back what is known before a model is loaded
        if first is not None:
            teacher = self._opened()
            began = time.monotonic()
            try:
                self._ask(teacher, first, requests)
            finally:
                seconds = time.monotonic() - began
                teacher.close()
        self._conclude()
        return {
            "rows": 0 if self._trial else self._rows,
            "rejected": self._rejected,
            "dropped": self._fallen.total(),
            "tokens": self._tokens,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(self._new_tokens / seconds, 2) if seconds > 0 else 0.0,
            "left": 0 if self._over else max(0, self._total - self._done),
            "rounds": self._rounds.round,
            "funnel": self._pipeline.funnel.steps(),
            **({"would_write": self._rows} if self._trial else {}),
            **ledger_of(self._job).report(),
        }

    def _opened(self) -> Teacher:
        self._report("loading the teacher")
        teacher = open_speakers(self._job)
        for note in teacher.notes:
            self._job.warn(note)
        return teacher

    def _ask(self, teacher: Teacher, first: Request | None, requests: Iterator[Request]) -> None:
        """Ask until nothing is left. Answers to the last rows may lead to more questions: then once more."""
        said = len(teacher.notes)
        while first is not None:
            for completion in teacher.generate(_chain(first, requests), stop=lambda: not self._job.continues()):
                answer = bounded(completion)
                self._new_tokens += answer.tokens
                ask = self._open.pop(answer.key)
                # a paid one's raw body is in the ledger, on the disk
                self._job.emit(to_event(answer, digest_of(ask.request) if self._trial else ""))
                self._settle(self._answered(ask, answer))
                self._report("asking")
                for note in teacher.notes[said:]:
                    self._job.warn(note)
                said = len(teacher.notes)
            if not self._job.continues():
                return
            if self._open:
                raise BugError(f"the teacher left {len(self._open)} questions without an answer")
            requests = self._requests()
            first = next(requests, None)

    def _requests(self) -> Iterator[Request]:
        """The questions that no attempt has an answer to; those that grew out of answers come before new rows."""
        while self._open or self._job.continues():
            while self._waiting:
                ask = self._waiting.popleft()
                known = self._history.known.get(ask.request.key) or self._had(ask.request)
                if known is None:
                    self._open[ask.request.key] = ask
                    yield ask.request
                else:
                    self._settle(self._answered(ask, known))
            if self._open and self._pipeline.held >= WINDOW:
                return
            outcomes = next(self._beginning, None)
            if outcomes is not None:
                self._settle(outcomes)
            elif self._open or not self._next_round():
                return

    def _next_round(self) -> bool:
        """Begin another round, now that nothing is open; False at the run's end."""
        if not self._rounds.next_round():
            self._over = True
            return False
        self._beginning = self._rounds.begin(self._pipeline)
        self._total += self._rounds.size * self._pipeline.questions_from(0)
        return True

    def _had(self, request: Request) -> Completion | None:
        """An answer that needs no teacher: from a trial of the same work, or from running the code here."""
        if request.speaker == PYTHON:
            found = bounded(run_here(request))
            self._job.emit(to_event(found))
            self._done -= 1
            return found
        digest, answer = self._tried.get(request.key, ("", None))
        if answer is None or digest != digest_of(request):
            return None
        self._job.emit(to_event(answer))
        return answer

    def _answered(self, ask: Ask, completion: Completion) -> Iterable[Outcome]:
        self._done += 1
        self._tokens += completion.tokens
        self._last_error = completion.error or self._last_error
        return self._pipeline.answered(ask, completion)

    def _settle(self, outcomes: Iterable[Outcome]) -> None:
        """Write what ended; keep what asks further. What an earlier attempt wrote is only counted."""
        for outcome in outcomes:
            match outcome:
                case Ask():
                    self._waiting.append(outcome)
                case Written():
                    self._write(outcome)
                case Unasked(count=count):
                    self._total -= count
                case Fallen(prompt_id=prompt_id, step=step, reason=reason, unasked=unasked, key=key):
                    self._total -= unasked
                    self._fallen[f"{step}: {reason}"] += 1
                    if self._history.dropped[prompt_id, step, reason] > 0:
                        self._history.dropped[prompt_id, step, reason] -= 1
                    else:
                        self._job.emit(Dropped(prompt_id, step, reason, key))
                case Trace(key=key, index=index, type=type_, columns=columns, reason=reason, by=by):
                    self._job.emit(Traced(key, index, type_, columns, reason, by))
        if time.monotonic() - self._funnel_at >= _FUNNEL_SECONDS:
            self._say_funnel()

    def _write(self, written: Written) -> None:
        self._rows += 1
        self._rejected += written.row["status"] == "rejected"
        if not self._trial and written.row["key"] not in self._history.written:
            self._job.emit(Row(written.kind, written.row))

    def _say_funnel(self) -> None:
        self._funnel_at = time.monotonic()
        self._job.emit(Funnel(self._pipeline.funnel.steps()))

    def _report(self, stage: str) -> None:
        total = max(self._total, self._done + len(self._open) + len(self._waiting))
        self._job.progress(self._done, total, tokens=self._tokens, stage=stage)

    def _conclude(self) -> None:
        """Say what was lost on the way. Raises `KnownError` when the teacher answered nothing at all."""
        self._say_funnel()
        if self._rounds.ended:
            self._job.warn(f"The rounds ended after {self._rounds.round}", self._rounds.ended, "")
        if not self._fallen:
            return
        commonest = "; ".join(f"{count:,} × {reason}" for reason, count in self._fallen.most_common(3))
        if self._last_error and not self._rows and not self._tokens and self._job.continues():
            raise KnownError("The teacher answered nothing", commonest, _MEND)
        count = self._fallen.total()
        self._job.warn(
            f"{count:,} {'row was' if count == 1 else 'rows were'} dropped",
            commonest,
            "What was answered is kept in the run's journal.",
        )


_MEND = (
    "Mend that (Test on the Teachers page shows whether a teacher answers), then resume the run: "
    "it asks only what has no answer yet."
)


def _chain(first: Request, rest: Iterator[Request]) -> Iterator[Request]:
    yield first
    yield from rest
