"""Trying a teacher: does it open, does it answer, how fast is it. The window's "Test connection"."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdstudio.errors import KnownError
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Request, Sampling, Teacher
from kdstudio.teachers.opening import open_teacher

if TYPE_CHECKING:
    from kdstudio.jobs.child import Job

QUESTION = "Say hello in one short sentence."


def run(job: Job) -> dict[str, Any]:
    """Open `teacher` and ask it one thing; returns capabilities, text, tokens, seconds, tokens_per_second.

    Raises `KnownError` when it cannot be opened or does not answer, with the words of the reason.
    """
    spec = TeacherSpec(**job.parameters["teacher"])
    if spec.kind == "openai":
        _check_model(spec, job.secrets)
        spec = TeacherSpec(**{**asdict(spec), "options": {"timeout_seconds": 60, **spec.options, "tries": 2}})
    teacher = open_teacher(spec, job.secrets)
    try:
        return {
            "capabilities": asdict(teacher.capabilities),
            **_ask(teacher, str(job.parameters.get("question") or QUESTION)),
        }
    finally:
        teacher.close()


def _check_model(spec: TeacherSpec, secrets: dict[str, str]) -> None:
    """A wrong model name is the commonest mistake: say it, with the names that there are. Not all servers list them."""
    from kdstudio.teachers.openai_api import OpenAITeacher

    try:
        names = OpenAITeacher(spec, secrets).models()
    except KnownError as error:
        if "404" in error.detail:
            return
        raise
    if names and spec.model not in names and f"{spec.model}:latest" not in names:
        shown = ", ".join(names[:12]) + (" and more" if len(names) > 12 else "")
        raise KnownError(
            "The endpoint has no such model", f"{spec.url} does not list {spec.model!r}.", f"It has: {shown}."
        )


def _ask(teacher: Teacher, question: str) -> dict[str, Any]:
    request = Request("probe", ({"role": "user", "content": question},), Sampling(max_tokens=48))
    began = time.monotonic()
    completion = next(iter(teacher.generate([request])), None)
    seconds = time.monotonic() - began
    if completion is None or completion.finish_reason == "error":
        reason = completion.error if completion else "It said nothing."
        raise KnownError("The teacher did not answer", reason, "Check the server or the file, then test again.")
    return {
        "text": completion.text,
        "tokens": completion.tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(completion.tokens / seconds, 2) if seconds > 0 else 0.0,
    }
