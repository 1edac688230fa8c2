"""What is stored of a teacher's signals and how much of its probability that holds, from the runs that stored them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdstudio.ui.widgets.teacher_spend import teachers_of
from kdstudio.ui.widgets.wording import number, plural

if TYPE_CHECKING:
    from kdstudio.project import Run

_ENOUGH = 0.9


@dataclass(frozen=True)
class StoredSignals:
    """What the newest run at one depth left: rows, tokens, and the mean mass (0..1) that its top k holds of a token."""

    rows: int
    tokens: int
    mass: float


def stored_signals(runs: Iterable[Run], teacher: str) -> dict[int, StoredSignals]:
    """By top k, from a project's `signals` runs, newest first, of that one teacher."""
    found: dict[int, StoredSignals] = {}
    for run in runs:
        result, depth = run.result, int(run.parameters.get("top_k") or 0)
        drawn = run.parameters.get("draws")
        if result.get("rows") and depth and not drawn and teachers_of(run) == (teacher,):
            stored = StoredSignals(result["rows"], result["tokens"], float(result.get("captured_mass", 0.0)))
            found.setdefault(depth, stored)
    return found


def captured_words(signals: Mapping[str, Any], stored: Mapping[int, StoredSignals]) -> tuple[str, bool]:
    """How much of the teacher's probability a run would learn from, and whether that is enough."""
    if signals["signals"] == "dense":
        return "Captured mass: all of it. The whole distribution is read at every token.", True
    depth = signals["top_k"]
    known = stored.get(depth)
    if known is None:
        said = f"Captured mass: not known yet. The {depth} likeliest of each token are stored once, before the run."
        return said, True
    enough = known.mass >= _ENOUGH
    rest = "the rest is learnt by its shape" if signals.get("tail") == "shaped" else "the rest counts as one tail"
    said = (
        f"Captured mass: {100 * known.mass:.1f} %. So much of the teacher’s probability is in the {depth} likeliest at "
        f"each of {number(known.tokens)} tokens in {plural(known.rows, 'row')}; {rest}."
    )
    return said if enough else f"{said} Store more of them, or choose Dense.", enough
