"""A disk that fills up: the last good file is intact, nothing temporary stays, the words say what is missing, and after
space was freed the work goes on: along the very same curve, and asking nothing twice.

The disk is a small tmpfs in a mount namespace of its own, as root or in a user namespace, so that it vanishes with its
process. Where a system allows neither (most containers do not), a limit on the size of files takes its place, and that
is written to the terminal: the same writes fail at the same places, only the system's words are others.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMESPACES = (("unshare", "--mount"), ("unshare", "--user", "--map-root-user", "--mount"))
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.name == "nt", reason="neither a small disk nor a limit on files can be had on Windows"),
]


@functools.cache
def namespace() -> tuple[str, ...]:
    """What a command is started with so that it may mount a small disk; empty where that is not allowed."""
    for words in NAMESPACES:
        trial = [*words, "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/tmp"]
        try:
            if subprocess.run(trial, capture_output=True, timeout=30).returncode == 0:
                return words
        except OSError:
            continue
    return ()


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """The disk that this system allows; says aloud when it is the stand-in."""
    if namespace():
        return "small"
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line("\nNo small disk can be mounted here: a limit on the size of files stands in for it.")
    return "limit"


def fill_up(scenario: str, kind: str, folder: Path, *tries: str) -> None:
    """Run a scenario's tries in a process of their own; each must say that it held."""
    prefix = namespace() if kind == "small" else ()
    command = [*prefix, sys.executable, "-m", "tests.faults.full_disk", scenario, kind, str(folder), *tries]
    environment = {**os.environ, "KDSTUDIO_THREADS": "1", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count(" held\n") == len(tries)


@pytest.mark.parametrize(
    ("scenario", "left"),
    [
        ("checkpoint", "+some"),
        ("generation", "nothing"),
        ("importing", "+some"),
        ("exporting", "+some"),
        ("command", "some"),
    ],
)
def test_a_disk_that_fills_up_once(scenario: str, left: str, kind: str, tmp_path: Path) -> None:
    fill_up(scenario, kind, tmp_path, left)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["checkpoint", "student", "generation", "importing", "exporting", "command"])
def test_a_disk_with_nothing_some_or_most_left(scenario: str, kind: str, tmp_path: Path) -> None:
    seen, unseen = ("nothing", "some", "most"), ("+some", "+most")
    fill_up(scenario, kind, tmp_path, *seen, *(unseen if scenario not in ("generation", "command") else ()))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["checkpoint", "generation", "importing", "exporting", "command"])
def test_a_limit_on_files_that_stands_in_for_a_small_disk(scenario: str, tmp_path: Path) -> None:
    fill_up(scenario, "limit", tmp_path, "some")
