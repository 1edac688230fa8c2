"""What a trial's journal says so far: each row's way through the steps, and what its answers took."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdstudio.jobs.events import Answer, Event, Failed, Finished, Progress, Settled, Traced

ROWS = 3
"""So many rows a trial asks."""
_STUDENT_T = {1: math.tan(math.pi * 0.475), 2: 0.95 * math.sqrt(2 / (1 - 0.95**2))}
"""The 97.5 % quantile of Student's t with one and two degrees of freedom, exact (Abramowitz and Stegun 26.7.3-4)."""


def root_of(key: str) -> str:
    """The row of the input from which a row came."""
    return key.partition(":")[0]


def parent_of(key: str) -> str:
    """The row out of which a row was split; "" for one of the input."""
    return key.rsplit(":", 2)[0] if key.count(":") >= 2 else ""


@dataclass
class TrialRecord:
    """Grows by the journal's events. Tokens, costs (US dollars) and questions are kept by row of the input."""

    traces: list[Traced] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    costs: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    questions: int = 0
    stage: str = ""
    seconds: float = 0.0
    result: Mapping[str, Any] | None = None
    failure: Mapping[str, str] | None = None

    def add(self, event: Event) -> None:
        """Take in one event; others than a trial's are passed over."""
        match event:
            case Traced():
                self.traces.append(event)
            case Answer(finish_reason="error") | Settled(outcome="refused"):
                pass
            case Answer():
                self.questions += 1
                self.tokens[root_of(event.key)] += event.tokens
            case Settled():
                self.costs[root_of(event.key)] += event.cost
            case Progress():
                self.stage = event.stage
            case Finished():
                self.result, self.seconds = event.result, float(event.result.get("seconds", 0.0))
            case Failed():
                self.failure = {"title": event.title, "detail": event.detail, "hint": event.hint}

    def roots(self) -> list[str]:
        """The rows of the input, in the order in which they came."""
        return list(dict.fromkeys(root_of(trace.key) for trace in self.traces))

    def of(self, root: str) -> list[Traced]:
        """What was done to one of them and to what came out of it, by row and step."""
        own = [trace for trace in self.traces if root_of(trace.key) == root]
        return sorted(own, key=lambda trace: trace.step)

    def kept(self) -> int:
        """How many rows the run would write, rejected ones among them."""
        return int((self.result or {}).get("would_write", 0))

    def values_before(self, trace: Traced) -> dict[str, str]:
        """The columns that a row had when a step began, as far as earlier steps wrote them."""
        line = [trace.key]
        while parent := parent_of(line[-1]):
            line.append(parent)
        found: dict[str, str] = {}
        for earlier in self.of(root_of(trace.key)):
            if earlier.step < trace.step and earlier.key in line:
                found |= earlier.columns
        return found


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % prediction interval; both ends are the mean where nothing is known of the spread."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class RunForecast:
    """What all rows will take, from the few that were tried. `dollars` is None where nobody knows the price."""

    rows: int
    tried: int
    questions: float
    tokens: Interval
    seconds: float
    dollars: Interval | None


def foretell(record: TrialRecord, rows: int, *, hosted: bool) -> RunForecast:
    """The forecast for `rows` rows, those of the trial among them; what is not `hosted` costs nothing."""
    roots = record.roots() or sorted(record.tokens)
    tried = max(1, len(roots))
    dollars = project([record.costs.get(root, 0.0) for root in roots], rows)
    known = not hosted or any(record.costs.values())
    return RunForecast(
        rows,
        len(roots),
        record.questions / tried * rows,
        project([float(record.tokens.get(root, 0)) for root in roots], rows),
        record.seconds / tried * rows,
        (dollars if hosted else Interval(0, 0, 0)) if known else None,
    )


def project(sample: Iterable[float], rows: int) -> Interval:
    """The sum over `rows` rows of which `sample` holds the first: the rest is foretold from their mean.

    The rest of N - n rows sums to (N - n) times the mean, give or take t(n - 1) s sqrt((N - n)^2 / n + (N - n)): the
    mean is uncertain, and so is each row.
    """
    values = list(sample)
    if not values:
        return Interval(0, 0, 0)
    count, so_far = len(values), sum(values)
    rest = max(0, rows - count)
    whole = so_far + rest * statistics.fmean(values)
    if count < 2:
        return Interval(whole, whole, whole)
    margin = _STUDENT_T[min(count - 1, 2)] * statistics.stdev(values) * math.sqrt(rest * rest / count + rest)
    return Interval(whole, max(so_far, whole - margin), whole + margin)


def readable(text: str) -> str:
    """A column's value as a person reads it: messages as turns, everything else as it is."""
    if not text.startswith('[{"'):
        return text
    try:
        turns = json.loads(text)
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
    except (ValueError, KeyError, TypeError):
        return text
