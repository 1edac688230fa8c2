"""What an elicitation will cost, said before it runs: a few rows are asked and kept, and the rest is foretold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from kdstudio.cli.output import duration
from kdstudio.errors import BadInput
from kdstudio.jobs.events import Settled
from kdstudio.jobs.journal import read_journal
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.teachers.base import Completion
from kdstudio.teachers.prices import forecast, price_of


def rows_to_ask(project: Project, parameters: dict[str, Any], limit: int) -> int:
    """How many prompts an elicitation with these parameters would ask about, at most `limit` of them (0: all)."""
    teacher, recipe_hash = str(parameters["teacher"]["name"]), str(parameters["recipe_hash"])
    found = project.rows.prompts(
        status=str(parameters["status"]), tag=str(parameters["tag"]), unanswered_by=(teacher, recipe_hash, "")
    )
    count = sum(prompt.status != "rejected" for prompt in found)
    return min(count, limit) if limit else count


def batch_shares(parameters: Mapping[str, Any]) -> dict[str, float]:
    """For each speaker that a run with these parameters asks in batches: the share of the price that is paid there."""
    specs = [TeacherSpec(**spec) for spec in parameters.get("teachers") or [parameters["teacher"]]]
    specs += [TeacherSpec(**parameters[role]) for role in ("judge", "student") if parameters.get(role)]
    wish = parameters.get("batch")
    batched = (one for one in specs if (one.options.get("batch") if wish is None else wish))
    prices = ((one.name, price_of(one)) for one in batched)
    return {name: price.batch for name, price in prices if price is not None and price.batch is not None}


def foretold(
    project: Project, result: dict[str, Any], rows: int, shares: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """What `rows` rows will cost and how long they will take, from the finished sample run `result`.

    The sample is paid in full; the rest by teachers that are asked in batches at their `shares` of that.
    Raises `BadInput` when fewer than two rows were answered, or when what they cost is not known.
    """
    tokens, costs = defaultdict[str, int](int), defaultdict[str, float](float)
    saved = defaultdict[str, float](float)
    for line in read_journal(project.runs_folder / str(result["run"])):
        event = line.event
        if isinstance(event, Settled) and event.outcome == "answered":
            row = event.key.partition(":")[0]  # several questions may belong to one prompt
            tokens[row] += event.tokens
            costs[row] += event.cost
            saved[row] += event.cost * (1 - (shares or {}).get(event.teacher, 1.0))
    if costs and not any(costs.values()):
        raise BadInput(
            "What this teacher costs is not known",
            f"{len(costs):,} rows were answered; the answers are kept.",
            "Give the teacher the option price, or enter its model in prices.toml in the settings folder.",
        )
    later = {row: cost - saved[row] for row, cost in costs.items()}
    sample = [Completion(row, "", "stop", tokens=tokens[row], cost=cost) for row, cost in later.items()]
    found = forecast(sample, rows).with_more(sum(saved.values()))
    seconds = float(result.get("seconds", 0.0)) / max(1, len(sample)) * rows
    when = "answered in batches, within a day each" if shares else f"about {duration(seconds)}"
    return {**asdict(found), "seconds": round(seconds, 1), "text": f"{found}; {when}"}
