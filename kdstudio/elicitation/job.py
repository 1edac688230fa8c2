"""The job that asks a teacher about a project's prompts. Every answer is journalled before anything reads it.

Prompts are read one by one as the teacher has room for them. Continued after a kill the job asks nothing twice: answers
in the journal are read back, and only rows that are missing are written.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from kdstudio.elicitation.answers import bounded, from_event, to_event
from kdstudio.elicitation.pipeline import Ask, Fallen, Outcome, Pipeline, Written
from kdstudio.elicitation.prompts import prompts_of
from kdstudio.elicitation.speakers import open_speakers
from kdstudio.elicitation.values import with_values
from kdstudio.errors import BadInput, BugError, KnownError
from kdstudio.jobs.events import Answer, Dropped, Event, Row
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.recipe import ElicitationRecipe, recipe_hash, validate_recipe
from kdstudio.teachers.base import Completion, Request, Teacher

if TYPE_CHECKING:
    from kdstudio.jobs.child import Job

PAID_KINDS = ("openai",)


def run(job: Job) -> dict[str, Any]:
    """Elicit as `job.parameters` say; returns rows, rejected, dropped, tokens, seconds and tokens_per_second.

    Raises `BadInput` for a recipe that cannot run and `KnownError` when there is nothing to ask or nobody answers.
    """
    parameters = job.parameters
    recipe = validate_recipe(parameters["recipe"], ElicitationRecipe)
    values = parameters.get("values") or {}
    recipe = with_values(recipe, values)
    hash_ = recipe_hash(recipe) if values else str(parameters["recipe_hash"])
    spec = TeacherSpec(**parameters["teacher"])
    pipeline = Pipeline(recipe, recipe_hash=hash_, teacher=spec.name, seed=int(parameters.get("seed", 0)))
    begun = any(_is_answer(line.event) for line in job.earlier())
    with Project.open(job.project_folder, read_only=True) as project:
        prompts = prompts_of(job.run_folder, project, parameters, hash_, begun=begun)
        if not prompts:
            raise KnownError(
                "There is nothing to ask",
                "The project has no prompt that matches, or all have this teacher's answer to this recipe and seed.",
                "Import prompts, or ask again with another recipe, another seed or more samples.",
            )
        return _Elicitation(job, pipeline, spec, project, prompts).run()


def _is_answer(event: Event) -> bool:
    return isinstance(event, Answer) and event.finish_reason != "error"


class _Elicitation:
    """One run: what is known from earlier attempts, what is open, what was counted."""

    def __init__(self, job: Job, pipeline: Pipeline, spec: TeacherSpec, project: Project, prompts: list[int]) -> None:
        self._job, self._pipeline, self._spec, self._project = job, pipeline, spec, project
        self._prompts = iter(prompts)
        self._total = len(prompts) * pipeline.questions_from(0)
        self._waiting: deque[Ask] = deque()
        self._open: dict[str, Ask] = {}
        self._rows = self._rejected = self._done = self._tokens = self._new_tokens = 0
        self._fallen: Counter[str] = Counter()
        self._last_error = ""
        self._known: dict[str, Completion] = {}
        self._written: set[str] = set()
        self._dropped: Counter[tuple[int, str, str]] = Counter()
        for line in job.earlier():
            event = line.event
            if isinstance(event, Answer) and _is_answer(event):
                self._known[event.key] = from_event(event)
            elif isinstance(event, Row):
                self._written.add(str(event.row.get("key")))
            elif isinstance(event, Dropped):
                self._dropped[event.prompt, event.step, event.reason] += 1
        self._begun = {key.partition(":")[0] for key in self._known}

    def run(self) -> dict[str, Any]:
        """Everything: each prompt's questions, and those that grow out of their answers."""
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
            "rows": self._rows,
            "rejected": self._rejected,
            "dropped": self._fallen.total(),
            "tokens": self._tokens,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(self._new_tokens / seconds, 2) if seconds > 0 else 0.0,
        }

    def _opened(self) -> Teacher:
        self._report("loading the teacher")
        teacher = open_speakers(self._job)
        for note in teacher.notes:
            self._job.warn(note)
        return teacher

    def _ask(self, teacher: Teacher, first: Request | None, requests: Iterator[Request]) -> None:
        """Ask until nothing is left. Answers to the last prompts may lead to more questions: then once more."""
        said, paid = len(teacher.notes), self._spec.kind in PAID_KINDS
        while first is not None:
            for completion in teacher.generate(_chain(first, requests), stop=lambda: not self._job.continues()):
                answer = bounded(completion)
                self._new_tokens += answer.tokens
                self._job.emit(to_event(answer), durable=paid)
                self._settle(self._answered(self._open.pop(answer.key), answer))
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
        """The questions that no attempt has an answer to; those that grew out of answers come before new prompts."""
        while self._open or self._job.continues():
            while self._waiting:
                ask = self._waiting.popleft()
                known = self._known.get(ask.request.key)
                if known is None:
                    self._open[ask.request.key] = ask
                    yield ask.request
                else:
                    self._settle(self._answered(ask, known))
            number = next(self._prompts, None)
            if number is None:
                return
            self._settle(self._begin(number))

    def _begin(self, number: int) -> Iterable[Outcome]:
        try:
            prompt = self._project.rows.prompt(number)
        except BadInput:
            reason = "it is no longer in the project"
        else:
            if prompt.status != "rejected" or str(number) in self._begun:
                return self._pipeline.begin(prompt)
            reason = "it was rejected before it was asked"
        return [Fallen(number, "prompt", reason, self._pipeline.questions_from(0))]

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
                case Written(row=row):
                    self._rows += 1
                    self._rejected += row["status"] == "rejected"
                    if row["key"] not in self._written:
                        self._job.emit(Row("response", row))
                case Fallen(prompt_id=prompt_id, step=step, reason=reason, unasked=unasked):
                    self._total -= unasked
                    self._fallen[f"{step}: {reason}"] += 1
                    if self._dropped[prompt_id, step, reason] > 0:
                        self._dropped[prompt_id, step, reason] -= 1
                    else:
                        self._job.emit(Dropped(prompt_id, step, reason))

    def _report(self, stage: str) -> None:
        self._job.progress(self._done, self._total, tokens=self._tokens, stage=stage)

    def _conclude(self) -> None:
        """Say what was lost on the way. Raises `KnownError` when the teacher answered nothing at all."""
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
