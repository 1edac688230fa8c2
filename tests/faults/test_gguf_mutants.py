"""No file makes the header reader do more than refuse it: only our error, within 50 ms and 64 MiB each."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE

import pytest

from kdstudio.errors import BadInput
from kdstudio.models.gguf_header import read_header
from kdstudio.models.model_card import model_card
from kdstudio.models.teacher_file import gguf_teacher
from tests.faults.gguf_mutants import Mutant, mutants, seeds

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]
SECONDS, MEMORY = 0.050, 64 << 20


@dataclass
class Report:
    """What became of the mutants; `slowest` in seconds of processor time, `largest` in bytes."""

    refused: int = 0
    read: int = 0
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")
    titles: Counter[str] = field(default_factory=Counter)


def meet(path: Path) -> str:
    """What the window does with a file that somebody drops on it; "" when it was read, else our error's title."""
    try:
        card = model_card(path)
        card.as_dict()
        gguf_teacher("", path)
    except BadInput as error:
        return error.title if error.detail and error.hint else "an error without words"
    return ""


def meet_all(folder: Path, count: int, seed: int, *, weigh_every: int) -> Report:
    report, path = Report(), folder / "mutant.gguf"
    for number, mutant in enumerate(mutants(seeds(folder), count, seed)):
        mutant.write(path)
        began = time.process_time()
        title = meet(path)
        report.slowest = max(report.slowest, (time.process_time() - began, mutant.kind))
        report.refused += bool(title)
        report.read += not title
        report.titles[title] += 1
        if number % weigh_every == 0:
            tracemalloc.start()
            meet(path)
            report.largest = max(report.largest, (tracemalloc.get_traced_memory()[1], mutant.kind))
            tracemalloc.stop()
    return report


def judge(report: Report, count: int) -> None:
    assert report.refused + report.read == count
    assert not report.titles["an error without words"]
    assert report.refused > count // 3
    assert report.read > count // 10
    assert report.slowest[0] <= SECONDS, report.slowest
    assert report.largest[0] <= MEMORY, report.largest


def test_a_thousand_mutants(tmp_path: Path) -> None:
    judge(meet_all(tmp_path, 1000, 7, weigh_every=10), 1000)


@pytest.mark.slow
def test_ten_thousand_mutants(tmp_path: Path) -> None:
    report = meet_all(tmp_path, 10_000, 11, weigh_every=1)
    print(report)
    judge(report, 10_000)


def accepted(folder: Path, count: int, seed: int) -> list[Mutant]:
    """Mutants that our reader lets pass: what llama.cpp may get to see."""
    sound = [item for item in seeds(folder) if item.path.parent != folder]
    found: list[Mutant] = []
    path = folder / "mutant.gguf"
    for mutant in mutants(sound, 100 * count, seed):
        if mutant.header == mutant.seed.header or mutant.size > 4 * mutant.seed.size:
            continue
        try:
            read_header(mutant.write(path))
        except BadInput:
            continue
        found.append(mutant)
        if len(found) == count:
            return found
    raise AssertionError(f"only {len(found)} passed")


def load_all(folder: Path, count: int) -> Counter[str]:
    """Let llama.cpp load accepted mutants in children, one after the other; how each of them ended."""
    endings: Counter[str] = Counter()
    command = [sys.executable, "-m", "tests.faults.llama_loads"]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT) as loader:
        assert loader.stdin is not None
        assert loader.stdout is not None
        for mutant in accepted(folder, count, 13):
            path = mutant.write(folder / "loaded.gguf", weights=True)
            loader.stdin.write(f"{path}\n")
            loader.stdin.flush()
            endings[json.loads(loader.stdout.readline())["how"]] += 1
        loader.stdin.close()
    assert loader.returncode == 0
    return endings


def test_accepted_mutants_break_at_most_the_child_that_loads_them(tmp_path: Path) -> None:
    endings = load_all(tmp_path, 8)
    assert endings.total() == 8


@pytest.mark.slow
def test_five_hundred_accepted_mutants_in_llama(tmp_path: Path) -> None:
    endings = load_all(tmp_path, 500)
    print(endings)
    assert endings.total() == 500
    assert endings["loaded"] > 50
    assert not endings["ended oddly"]
