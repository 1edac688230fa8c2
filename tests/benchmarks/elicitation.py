"""How fast rows go through a recipe of five steps outside the teacher, and whether memory stays flat on the way."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

import psutil

from kdstudio.jobs import folder as run_files
from kdstudio.jobs.events import Row
from kdstudio.jobs.journal import read_journal
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import NewPrompt, Project
from kdstudio.recipe import find_elicitation_recipe, recipe_hash
from tests.benchmarks.figures import Figure

ROWS = 10_000
BAR = 2_000  # rows a second
FLAT_MB = 32
_SCRIPT = {"default": "The answer to {prompt} is that it depends on the weather, the season and the tide."}


def elicitation() -> list[Figure]:
    """10,000 rows through prompt, sample, parse, filter and emit by the scripted teacher: a whole child process."""
    with tempfile.TemporaryDirectory() as folder:
        run = _prepared(Path(folder), ROWS)
        seconds, early, late = _measured(run)
        rows = sum(isinstance(line.event, Row) for line in read_journal(run))
        said = json.loads((run / "events.jsonl").read_bytes().splitlines()[-1])
    if rows != ROWS:
        raise AssertionError(f"{rows} rows were written, not {ROWS}")
    bar = f"at least {BAR:,.0f}"
    return [
        Figure("five steps, the whole child with its start", ROWS / seconds, "rows/s", bar, smaller_is_better=False),
        Figure("five steps, once it asks", ROWS / said["seconds"], "rows/s", bar, smaller_is_better=False),
        Figure("memory gained after a fifth of the time", (late - early) / 1e6, "MB", f"flat: {FLAT_MB} MB at most"),
    ]


def _prepared(folder: Path, count: int) -> Path:
    with Project.create(folder / "p") as project:
        project.rows.add_prompts(
            NewPrompt([{"role": "user", "content": f"What is question {number} about?"}]) for number in range(count)
        )
        recipe = find_elicitation_recipe("answer")
        parameters = {
            "recipe": recipe.model_dump(mode="json"),
            "recipe_hash": recipe_hash(recipe),
            "teacher": asdict(TeacherSpec("script", "scripted", options={"script": _SCRIPT})),
        }
        run_id = project.runs.add("elicit", "Ask", parameters)
        run = project.runs_folder / run_id
        run_files.write_job(run, run_files.JobFile("elicit", parameters))
        return run


def _measured(run: Path) -> tuple[float, int, int]:
    """(seconds of the child from start to end, resident bytes early and at most later)."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "kdstudio", "job", str(run)])
    sizes: list[int] = []
    watcher = threading.Thread(target=_watch, args=(process.pid, sizes))
    watcher.start()
    code = process.wait()
    seconds = time.monotonic() - began
    watcher.join()
    if code:
        raise AssertionError(f"the child ended with {code}")
    start = len(sizes) // 5
    return seconds, sizes[start], max(sizes[start:])


def _watch(number: int, sizes: list[int]) -> None:
    try:
        process = psutil.Process(number)
        while process.status() != psutil.STATUS_ZOMBIE:
            sizes.append(process.memory_info().rss)
            time.sleep(0.02)
    except psutil.Error:
        return
