"""What is looked at before the first step, on a few rows: whether the numbers on the screen will mean what they say.

Most faults of distillation are silent. A teacher shifted by one token, a mask over the wrong text, a temperature on one
side only: the loss falls all the same, and the student learns something else. Each check here would catch one of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from kdstudio.distillation.audit_formulas import check_gradient, check_itself
from kdstudio.distillation.audit_rows import check_rows, check_vocabulary
from kdstudio.distillation.audit_signals import check_signals
from kdstudio.distillation.audit_states import check_numbers, check_places, check_teacher_states
from kdstudio.distillation.audited import Audited, Finding
from kdstudio.distillation.reporter import Reporter
from kdstudio.distillation.targets import WholeTarget
from kdstudio.errors import KnownError
from kdstudio.jobs.events import Checked

__all__ = ["Audited", "Finding", "audit", "report"]


def report(job: Reporter, audited: Audited, *, stop: bool) -> None:
    """Journal every finding. Raises `KnownError` for the first fault if it is to `stop` the run."""
    found = audit(audited)
    for finding in found:
        passages = [list(passage) for passage in finding.passages]
        job.emit(Checked(finding.level, finding.title, finding.detail, passages))
    fault = next((finding for finding in found if finding.level == "fault"), None)
    if fault is not None and stop:
        raise KnownError(
            fault.title,
            f"{fault.detail} It was found before the first step; nothing was trained.",
            'Mend it, or set run.audit = "report" to train all the same.',
        )


def audit(audited: Audited) -> list[Finding]:
    """All findings, in the order of the checks. A few forward passes over at most eight rows."""
    found = list(check_rows(audited))
    if _faulty(found):
        return found  # what follows would only echo it
    batch = audited.batch()
    hidden = audited.student_hidden(batch)
    target = audited.target(batch)
    found += [*check_numbers(audited, hidden, target), *check_vocabulary(audited, target)]
    if not _faulty(found):
        found += check_places(audited, batch, hidden)
    if _faulty(found):
        return found
    found += check_itself(audited, hidden, target)
    if target is None:
        return found
    read = list(check_teacher_states(audited, batch, target)) if isinstance(target, WholeTarget) else []
    found += read if _faulty(read) else [*read, *check_signals(audited, batch, hidden, target)]
    return [*found, *check_gradient(audited, hidden, target)]


def _faulty(found: Iterable[Finding]) -> bool:
    return any(finding.level == "fault" for finding in found)
