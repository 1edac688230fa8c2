"""A teacher is paid once: the real program stores signals, and what comes after asks the teacher nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdstudio.project import Project
from tests.e2e.test_command_line import RECIPE, kdstudio
from tests.tiny import tiny_gguf


@pytest.mark.slow
def test_a_second_student_asks_the_teacher_nothing(tmp_path: Path) -> None:
    project, rows = tmp_path / "p.kdstudio", tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"prompt": f"thing {n}", "response": f"a robot {n}"}) for n in range(12)))
    teacher = tiny_gguf(tmp_path / "tiny.gguf")
    kdstudio("init", project)
    kdstudio("import", project, rows, "--as", "responses")
    with Project.open(project) as opened:
        for kind in ("prompt", "response"):
            opened.rows.set_status(kind, range(1, 13), "accepted")
    kdstudio("teacher", "add", project, "tiny", "--gguf", teacher)
    first = kdstudio("signals", project, "--teacher", "tiny", "--top-k", 20)[-1]
    again = kdstudio("signals", project, "--teacher", "tiny", "--top-k", 20)[-1]
    assert first["new_rows"] == first["rows"] == again["rows"] > 0
    assert (again["new_rows"], again["damaged"]) == (0, 0)
    assert again["captured_mass"] == pytest.approx(first["captured_mass"], abs=1e-4)
    drawn = [kdstudio("signals", project, "--teacher", "tiny", "--draws", 50)[-1]["new_rows"] for _ in range(2)]
    assert drawn == [12, 0]
    packed = (project / "vault" / "signals.pack").read_bytes()
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace("{signals}", "stored").replace('held_out_tag = "held_out"', "held_out = 0.0"))
    for name, objective in (("one", "forward_kl"), ("two", "reverse_kl"), ("three", "random_sampled_topk")):
        recipe.write_text(recipe.read_text().replace('name = "forward_kl"', f'name = "{objective}"'))
        events = kdstudio("train", project, recipe, "--set", f"recipe.title={name}")
        assert (events[-1]["event"], events[-1]["steps"]) == ("finished", 12)
        assert not [event for event in events if event.get("stage") == "teacher"]
        masses = [event["values"]["captured_mass"] for event in events if "captured_mass" in event.get("values", {})]
        assert len(masses) == 1
        recipe.write_text(recipe.read_text().replace(f'name = "{objective}"', 'name = "forward_kl"'))
    assert (project / "vault" / "signals.pack").read_bytes() == packed
