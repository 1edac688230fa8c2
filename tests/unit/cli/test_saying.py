"""What `--json` prints of a run: its events, and raw bodies only to who asks for them."""

from __future__ import annotations

import json

import pytest

from kdstudio.cli.output import Saying
from kdstudio.jobs.events import Answer, Body, Line

LINES = [Line(1, "t", Answer("1", "four")), Line(2, "t", Body("api", "1", 1, '{"secret": "four"}'))]


@pytest.mark.parametrize("bodies", [False, True])
def test_bodies_are_printed_on_demand(bodies: bool, capsys: pytest.CaptureFixture[str]) -> None:
    said = Saying({"round": 2}, bodies=bodies)
    for line in LINES:
        said.line(line, as_json=True)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in printed] == (["answer", "body"] if bodies else ["answer"])
    assert all(event["round"] == 2 for event in printed)
