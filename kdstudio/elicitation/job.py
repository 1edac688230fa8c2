"""The job that asks a teacher about a project's prompts. Every answer is journalled before anything reads it.

Continued after a kill it asks nothing twice: answers in the journal are read back, and only rows that are missing are
written.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from kdstudio.elicitation.pipeline import Ask, Fallen, Outcome, Pipeline, Written
from kdstudio.errors import KnownError
from kdstudio.jobs.child import Job
from kdstudio.jobs.events import Answer, Dropped, Row
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project, Prompt
from kdstudio.recipe import ElicitationRecipe, validate_recipe
from kdstudio.teachers.base import Completion, Request, Teacher
from kdstudio.teachers.opening import open_teacher

PAID_KINDS = ("openai",)


def run(job: Job) -> dict[str, Any]:
    """Elicit as `job.parameters` say; returns rows, tokens, seconds, tokens_per_second, rejected and dropped."""
    parameters = job.parameters
    recipe = validate_recipe(parameters["recipe"], ElicitationRecipe)
    spec = TeacherSpec(**parameters["teacher"])
    pipeline = Pipeline(
        recipe,
        recipe_hash=parameters["recipe_hash"],
        teacher=spec.name,
        seed=int(parameters.get("seed", 0)),
        values=parameters.get("values", {}),
    )
    prompts = _prompts(job, spec)
    if not prompts:
        raise KnownError(
            "There is nothing to ask",
            "No prompt matches, or all have an answer of this teacher and recipe.",
            "Import prompts, or ask again with another recipe or seed.",
        )
    return _Elicitation(job, pipeline, spec).run(prompts)


def _prompts(job: Job, spec: TeacherSpec) -> list[Prompt]:
    """The prompts of this run, the same when it is continued: answers of the run itself do not count as answers."""
    parameters = job.parameters
    unanswered = (spec.name, parameters["recipe_hash"], job.run_folder.name)
    with Project.open(job.project_folder, read_only=True) as project:
        found = project.rows.prompts(
            status=parameters.get("status", ""),
            tag=parameters.get("tag", ""),
            limit=int(parameters.get("limit", 0)),
            unanswered_by=unanswered if parameters.get("only_unanswered", True) else None,
        )
        return [prompt for prompt in found if prompt.status != "rejected"]


class _Elicitation:
    """One run: what is known from earlier attempts, what is open, what was counted."""

    def __init__(self, job: Job, pipeline: Pipeline, spec: TeacherSpec) -> None:
        self._job, self._pipeline, self._spec = job, pipeline, spec
        self._known: dict[str, Completion] = {}
        self._written: set[str] = set()
        self._dropped: set[tuple[int, str, str]] = set()
        self._next: list[Ask] = []
        self._open: dict[str, Ask] = {}
        self._rows = self._rejected = self._fallen = self._tokens = self._done = self._total = 0
        for line in job.earlier():
            event = line.event
            if isinstance(event, Answer) and event.finish_reason != "error":
                self._known[event.key] = _completion(event)
            elif isinstance(event, Row):
                self._written.add(str(event.row.get("key")))
            elif isinstance(event, Dropped):
                self._dropped.add((event.prompt, event.step, event.reason))

    def run(self, prompts: list[Prompt]) -> dict[str, Any]:
        """Everything, stage by stage: all first questions, then those that grew out of their answers."""
        began = time.monotonic()
        for prompt in prompts:
            self._settle(self._pipeline.begin(prompt))
        teacher: Teacher | None = None
        before = 0
        try:
            while self._next and self._job.continues():
                asks, self._next = self._next, []
                self._total += len(asks)
                unknown = [ask for ask in asks if not self._recall(ask)]
                if unknown:
                    before = self._tokens if teacher is None else before
                    teacher = teacher or self._opened()
                    began = time.monotonic() if before == self._tokens else began
                    self._ask(teacher, unknown)
        finally:
            if teacher is not None:
                teacher.close()
        seconds = time.monotonic() - began
        return {
            "rows": self._rows,
            "rejected": self._rejected,
            "dropped": self._fallen,
            "tokens": self._tokens,
            "seconds": round(seconds, 3),
            "tokens_per_second": round((self._tokens - before) / seconds, 2) if seconds > 0 else 0.0,
        }

    def _opened(self) -> Teacher:
        teacher = open_teacher(self._spec, self._job.secrets)
        for note in teacher.notes:
            self._job.warn(note)
        return teacher

    def _recall(self, ask: Ask) -> bool:
        """Use an answer of an earlier attempt, if there is one."""
        completion = self._known.get(ask.request.key)
        if completion is not None:
            self._count(completion)
            self._settle(self._pipeline.answered(ask, completion))
        return completion is not None

    def _ask(self, teacher: Teacher, asks: list[Ask]) -> None:
        self._open = {ask.request.key: ask for ask in asks}
        paid = self._spec.kind in PAID_KINDS
        self._job.progress(self._done, self._total, tokens=self._tokens, stage="asking")
        for completion in teacher.generate(self._requests(asks), stop=lambda: not self._job.continues()):
            self._job.emit(_answer(completion), durable=paid)
            self._count(completion)
            self._settle(self._pipeline.answered(self._open.pop(completion.key), completion))
            self._job.progress(self._done, self._total, tokens=self._tokens, stage="asking")

    @staticmethod
    def _requests(asks: Iterable[Ask]) -> Iterator[Request]:
        return (ask.request for ask in asks)

    def _count(self, completion: Completion) -> None:
        self._done += 1
        self._tokens += completion.tokens

    def _settle(self, outcomes: Iterable[Outcome]) -> None:
        """Write what ended; keep what asks further. What an earlier attempt wrote is only counted."""
        for outcome in outcomes:
            match outcome:
                case Ask():
                    self._next.append(outcome)
                case Written(row=row):
                    self._rows += 1
                    self._rejected += row["status"] == "rejected"
                    if row["key"] not in self._written:
                        self._job.emit(Row("response", row))
                case Fallen() as fallen:
                    self._fallen += 1
                    if (fallen.prompt_id, fallen.step, fallen.reason) not in self._dropped:
                        self._job.emit(Dropped(fallen.prompt_id, fallen.step, fallen.reason))


def _answer(completion: Completion) -> Answer:
    return Answer(
        completion.key,
        completion.text,
        completion.finish_reason,
        completion.prompt_tokens,
        completion.tokens,
        completion.error,
    )


def _completion(answer: Answer) -> Completion:
    reason = answer.finish_reason if answer.finish_reason in ("stop", "length", "incomplete") else "error"
    return Completion(answer.key, answer.text, reason, answer.prompt_tokens, answer.tokens, answer.error)  # type: ignore[arg-type]
