"""Which prompts a run asks about: chosen once, when it begins, so that continuing it asks neither fewer nor others.

A run that was not answered once has not begun: a person may have mended its prompts, or only now imported some.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from kdstudio import files
from kdstudio.project import Project

FILE_NAME = "prompts.json"


def prompts_of(
    run_folder: Path, project: Project, parameters: Mapping[str, Any], recipe_hash: str, *, begun: bool
) -> list[int]:
    """The ids of this run's prompts, in order: from its folder if it has `begun`, else chosen now and kept there."""
    path = run_folder / FILE_NAME
    try:
        kept = json.loads(path.read_text("utf-8"))["prompts"] if begun else None
        if kept is not None:
            return [int(number) for number in kept]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not ours or damaged: what was answered is in the journal, and is not asked again
    chosen = _choose(run_folder.name, project, parameters, recipe_hash)
    files.write_text(path, json.dumps({"version": 1, "prompts": chosen}))
    return chosen


def _choose(run_id: str, project: Project, parameters: Mapping[str, Any], recipe_hash: str) -> list[int]:
    """Prompts that fit `status` and `tag`, are not rejected, and have no answer of this teacher and recipe."""
    teacher = str(parameters["teacher"]["name"])
    anew = not parameters.get("only_unanswered", True) or _new_seed(run_id, project, parameters, recipe_hash)
    found = project.rows.prompts(
        status=str(parameters.get("status", "")),
        tag=str(parameters.get("tag", "")),
        unanswered_by=None if anew else (teacher, recipe_hash, run_id),
    )
    open_ones = (prompt.id for prompt in found if prompt.status != "rejected")
    return list(islice(open_ones, int(parameters.get("limit", 0)) or None))


def _new_seed(run_id: str, project: Project, parameters: Mapping[str, Any], recipe_hash: str) -> bool:
    """Whether earlier runs asked the same of the same teacher, but none with this seed: then it is a wish for more."""
    earlier = [
        run.parameters
        for run in project.runs.list("elicit")
        if run.id != run_id
        and run.parameters.get("recipe_hash") == recipe_hash
        and run.parameters.get("teacher", {}).get("name") == parameters["teacher"]["name"]
    ]
    seed = int(parameters.get("seed", 0))
    return bool(earlier) and all(int(other.get("seed", 0)) != seed for other in earlier)
