"""Who answers in a run: the teacher, and where a recipe asks for them, a judge or the student."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Teacher
from kdstudio.teachers.ledger import ledger_of
from kdstudio.teachers.opening import open_teacher

if TYPE_CHECKING:
    from kdstudio.jobs.child import Job


def open_speakers(job: Job) -> Teacher:
    """Whoever this run asks, as one teacher. Raises `KnownError` or `BadInput` when one cannot be used."""
    return open_teacher(TeacherSpec(**job.parameters["teacher"]), job.secrets, ledger=ledger_of(job))
