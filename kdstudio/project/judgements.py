"""What judges said of rows on which a person decided too: how far they agree, and the rows on which they differ.

A run's recipe tells where its judge's scores are kept (`extras` of the rows), or that its preferences are in a judge's
order. Only rows count whose status a person set or confirmed: what a recipe rejects by its judge's score is no second
opinion.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdstudio.project.content import Kind
from kdstudio.project.database import Database
from kdstudio.project.migrations import KIND_TABLES
from kdstudio.quality.agreement import FEW_ROWS, agreement_of, paired_agreement, strength

Read = Callable[[str, Sequence[Any]], list[sqlite3.Row]]
ORDER = "order"
"""The criterion of preferences: which of the answers is better."""
_EXTRAS = "nullif(extras, '')"  # an empty text is no JSON
_DECIDED = "decided = 1 AND status <> 'pending'"  # undoing what an older version did leaves the mark
_RUN_OF = {"prompt": f"json_extract({_EXTRAS}, '$.provenance.run')"}
_KINDS_OF_EMIT: dict[str, Kind] = {"prompt": "prompt", "preference": "preference"}


@dataclass(frozen=True)
class Criterion:
    """One thing that one judge was asked, the same way in some runs. `path`: where its score is; none for an order.

    Scores from `least` on count as accepting the row: the recipe's own minimum, else the middle of the scale.
    """

    judge: str
    name: str
    kind: Kind
    path: str = ""
    least: float = 0.0
    runs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Names it in a filter."""
        return f"{self.judge} · {self.name}".replace('"', "'")

    @property
    def is_order(self) -> bool:
        """Whether it is the order of a preference's answers, and no score."""
        return self.kind == "preference" and self.name == ORDER and not self.least


@dataclass(frozen=True)
class Compared:
    """A judge's agreement with the person: `agreed` of `rows`; `kappa`, `low` and `high` are None where undefined."""

    judge: str
    criterion: str
    kind: Kind
    rows: int
    agreed: int
    kappa: float | None
    low: float | None
    high: float | None
    least: float

    @property
    def key(self) -> str:
        """As `Criterion.key`."""
        return Criterion(self.judge, self.criterion, self.kind).key

    @property
    def missing(self) -> int:
        """How many more rows are needed until the figures are more than chance."""
        return max(0, FEW_ROWS - self.rows)

    def in_words(self) -> str:
        """`agrees with you on 41 of 50 rows, kappa 0.62: substantial (95%: 0.40 to 0.84)`."""
        said = f"agrees with you on {self.agreed:,} of {self.rows:,} {'row' if self.rows == 1 else 'rows'}"
        if self.kappa is None or self.low is None or self.high is None:
            return f"{said}; kappa is not defined while both say the same of every row"
        kappa, low, high = (f"{round(value, 2) + 0.0:.2f}" for value in (self.kappa, self.low, self.high))  # no -0.00
        return f"{said}, kappa {kappa}: {strength(self.kappa)} (95%: {low} to {high})"

    def warning(self) -> str:
        """What to keep in mind; "" when there are rows enough."""
        if not self.missing:
            return ""
        return f"Decide on {self.missing} more {'row' if self.missing == 1 else 'rows'} before you rely on it."


class Judgements:
    """Reads them from one project."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def compared(self) -> list[Compared]:
        """Every judge and criterion with rows that the person decided on, those with most rows first.

        Reads the entries of all rows decided on: call it beside the window, not in it.
        """
        read = self._database.all
        counts: dict[Criterion, dict[tuple[bool, bool], int]] = {}
        for found in _criteria(read):
            for criterion, table in _counted(read, found):
                mine = counts.setdefault(replace(criterion, path="", runs=()), {})
                for pair, number in table.items():
                    mine[pair] = mine.get(pair, 0) + number
        return sorted((_compared(*one) for one in counts.items()), key=lambda one: (-one.rows, one.key, one.kind))


def differing(read: Read, kind: Kind, key: str) -> tuple[str, list[Any]]:
    """The condition on rows of a kind that a judge, by its criterion's `key`, sees otherwise than the person."""
    clauses, values = ["0"], []
    for found in _criteria(read):
        for criterion in _named(found, key) if found.kind == kind else ():
            clause, runs = _decided(criterion)
            if criterion.path:
                score = f"json_extract({_EXTRAS}, ?)"
                clause = f"{clause} AND ({score} >= ?) <> (status = 'accepted')"
                values += [runs, criterion.path, criterion.least]
            else:
                clause = f"{clause} AND status = 'rejected'"
                values.append(runs)
            clauses.append(f"({clause})")
    return f"{_DECIDED} AND ({' OR '.join(clauses)})", values  # by the index of what was decided


def _named(found: Criterion, key: str) -> list[Criterion]:
    """The criterion of that key, where a column holds several aspects: the one that the key names."""
    if found.name:
        return [found] if found.key == key else []
    mark = f"{found.judge} · ".replace('"', "'")
    aspect = key.removeprefix(mark)
    return [replace(found, name=aspect, path=f"{found.path}.{json.dumps(aspect)}")] if key.startswith(mark) else []


# ---------------------------------------------------------------------------------------------------------- counting
def _compared(criterion: Criterion, table: Mapping[tuple[bool, bool], int]) -> Compared:
    rows = sum(table.values())
    agreed = sum(number for (kept, accepted), number in table.items() if kept == accepted)
    found = paired_agreement(agreed, rows - agreed) if criterion.is_order else agreement_of(table)
    low, high = found.interval or (None, None)
    return Compared(
        criterion.judge, criterion.name, criterion.kind, rows, agreed, found.kappa, low, high, criterion.least
    )


