"""`kdstudio elicit --batch`: asked in batches, foretold at their price, told in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdstudio.cli.forecast import batch_shares
from tests.e2e.test_command_line import kdstudio
from tests.support.batch_server import SHARE, BatchServer
from tests.support.paid_runs import PRICE, paid_teacher
from tests.unit.elicitation.runs import new_project


@pytest.mark.slow
def test_a_run_in_batches_costs_what_was_foretold_at_their_price(tmp_path: Path) -> None:
    prompts = [f"p{number} " + "word " * (number % 7) for number in range(40)]
    with BatchServer(tmp_path / "server.jsonl") as server:
        with new_project(tmp_path, prompts) as project:
            price = PRICE | {"batch": SHARE}
            project.teachers.add(paid_teacher(server.url, batch_seconds=0.05, price=price))
            place = project.folder
        found = kdstudio("elicit", place, "--batch", "--forecast", 10)[-1]
        assert (found["event"], found["rows"], found["sample"]) == ("forecast", 40, 10)
        assert {entry["batch"] for entry in server.entries()} == {""}
        events = kdstudio("elicit", place, "--batch", "--ceiling", 1)
        assert (events[-1]["rows"], events[-1]["left"]) == (30, 0)
        assert [event["state"] for event in events if event["event"] == "batch"] == ["planned", "sent", "ended"]
        assert [entry["batch"] for entry in server.entries()].count("") == 11
        billed = sum(entry["cost"] for entry in server.entries())
        alone = max(entry["cost"] for entry in server.entries())  # the first question of the run is paid in full
        assert found["low"] <= billed <= found["high"] + alone * SHARE
        assert "answered in batches, within a day each" in found["text"]


def test_only_those_who_are_asked_in_batches_cost_less() -> None:
    priced = vars(paid_teacher("https://api.example.org/v1", price=PRICE | {"batch": 0.4}))
    judge = priced | {"name": "judge", "options": {"price": PRICE, "batch": True}}
    assert batch_shares({"teacher": priced}) == {}
    assert batch_shares({"teacher": priced, "batch": True}) == {"api": 0.4}
    assert batch_shares({"teacher": priced | {"options": priced["options"] | {"batch": True}}}) == {"api": 0.4}
    assert batch_shares({"teacher": priced, "judge": judge, "batch": False}) == {}
    assert batch_shares({"teachers": [priced], "teacher": priced, "judge": judge, "batch": True}) == {"api": 0.4}
