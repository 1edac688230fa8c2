"""Kills of a writer at random moments: nothing acknowledged is lost, nothing is there by half."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its victims, and this system cannot"),
]


def kill(what: str, kills: int, folder: Path) -> int:
    command = [sys.executable, "-m", "tests.faults.database_kills", what, str(kills), "7", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


@pytest.mark.parametrize("what", ["writer", "import", "migrate", "ingest"])
def test_a_few_kills(what: str, tmp_path: Path) -> None:
    assert kill(what, 4, tmp_path) >= 1


@pytest.mark.slow
@pytest.mark.parametrize(("what", "kills"), [("writer", 200), ("import", 60), ("migrate", 300), ("ingest", 100)])
def test_many_kills(what: str, kills: int, tmp_path: Path) -> None:
    assert kill(what, kills, tmp_path) >= kills // 4