def _counted(read: Read, found: Criterion) -> Iterator[tuple[Criterion, dict[tuple[bool, bool], int]]]:
    """(judge kept it, person accepted it) -> rows; of each aspect where the column holds several."""
    decided, runs = _decided(found)
    source, kept, where = KIND_TABLES[found.kind], "1", decided
    values: list[Any] = [found.name, runs]
    if found.path:
        source, kept = f"{source}, json_each({_EXTRAS}, ?) e", "e.value >= ?"
        where, values = f"{decided} AND e.type IN ('integer', 'real')", [found.name, found.least, found.path, runs]
    name = "coalesce(nullif(?, ''), e.key)" if found.path else "?"
    columns = f"{name} AS name, {kept} AS kept, status = 'accepted' AS accepted, count(*) AS number"
    rows = read(f"SELECT {columns} FROM {source} WHERE {where} GROUP BY 1, 2, 3", values)  # noqa: S608
    tables: dict[str, dict[tuple[bool, bool], int]] = {}
    for row in rows:
        tables.setdefault(str(row["name"]), {})[bool(row["kept"]), bool(row["accepted"])] = row["number"]
    for name, counted in tables.items():
        yield replace(found, name=name), counted


def _decided(found: Criterion) -> tuple[str, str]:
    """The condition on a person's decisions on rows of these runs, and its value."""
    run = _RUN_OF.get(found.kind, "run")
    return f"{_DECIDED} AND {run} IN (SELECT value FROM json_each(?))", json.dumps(found.runs)  # noqa: S608


# --------------------------------------------------------------------------------------------------- what was judged
def _criteria(read: Read) -> list[Criterion]:
    """What the judges of all runs were asked, the same question of several runs together."""
    runs: dict[Criterion, list[str]] = {}
    for row in read("SELECT id, parameters FROM runs WHERE kind = 'elicit' ORDER BY id", ()):
        parameters = json.loads(row["parameters"])
        recipe = parameters.get("recipe")
        steps = recipe.get("step") if isinstance(recipe, dict) else None
        if not isinstance(steps, list) or parameters.get("trial"):
            continue
        for criterion in _of_steps([step for step in steps if isinstance(step, dict)], parameters):
            runs.setdefault(criterion, []).append(row["id"])
    return [replace(criterion, runs=tuple(ids)) for criterion, ids in runs.items()]


def _of_steps(steps: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]) -> Iterator[Criterion]:
    emits = [step for step in steps if step.get("type") == "emit"]
    by_score = {str(step.get("mean", "score")): step for step in steps if step.get("type") == "score"}
    for step in steps:
        if step.get("type") == "score":
            for emit in emits:
                kind = _KINDS_OF_EMIT.get(str(emit.get("kind")), "response")
                yield from _of_scores(step, kind, set(emit.get("extras") or ()), parameters)
        elif step.get("type") == "rank":
            judged = by_score.get(str(step.get("by"))) if step.get("method") == "scores" else step
            if judged is not None and any(emit.get("kind") == "preference" for emit in emits):
                yield Criterion(_judge(judged, parameters), ORDER, "preference")


def _of_scores(
    step: Mapping[str, Any], kind: Kind, kept: set[str], parameters: Mapping[str, Any]
) -> Iterator[Criterion]:
    """The aspects where they are kept with the row, and their mean where it is and says more than one aspect."""
    low, high = float(step.get("lowest", 1)), float(step.get("highest", 5))
    least = float(step.get("minimum") or 0) or (low + high) / 2
    aspects, mean = str(step.get("into", "scores")), str(step.get("mean", "score"))
    judge = _judge(step, parameters)
    if aspects in kept:
        yield Criterion(judge, "", kind, f"$.{json.dumps(aspects)}", least)
    if mean in kept and not (aspects in kept and len(step.get("aspects") or ()) == 1):
        yield Criterion(judge, mean, kind, f"$.{json.dumps(mean)}", least)


def _judge(step: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Who judged, by name: without a judge of its own the run's default teacher did."""
    speaker = str(step.get("speaker", "judge"))
    named = parameters.get(speaker)
    if speaker != "teacher" and isinstance(named, dict):
        return str(named.get("name", speaker))
    teachers = [str(spec.get("name")) for spec in parameters.get("teachers") or [parameters.get("teacher") or {}]]
    if speaker == "teacher":
        return " + ".join(teachers)
    return str(parameters.get("default") or teachers[0])


def criterion_words(one: Compared) -> str:
    """`qwen (helpfulness)`, with the score from which the judge counts as accepting."""
    asked = Criterion(one.judge, one.criterion, one.kind, least=one.least)
    return f"{one.judge} ({'which answer is better' if asked.is_order else f'{one.criterion} from {one.least:g}'})"


def compared_dict(one: Compared) -> dict[str, Any]:
    """For a script: the figures, the words and the warning."""
    figures: dict[str, Any] = {
        **vars(one),
        "key": one.key,
        "missing": one.missing,
        "words": one.in_words(),
        "warning": one.warning(),
    }
    return {**figures, "share": one.agreed / one.rows, "strength": strength(one.kappa) if one.kappa is not None else ""}
