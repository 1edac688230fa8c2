"""`kdstudio rounds` as a person runs it: two rounds, killed on the way, and again."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.rounds_setting import command, make_rounds, parts_of, rounds, runs_of

WHOLE = [(1, "elicit"), (1, "train"), (1, "start"), (1, "evaluate"), (2, "elicit"), (2, "train"), (2, "evaluate")]


def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path) -> None:
    project, recipe = make_rounds(tmp_path)
    (said,) = rounds(project, "nowhere", "--teacher", "tiny", code=2)
    assert "rejection_sampling" in said["error"]["hint"]
    (said,) = rounds(project, recipe, "--set", "rounds.count=0", code=2)
    assert "rounds.count" in said["error"]["detail"]
    assert runs_of(project) == []


@pytest.mark.slow
def test_two_rounds_killed_twice(tmp_path: Path) -> None:
    project, recipe = make_rounds(tmp_path)
    words = (project, recipe, "--teacher", "tiny")
    for part in ("train", "evaluate"):
        _kill_when(part, *words)
    (begun,) = (project / "rounds").iterdir()
    events = rounds(project, begun.name)  # by their id, as the window names them
    assert parts_of(project) == WHOLE
    assert {run.state for run in runs_of(project)} == {"finished"}
    last = events[-1]
    assert last["event"] == "finished"
    assert last["best_round"] == 2
    assert [item["number"] for item in last["rounds"]] == [1, 2]
    parts = [(event["round"], event["part"]) for event in events if event["event"] == "round"]
    assert (1, "elicit") not in parts
    assert parts[-1] == (2, "evaluate")
    assert all({"run", "round", "part"} <= event.keys() for event in events[:-1])


def _kill_when(part: str, *words: object) -> None:
    """Kill the command, as a power cut would, when a run of this part has begun to say something."""
    with subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if f'"part": "{part}"' in line and '"event": "progress"' in line:
                break
        process.send_signal(signal.SIGKILL)
    time.sleep(0.2)
