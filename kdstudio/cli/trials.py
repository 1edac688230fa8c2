"""What a trial showed, as lines to read: each row, step by step."""

from __future__ import annotations

from kdstudio.jobs.events import Traced
from kdstudio.jobs.journal import read_journal
from kdstudio.project import Project

_SHOWN = 240  # characters of a value


def trial_in_words(project: Project, run_id: str) -> str:
    """Each row of a trial with what every step wrote, and why it fell where it did."""
    rows: dict[str, list[str]] = {}
    for line in read_journal(project.runs_folder / run_id):
        if isinstance(line.event, Traced):
            rows.setdefault(line.event.key.partition(":")[0], []).extend(_lines(line.event))
    shown = [f"Row {root}\n" + "\n".join(steps) for root, steps in rows.items()]
    return "\n".join([*shown, "Nothing was written. A run without --trial takes over answers to the same questions."])


def _lines(traced: Traced) -> list[str]:
    head = f"  {traced.step + 1 or '':>2} {traced.type:<12}"
    wrote = [f"{name} = {_short(value)}" for name, value in traced.columns.items()]
    fell = [f"fell: {_short(traced.reason)}"] if traced.reason else []
    nothing = ["passed by: its `when` is false here"] if traced.by else ["-"]
    return [f"{head if not place else ' ' * len(head)} {text}" for place, text in enumerate([*wrote, *fell] or nothing)]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
