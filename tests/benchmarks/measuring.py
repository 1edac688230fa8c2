"""Runs measurements in processes of their own, ours and the peers' turn by turn, and puts their figures together."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdstudio.errors import KnownError
from tests.benchmarks.peers.measured import THREADS

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Measurement:
    """All that the processes of one measurement have printed. `key`: which memory, extra_bytes or total_bytes."""

    key: str = "extra_bytes"
    seconds: list[float] = field(default_factory=list)
    core_seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    loss: float = 0.0

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in one process's line."""
        self.seconds += line["seconds"]
        self.core_seconds += line["core_seconds"]
        self.memory.append(line[self.key])
        self.loss = line["loss"]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def of_cores(self) -> float:
        """Seconds of the cores in all, two threads together: hardly touched by what else runs on them."""
        return statistics.median(self.core_seconds)

    @property
    def megabytes(self) -> float:
        """The median of the peaks."""
        return statistics.median(self.memory) / 1e6

    def __str__(self) -> str:
        spread = f"{min(self.seconds):.2f} to {max(self.seconds):.2f} in {len(self.seconds)} runs"
        time = f"{self.median:.2f} s ({spread}; {self.of_cores:.2f} of the cores)"
        return f"{time}, {self.megabytes:,.0f} MB, loss {self.loss:.5f}"


@dataclass(frozen=True)
class Command:
    """A measuring module with its arguments, in `.venv` or in `.venv-peers`."""

    module: str
    arguments: Sequence[object]
    peer: bool

    def run(self) -> dict[str, Any]:
        """The line of JSON it prints. Raises `KnownError` with the last of its messages when it fails."""
        python = peers_python() if self.peer else sys.executable
        command = [python, "-W", "ignore", "-m", self.module, *(str(argument) for argument in self.arguments)]
        threads = {"OMP_NUM_THREADS": str(THREADS), "KDSTUDIO_THREADS": str(THREADS)}
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
        outcome = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **threads, **quiet}, capture_output=True, text=True
        )
        if outcome.returncode:
            last = (outcome.stderr.strip().splitlines() or ["it was killed"])[-1]
            raise KnownError("A measurement failed", f"{self.module} {self.arguments}: {last}", "Run it by hand.")
        found: dict[str, Any] = json.loads(outcome.stdout.strip().splitlines()[-1])
        return found


def in_turns(commands: Mapping[str, Command], rounds: int, key: str = "extra_bytes") -> dict[str, Measurement]:
    """Run all commands `rounds` times over, so that a busy minute of the machine meets everybody; says each result."""
    found = {name: Measurement(key) for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            found[name].add(command.run())
    width = max(len(name) for name in found)
    for name, measurement in found.items():
        print(f"    {name:<{width}}  {measurement}", flush=True)
    return found


def peers_python() -> str:
    """The interpreter of `.venv-peers`, which is made at first use."""
    script = ROOT / "packaging" / "peers_environment.py"
    if subprocess.run([sys.executable, str(script)]).returncode:
        raise KnownError("The peers could not be installed", "Their environment is .venv-peers.", f"Run {script}.")
    return str(ROOT / ".venv-peers" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))
