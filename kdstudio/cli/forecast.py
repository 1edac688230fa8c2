"""What an elicitation will cost, said before it runs: a few rows are asked and kept, and the rest is foretold."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import Any

from kdstudio.cli.output import duration
from kdstudio.errors import BadInput
from kdstudio.jobs.events import Settled
from kdstudio.jobs.journal import read_journal
from kdstudio.project import Project
from kdstudio.teachers.base import Completion
from kdstudio.teachers.prices import forecast


def rows_to_ask(project: Project, parameters: dict[str, Any], limit: int) -> int:
    """How many prompts an elicitation with these parameters would ask about, at most `limit` of them (0: all)."""
    teacher, recipe_hash = str(parameters["teacher"]["name"]), str(parameters["recipe_hash"])
    found = project.rows.prompts(
        status=str(parameters["status"]), tag=str(parameters["tag"]), unanswered_by=(teacher, recipe_hash, "")
    )
    count = sum(prompt.status != "rejected" for prompt in found)
    return min(count, limit) if limit else count


def foretold(project: Project, result: dict[str, Any], rows: int) -> dict[str, Any]:
    """What `rows` rows will cost and how long they will take, from the finished sample run `result`.

    Raises `BadInput` when fewer than two rows were answered, or when what they cost is not known.
    """
    tokens, costs = defaultdict[str, int](int), defaultdict[str, float](float)
    for line in read_journal(project.runs_folder / str(result["run"])):
        event = line.event
        if isinstance(event, Settled) and event.outcome == "answered":
            row = event.key.partition(":")[0]  # several questions may belong to one prompt
            tokens[row] += event.tokens
            costs[row] += event.cost
    if costs and not any(costs.values()):
        raise BadInput(
            "What this teacher costs is not known",
            f"{len(costs):,} rows were answered; the answers are kept.",
            "Give the teacher the option price, or enter its model in prices.toml in the settings folder.",
        )
    sample = [Completion(row, "", "stop", tokens=tokens[row], cost=cost) for row, cost in costs.items()]
    found = forecast(sample, rows)
    seconds = float(result.get("seconds", 0.0)) / max(1, len(sample)) * rows
    return {**asdict(found), "seconds": round(seconds, 1), "text": f"{found}; about {duration(seconds)}"}
