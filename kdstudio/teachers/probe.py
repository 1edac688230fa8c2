"""Trying a teacher: does it open, does it answer, how fast is it. The window's "Test connection"."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from kdstudio.errors import KnownError, in_one_line
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Completion, Request, Sampling
from kdstudio.teachers.ledger import ledger_of
from kdstudio.teachers.opening import open_teacher
from kdstudio.teachers.prices import price_of

if TYPE_CHECKING:
    from kdstudio.jobs.child import Job

QUESTION = "Say hello in one short sentence."
ANSWER_TOKENS = 48
PATIENCE_SECONDS = 60.0
SLOW_TOKENS_PER_SECOND = 1.0
_NAMES_SHOWN = 12


class Listing(Protocol):
    """A hosted teacher, which may list the models that it could be asked for."""

    def models(self) -> list[str]:
        """Their names. Raises `KnownError` when the endpoint cannot be reached or refuses."""
        ...


def run(job: Job) -> dict[str, Any]:
    """Open `teacher` and ask it one thing (`question`).

    Returns capabilities, text, tokens, seconds (to the whole answer), tokens_per_second and, for an endpoint, models,
    price, cost and, as for any run, spend.
    Raises `KnownError` with a title of its own for each way in which that fails: cannot be reached, does not answer in
    time, asks for or refuses a key, does not have the model, is no chat endpoint.
    """
    spec = TeacherSpec(**job.parameters["teacher"])
    question = str(job.parameters.get("question") or QUESTION)
    if spec.kind in ("openai", "anthropic"):
        return _endpoint(job, spec, question)
    return _asked(job, spec, question)


def _endpoint(job: Job, spec: TeacherSpec, question: str) -> dict[str, Any]:
    """An endpoint: which models it lists is asked first, as the quickest way to find out that it is not there."""
    patience = {"timeout_seconds": PATIENCE_SECONDS, **spec.options, "tries": 2, "batch": False}
    spec = replace(spec, options=patience)
    names = _listed(spec, job.secrets)
    known = not names or spec.model in names or f"{spec.model}:latest" in names
    try:
        result = _asked(job, spec, question)
    except KnownError as error:
        if known or not any(f"status {number}" in error.detail for number in (400, 404, 422)):
            raise
        raise _no_such_model(spec, names) from error
    if not known:  # llama-server and LM Studio answer whatever they are called
        job.warn(f"{spec.url} does not list {spec.model!r}, but answered.", f"It lists: {_some(names)}.")
    return {**result, "models": names}


def _listed(spec: TeacherSpec, secrets: dict[str, str]) -> list[str]:
    """The endpoint's models; none when it does not list them, which not all do."""
    listing = cast("Listing", open_teacher(spec, secrets))
    try:
        return listing.models()
    except KnownError as error:
        if "404" in error.detail:
            return []
        raise


def _no_such_model(spec: TeacherSpec, names: list[str]) -> KnownError:
    model = f"does not list {spec.model!r}" if spec.model else "needs the name of a model"
    return KnownError("The endpoint has no such model", f"{spec.url} {model}.", f"It has: {_some(names)}.")


def _some(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _asked(job: Job, spec: TeacherSpec, question: str) -> dict[str, Any]:
    """Open the teacher and ask it."""
    request = Request("probe", ({"role": "user", "content": question},), Sampling(max_tokens=ANSWER_TOKENS))
    teacher = open_teacher(spec, job.secrets, ledger=ledger_of(job))
    try:
        began = time.monotonic()
        completion = next(iter(teacher.generate([request], stop=lambda: not job.continues())), None)
        seconds = time.monotonic() - began
        for note in teacher.notes:
            job.warn(note)
        found = {"capabilities": asdict(teacher.capabilities), **_judged(job, completion, seconds)}
        return {**found, **_priced(job, spec, completion)}
    finally:
        teacher.close()


def _priced(job: Job, spec: TeacherSpec, completion: Completion | None) -> dict[str, Any]:
    """For one that costs money: dollars for a million tokens (in, out), None where not known; what the test cost.

    With what a run says of its spending, so that a test counts as spent like any other question.
    """
    if spec.kind not in ("openai", "anthropic"):
        return {}
    price = price_of(spec)
    told = ledger_of(job).report() if price is not None and price.input + price.output > 0 else {}
    return {"price": price and [price.input, price.output], "cost": completion.cost if completion else 0.0, **told}


def _judged(job: Job, completion: Completion | None, seconds: float) -> dict[str, Any]:
    if completion is None:  # a person did not want to wait
        return {"text": "", "tokens": 0, "seconds": round(seconds, 3), "tokens_per_second": 0.0}
    if completion.finish_reason == "error":
        raise KnownError(
            "The teacher did not answer",
            in_one_line(completion.error),
            "Check the server or the file, then test again.",
        )
    if not (completion.text.strip() or completion.reasoning.strip()):
        raise KnownError(
            "The teacher's answer is empty", f"It ended with {completion.finish_reason!r}.", "Choose a chat model."
        )
    speed = completion.tokens / seconds if seconds > 0 else 0.0
    if speed < SLOW_TOKENS_PER_SECOND:
        job.warn("This teacher is slow", f"{speed:.2g} tokens/s: 1,000 answers of 100 tokens take {_long(1e5, speed)}.")
    return {
        "text": completion.text.strip() or completion.reasoning.strip(),
        "tokens": completion.tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(speed, 2),
    }


def _long(tokens: float, speed: float) -> str:
    hours = tokens / max(speed, 1e-3) / 3600
    return f"about {hours:,.0f} hours" if hours < 72 else f"about {hours / 24:,.0f} days"
