"""The window's first paint, and a table of a million rows: how fast it is, and how long it stops the window."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.figures import Figure

_PAINT = """
import time, sys
began = time.perf_counter()
{extra}
from kdstudio.ui.app import start
app, window = start([])
window.repaint()
app.processEvents()
print(time.perf_counter() - began)
print("torch" in sys.modules)
import os; os._exit(0)
"""
ROWS = 1_000_000


def first_paint() -> Iterator[Figure]:
    """Interpreter start to first paint, warm: median of five, against the same window with torch imported."""
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "KDSTUDIO_HOME": tempfile.mkdtemp()}

    def once(extra: str) -> float:
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", _PAINT.format(extra=extra)], env=environment, check=True, capture_output=True
        )
        return time.perf_counter() - began

    once("")
    ours = statistics.median(once("") for _ in range(5))
    heavy = statistics.median(once("import torch, transformers") for _ in range(3))
    yield Figure(
        "window to first paint, whole process", ours, "s", "<= 0.8 s, >= 4x", heavy, "the same importing torch"
    )


def million_rows() -> Iterator[Figure]:
    """Import, open, jump, search a million rows; then give each an answer, and act on those in the window."""
    from kdstudio.project import NewResponse, Project
    from kdstudio.project.exchange import import_file
    from kdstudio.project.table import RowQuery, RowTable

    folder = Path(tempfile.mkdtemp())
    source = folder / "rows.jsonl"
    words = ["whale", "clock", "robot", "mansion", "castle", "river", "moon"]
    generator = random.Random(0)
    with source.open("w") as stream:
        for number in range(ROWS):
            text = " ".join(generator.choices(words, k=6))
            stream.write(f'{{"prompt": "{text} {number}"}}\n')
    with Project.create(folder / "million") as project:
        began = time.perf_counter()
        import_file(project, source)
        yield Figure(
            "import 1,000,000 JSONL rows", ROWS / (time.perf_counter() - began), "rows/s", smaller_is_better=False
        )
        table = RowTable(project.folder)
        query = RowQuery("prompt")
        began = time.perf_counter()
        table.page(query, 0, 60)
        yield Figure("open the table", (time.perf_counter() - began) * 1e3, "ms")
        times = []
        for _ in range(1000):
            first = generator.randrange(ROWS)
            began = time.perf_counter()
            table.page(query, first, 60)
            times.append((time.perf_counter() - began) * 1e3)
        offset = []
        for _ in range(20):
            first = generator.randrange(ROWS)
            began = time.perf_counter()
            project.rows._database.all("SELECT * FROM prompts ORDER BY id LIMIT 60 OFFSET ?", (first,))
            offset.append((time.perf_counter() - began) * 1e3)
        times.sort()
        yield Figure("jump to any place, p99", times[990], "ms", "<= 5 ms", statistics.median(offset), "OFFSET, median")
        for text in ("whale 4242", "zebra", "whale"):
            began = time.perf_counter()
            found = RowQuery("prompt", search=text)
            count = table.count(found)
            table.page(found, count // 2, 60)
            yield Figure(
                f"search {text!r} ({count:,} rows)",
                (time.perf_counter() - began) * 1e3,
                "ms",
                "off the window's thread",
            )
        table.close()
        project.rows.add_responses(
            NewResponse(1 + number, f"Once a {' '.join(generator.choices(words, k=9))} {number}", tokens=number % 97)
            for number in range(ROWS)
        )
    yield from _gaps(folder / "million.kdstudio")


def _gaps(project: Path) -> Iterator[Figure]:
    """The longest gap of the window's event loop in each action on the project's answers."""
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "KDSTUDIO_HOME": tempfile.mkdtemp()}
    command = [sys.executable, "-m", "tests.benchmarks.gaps", str(project)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as window:
        for line in window.stdout or ():
            said = json.loads(line)
            yield Figure(
                f"longest gap of the window's event loop, {said['work']} ({said['queued']:.0f} ms without a core)",
                said["gap"],
                "ms",
                "<= 100 ms",
                said["idle"],
                "an idle process meanwhile",
            )
    if window.returncode:
        raise subprocess.CalledProcessError(window.returncode, command)
