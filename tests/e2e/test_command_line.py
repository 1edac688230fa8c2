"""The real program from the command line, on a tiny teacher: import, elicit, signals, train, evaluate, export, chat."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_gguf

RECIPE = """
version = 1
[recipe]
id = "tiny"
title = "Tiny"
[student]
source = "teacher"
layers = [0, 3]
[data]
held_out_tag = "held_out"
[teacher]
name = "tiny"
signals = "{signals}"
top_k = 20
[[objective]]
name = "forward_kl"
[[objective]]
name = "supervised"
weight = 0.1
[run]
steps = 12
rows_per_batch = 4
evaluate_every = 6
checkpoint_every = 4
[optimizer]
learning_rate = 3e-3
"""


def kdstudio(*words: object, code: int = 0, folder: Path | None = None) -> list[dict[str, Any]]:
    """Run a verb with `--json`; returns the JSON lines it printed. Nothing but words a person can read on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "kdstudio", *map(str, words), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
    )
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert "Traceback" not in done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A project with a tiny teacher and its answers to 24 prompts, four of them held out."""
    folder = tmp_path_factory.mktemp("cli")
    teacher = tiny_gguf(folder / "tiny.gguf")
    project = folder / "p.kdstudio"
    prompts = folder / "prompts.jsonl"
    rows = [{"prompt": f"thing {n}", "tags": ["held_out" if n % 6 == 0 else "train"]} for n in range(24)]
    prompts.write_text("\n".join(map(json.dumps, rows)) + "\nbroken\n")
    kdstudio("init", project)
    report = kdstudio("import", project, prompts)[0]
    assert (report["rows"], report["rejected"]) == (24, 1)
    assert Path(report["reject_file"]).is_file()
    kdstudio("teacher", "add", project, "tiny", "--gguf", teacher)
    events = kdstudio(
        *("elicit", project, "--recipe", "answer", "--teacher", "tiny"),
        *("--set", "sample.max_tokens=24", "--set", "filter.finished=false", "--set", "emit.status=accepted"),
    )
    assert events[0]["event"] == "started"
    last = events[-1]
    assert (last["event"], last["rows"]) == ("finished", 24)
    assert last["tokens"] > 0
    assert last["tokens_per_second"] > 0
    return project, teacher


def test_rows_are_printed_one_a_line(prepared: tuple[Path, Path]) -> None:
    rows = kdstudio("rows", prepared[0], "--limit", 5)
    assert len(rows) == 5
    assert {"id", "kind", "prompt", "response", "status", "source", "tokens"} <= set(rows[0])
    accepted = kdstudio("rows", prepared[0], "--filter", "accepted")
    assert {row["status"] for row in accepted} == {"accepted"}


@pytest.mark.parametrize("signals", ["stored", pytest.param("dense", marks=pytest.mark.slow)])
def test_the_whole_way(prepared: tuple[Path, Path], tmp_path: Path, signals: str) -> None:
    project, _ = prepared
    if signals == "stored":
        stored = kdstudio("signals", project, "--teacher", "tiny", "--top-k", 20)[-1]
        assert stored["rows"] > 0
        assert 0 < stored["captured_mass"] <= 1
        assert stored["bytes_per_token"] > 0
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace("{signals}", signals))
    trained = kdstudio("train", project, recipe, "--set", "run.seed=3")
    losses = [event["values"]["loss"] for event in trained if event["event"] == "metric" and "loss" in event["values"]]
    assert len(losses) == 12
    finished = trained[-1]
    assert finished["event"] == "finished"
    assert finished["steps"] == 12
    assert finished["final"]["held_out_forward_kl"] < finished["before"]["held_out_forward_kl"]
    run = finished["run"]
    figures = kdstudio("evaluate", project, run, "--teacher", "tiny")[-1]
    assert {"forward_kl", "reverse_kl", "top1_agreement", "teacher_nll", "student_nll", "rows"} <= set(figures)
    assert figures["forward_kl"] == pytest.approx(finished["final"]["held_out_forward_kl"], rel=0.05)
    exported = kdstudio("export", project, run, "--quantize", "F16,Q8_0", "--name", f"Tiny {signals}")[-1]["files"]
    assert [(item["quantization"], item["passed"]) for item in exported] == [("F16", True), ("Q8_0", True)]
    assert all(Path(item["path"]).stat().st_size == item["bytes"] for item in exported)
    answer = kdstudio("chat", exported[0]["path"], "--prompt", "thing 6", "--max-tokens", 12)[-1]
    assert answer["tokens"] > 0
    assert answer["tokens_per_second"] > 0
    measured = kdstudio("evaluate", project, exported[0]["path"], "--teacher", "tiny")[-1]
    assert measured["forward_kl"] == pytest.approx(figures["forward_kl"], rel=0.05)


def test_a_dataset_is_written_and_read_back(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    count = kdstudio("dataset", prepared[0], out, "--format", "openai_messages")[0]["rows"]
    assert count == len(out.read_text().splitlines()) == 24
    other = tmp_path / "q.kdstudio"
    kdstudio("init", other)
    assert kdstudio("import", other, out)[0]["responses"] == 24


def test_what_only_tells(tmp_path: Path) -> None:
    doctor = kdstudio("doctor")[0]
    assert doctor["missing"] == []
    recipes = kdstudio("recipes")
    assert {"answer", "chain_of_thought"} <= {row["id"] for row in recipes if row["verb"] == "elicit"}
    assert {"match", "gkd", "dpo", "grpo"} <= {row["id"] for row in recipes if row["verb"] == "train"}
    objectives = {row["id"]: row for row in kdstudio("objectives")}
    assert len(objectives) == 35
    assert objectives["jensen_shannon"]["parameters"][1]["name"] == "beta"
    coverage = kdstudio("coverage")[0]
    assert 0 < coverage["covered"] < coverage["total"]


@pytest.mark.parametrize(
    ("words", "title"),
    [
        (("rows", "nowhere"), "no project"),
        (("elicit",), "Bad usage"),
        (("frobnicate",), "Bad usage"),
        (("init", "{folder}/full"), "something here"),
        (("teacher", "add", "{project}", "x"), "Which teacher"),
        (("teacher", "add", "{project}", "x", "--gguf", "{folder}/missing.gguf"), ""),
        (("teacher", "add", "{project}", "x", "--gguf", "{folder}/page.gguf"), ""),
        (("teacher", "add", "{project}", "x", "--gguf", "{folder}/cut.gguf"), ""),
        (("teacher", "add", "{project}", "x", "--url", "http://localhost:1"), "Which model"),
        (("teacher", "add", "{project}", "tiny", "--script", "{folder}/page.gguf"), "taken"),
        (("elicit", "{project}", "--recipe", "mind_reading"), "Unknown recipe"),
        (("elicit", "{project}", "--teacher", "nobody"), "Unknown teacher"),
        (("train", "{project}", "{folder}/missing.toml"), "cannot be read"),
        (("train", "{project}", "{folder}/bad.toml"), "mistake"),
        (("train", "{project}", "{folder}/objective.toml"), "mistake"),
        (("resume", "{project}", "nothing"), "Unknown run"),
        (("export", "{project}", "nothing"), "Unknown run"),
        (("chat", "{folder}/page.gguf", "--prompt", "hi"), ""),
        (("evaluate", "{project}", "{folder}/page.gguf"), ""),
        (("import", "{project}", "{folder}/empty.jsonl"), "empty"),
        (("import", "{project}", "{folder}/empty.jsonl", "--as", "poems"), "Unknown kind"),
        (("dataset", "{project}", "{folder}/out", "--format", "papyrus"), "Unknown format"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_bad_input_is_said_in_words_with_exit_code_two(
    prepared: tuple[Path, Path], tmp_path: Path, words: tuple[str, ...], title: str
) -> None:
    project, teacher = prepared
    (tmp_path / "full.kdstudio").mkdir()
    (tmp_path / "full.kdstudio" / "x").touch()
    (tmp_path / "page.gguf").write_text("<html>not found</html>")
    (tmp_path / "cut.gguf").write_bytes(teacher.read_bytes()[:5000])
    (tmp_path / "bad.toml").write_text(RECIPE + "stepz = 3\n")
    (tmp_path / "objective.toml").write_text(RECIPE.replace('"supervised"', '"telepathy"'))
    (tmp_path / "empty.jsonl").touch()
    filled = [word.format(folder=tmp_path, project=project) for word in words]
    error = kdstudio(*filled, code=2, folder=tmp_path)[-1]["error"]
    assert title in error["title"]
    assert error["detail"] or error["hint"]


def test_a_project_is_not_opened_twice(prepared: tuple[Path, Path]) -> None:
    from kdstudio.project import Project

    with Project.open(prepared[0]):
        error = kdstudio("elicit", prepared[0], code=1)[-1]["error"]
        assert "already open" in error["title"]
        assert len(kdstudio("rows", prepared[0], "--limit", 3)) == 3
