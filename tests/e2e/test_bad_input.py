"""What people really give a program, given to ours at the command line: each is refused in words, and nothing is lost.

Exit code 2 for what cannot be used as it is, 1 for what failed; `--json` says the same; never a traceback.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdstudio import cli
from kdstudio.cli import information
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from tests.loopback import Asked, Fault, Loopback, closed_port
from tests.tiny import tiny_gguf, tiny_model

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
CONFIG = {"model_type": "llama", **dict.fromkeys(SIZES, 64)}
JOBS = ("elicit", "signals", "train")


def run(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The real program."""
    command = [sys.executable, "-m", "kdstudio", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


class Terminal:
    """Runs verbs and looks at all that came out: those with a job in a process of their own, the others in this one."""

    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capsys = capsys
        self.folder = folder
        self.project = folder / "p.kdstudio"
        self.lines("init", self.project)

    def lines(self, *words: object, code: int = 0) -> list[dict[str, Any]]:
        """What a verb prints with `--json`, line by line."""
        told = [*map(str, words), "--json"]
        if words[0] in JOBS:
            done = run(*told)
            found, out, err = done.returncode, done.stdout, done.stderr
        else:
            found = cli.main(told)
            out, err = self._capsys.readouterr()
        assert found == code, f"{words}: {found}\n{out[-2000:]}\n{err[-2000:]}"
        assert "Traceback" not in out + err
        return [json.loads(line) for line in out.splitlines()]

    def error(self, *words: object, code: int = 2) -> dict[str, str]:
        """The error that a verb ends with: what happened, what was found, what to do."""
        error: dict[str, str] = self.lines(*words, code=code)[-1]["error"]
        assert set(error) == {"title", "detail", "hint"}
        assert all(error.values()), error
        return error

    def put(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def rows(self, *words: object) -> list[dict[str, Any]]:
        return self.lines("rows", self.project, *words)


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    return Terminal(capsys, tmp_path)


def model_bytes() -> bytes:
    return tiny_model().read_bytes()


# ----------------------------------------------------------------------------------------------------------- models
NOISE = bytes(n * 7919 % 251 for n in range(40_000))
MODEL_FILES = {
    "empty": (b"", "This file is empty"),
    "cut in its header": (model_bytes()[:3000], "This GGUF file is incomplete"),
    "cut in its weights": (model_bytes()[:-9000], "This GGUF file is incomplete"),
    "random": (NOISE, "This is not a GGUF file"),
    "random after its mark": (b"GGUF\x03\0\0\0" + NOISE, "This GGUF file is damaged"),
    "random after its header": (model_bytes()[:2000] + NOISE, "This GGUF file is damaged"),
    "a web page": (b"<!doctype html><html><body>Sign in</body></html>", "This is not a GGUF file"),
    "a pickle": (b"PK\x03\x04 archive/data.pkl", "This is not a GGUF file"),
}


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_file_that_is_no_model(terminal: Terminal, name: str) -> None:
    content, title = MODEL_FILES[name]
    path = terminal.put("model.gguf", content)
    for words in (("teacher", "add", terminal.project, "x", "--gguf", path), ("chat", path, "--prompt", "hi")):
        assert terminal.error(*words)["title"] == title
    assert terminal.lines("teacher", "list", terminal.project) == []


def test_a_model_that_is_not_there_or_a_folder(terminal: Terminal) -> None:
    missing = terminal.error("teacher", "add", terminal.project, "x", "--gguf", terminal.folder / "none.gguf")
    assert missing["title"] == "There is no such file"
    folder = terminal.error("teacher", "add", terminal.project, "x", "--gguf", terminal.folder)
    assert folder["title"] == "This is a folder, not a GGUF file"


def test_a_teachers_file_that_went_or_broke_since(terminal: Terminal) -> None:
    model = terminal.put("model.gguf", model_bytes())
    terminal.lines("teacher", "add", terminal.project, "x", "--gguf", model)
    terminal.lines("import", terminal.project, terminal.put("a.txt", b"one\ntwo\n"))
    model.write_bytes(b"<html>")
    assert terminal.error("elicit", terminal.project)["title"] == "This is not a GGUF file"
    model.unlink()
    assert terminal.error("elicit", terminal.project)["title"] == "There is no such file"
    model.write_bytes(model_bytes())
    assert terminal.lines("elicit", terminal.project, "--set", "sample.max_tokens=4")[-1]["rows"] == 2


def folder_with(terminal: Terminal, name: str) -> tuple[Path, Path]:
    """A model folder with one fault, and the file that its pickle would make if it were opened."""
    folder, canary = terminal.folder / "model", terminal.folder / "opened"
    folder.mkdir()
    if name != "no config":
        (folder / "config.json").write_text("{broken" if name == "a broken config" else json.dumps(CONFIG))
    if name != "no tokenizer":
        (folder / "tokenizer.json").write_text("{}")
    if name == "pickled weights":
        pickled = b"cposix\nsystem\n(S'touch %s'\ntR." % str(canary).encode()
        (folder / "pytorch_model.bin").write_bytes(pickled)
    elif name == "an index that leads away":
        placed = {"weight_map": {"a": "../../secret.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(placed))
    elif name != "no weights":
        (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return folder, canary


FOLDERS = {
    "no config": "The folder has no config",
    "a broken config": "The model's files cannot be read",
    "no tokenizer": "The folder has no tokenizer",
    "no weights": "The folder has no weights",
    "pickled weights": "Pickled weights are refused",
    "an index that leads away": "The model's index makes no sense",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_no_model(terminal: Terminal, name: str) -> None:
    folder, canary = folder_with(terminal, name)
    assert terminal.error("teacher", "add", terminal.project, "x", "--hf", folder)["title"] == FOLDERS[name]
    assert terminal.lines("teacher", "list", terminal.project) == []
    assert not canary.exists()


def test_a_student_from_pickled_weights_is_refused_by_the_job_too(terminal: Terminal) -> None:
    folder, canary = folder_with(terminal, "pickled weights")
    terminal.lines("import", terminal.project, terminal.put("a.jsonl", b'{"prompt":"p","completion":"c"}'))
    recipe = f"""
    student = {{source = "folder", path = {json.dumps(str(folder))}}}
    data = {{status = "any"}}
    objective = [{{name = "supervised"}}]
    """
    train = ("train", terminal.project, terminal.put("r.toml", recipe.encode()))
    assert terminal.error(*train)["title"] == "Pickled weights are refused"
    assert not canary.exists()


# ------------------------------------------------------------------------------------------------------------- data
def row(number: int) -> bytes:
    return b'{"prompt":"q%d","completion":"a%d"}\n' % (number, number)


DATA = {
    "broken lines": (row(1) + b'{"prompt": "x"\nnot json\n' + row(2) + b"[]\n", 2, ["not valid JSON", "no", "object"]),
    "20 MB in a line": (row(1) + b'{"prompt":"' + b"x" * (20 << 20) + b'"}\n' + row(2), 2, ["longer than 16 MiB"]),
    "NUL": (row(1) + b'{"prompt":"a\0b"}\n{"prompt":"a\\u0000b"}\n' + row(2), 2, ["NUL", "NUL"]),
    "UTF-16": ((row(1) + row(2)).decode().encode("utf-16"), 2, []),
    "a byte-order mark": (b"\xef\xbb\xbf" + row(1) + row(2), 2, []),
    "10,000 deep": (row(1) + b'{"prompt":' + b"[" * 10_000 + b"]" * 10_000 + b"}\n" + row(2), 2, ["nested deeper"]),
    "empty prompts": (
        b'{"prompt":""}\n{"prompt":" \\n"}\n{"messages":[]}\n' + row(1),
        1,
        ["prompt", "empty", "prompt"],
    ),
    "cut short": (row(1) + row(2)[:-9], 1, ["not valid JSON"]),
}


@pytest.mark.parametrize("name", DATA)
def test_data_with_faults_is_taken_without_them(terminal: Terminal, name: str) -> None:
    content, taken, reasons = DATA[name]
    report = terminal.lines("import", terminal.project, terminal.put("data.jsonl", content))[0]
    assert (report["rows"], report["rejected"]) == (taken, len(reasons))
    if reasons:
        said = [json.loads(line)["reason"] for line in Path(report["reject_file"]).read_text().splitlines()]
        assert all(expected in found for expected, found in zip(reasons, said, strict=True)), said
    assert {found["prompt"] for found in terminal.rows()} == {"q1", "q2"} if taken == 2 else {"q1"}


UNUSABLE = {
    "empty": (b"", "The file is empty", "holds no text"),
    "blank": (b"\n \n\n", "The file is empty", "holds no text"),
    "random": (bytes(range(256)) * 100, "This is not a text file", "binary"),
    "a web page": (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "This is a web page", "download"),
    "only broken lines": (b'{"prompt"\nno\n', "Nothing in this file can be imported", "line 1: it is not valid JSON"),
    "only a long line": (b'{"a":"' + b"x" * (20 << 20) + b'"}', "Nothing in this file can be imported", "line 1: the"),
    "only empty prompts": (b'{"prompt":""}', "Nothing in this file can be imported", "line 1: it has no prompt"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_data_without_a_usable_line_changes_nothing(terminal: Terminal, name: str) -> None:
    content, title, detail = UNUSABLE[name]
    error = terminal.error("import", terminal.project, terminal.put("data.jsonl", content))
    assert error["title"] == title
    assert detail in error["detail"]
    assert terminal.rows("--kind", "prompts") == []
    assert not list(terminal.project.glob("rejects/*"))


def test_data_that_is_not_there_or_has_no_such_column(terminal: Terminal) -> None:
    missing = terminal.error("import", terminal.project, terminal.folder / "none.jsonl")
    assert missing["title"] == "The file cannot be read"
    good = terminal.put("good.jsonl", row(1))
    error = terminal.error("import", terminal.project, good, "--map", "prompt=question")
    assert error["title"] == "There is no such column"
    assert "prompt, completion" in error["hint"]
    assert terminal.rows("--kind", "prompts") == []
    status = terminal.error("dataset", terminal.project, terminal.folder / "out", "--status", "gold")
    assert status["title"] == "Unknown status"


def test_a_project_without_prompts(terminal: Terminal) -> None:
    terminal.lines("teacher", "add", terminal.project, "x", "--gguf", tiny_model())
    ask = ("elicit", terminal.project, "--set", "sample.max_tokens=4")
    assert terminal.error(*ask, code=1)["title"] == "There is nothing to ask"
    terminal.lines("import", terminal.project, terminal.put("a.txt", b"one"))
    assert terminal.lines(*ask)[-1]["rows"] == 1


def test_a_prompt_longer_than_the_teacher_reads(terminal: Terminal) -> None:
    model = tiny_gguf(terminal.folder / "short.gguf", context=64)
    terminal.lines("teacher", "add", terminal.project, "x", "--gguf", model)
    long = terminal.put("long.txt", b"robot " * 400)
    terminal.lines("import", terminal.project, long)
    ask = ("elicit", terminal.project, "--set", "sample.max_tokens=8")
    error = terminal.error(*ask, code=1)
    assert error["title"] == "The teacher answered nothing"
    assert "The prompt does not fit the teacher. It has 4" in error["detail"]
    terminal.lines("import", terminal.project, terminal.put("short.txt", b"hi"))
    said = terminal.lines(*ask)  # the same words again: what failed whole takes in what was imported since
    assert (said[-1]["rows"], said[-1]["dropped"]) == (1, 1)
    assert any("does not fit" in line["detail"] for line in said if line["event"] == "warning")


# -------------------------------------------------------------------------------------------------------- endpoints
QUICK = {"tries": 1, "timeout_seconds": 1.0, "requests_at_once": 1}


def with_endpoint(terminal: Terminal, url: str) -> None:
    """The project's only teacher, and five prompts for it."""
    with Project.open(terminal.project) as project:
        project.teachers.add(TeacherSpec("api", "openai", url=url, model="tiny", options=QUICK))
    terminal.lines("import", terminal.project, terminal.put("five.txt", b"p1\np2\np3\np4\np5\n"))


FAULTS = {
    "slow": (Fault("slow", seconds=2.5), "The endpoint did not answer in time"),
    "401": (Fault("status", 401, "no key"), "The endpoint asks for a key"),
    "429": (Fault("status", 429, "too fast", retry_after="0"), "The endpoint keeps failing"),
    "500": (Fault("status", 500), "The endpoint keeps failing"),
    "closes": (Fault("close"), "The endpoint cannot be reached"),
    "a web page": (Fault("html"), "This is not a chat endpoint"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_endpoint_that_fails_loses_nothing_and_asks_nothing_twice(terminal: Terminal, name: str) -> None:
    fault, title = FAULTS[name]
    broken = [True]

    def fault_for(asked: Asked) -> Fault | None:
        return fault if broken[0] and asked.number > (0 if name in ("slow", "closes") else 1) else None

    with Loopback(fault_for=fault_for) as server:
        with_endpoint(terminal, server.url)
        error = terminal.error("elicit", terminal.project, code=1)
        assert error["title"] == title
        answered = set(server.served)
        broken[0], before = False, len(server.asked)
        assert terminal.lines("elicit", terminal.project)[-1]["rows"] == 5
        assert not answered & set(server.prompts()[before:])
    assert {found["prompt"] for found in terminal.rows()} == {"p1", "p2", "p3", "p4", "p5"}


def test_an_endpoint_that_is_not_there(terminal: Terminal) -> None:
    with_endpoint(terminal, f"http://127.0.0.1:{closed_port()}/v1")
    error = terminal.error("elicit", terminal.project, code=1)
    assert error["title"] == "The endpoint cannot be reached"
    assert "Check that the server runs" in error["hint"]


def test_an_answer_that_breaks_off_is_kept_and_not_taken_for_a_whole_one(terminal: Terminal) -> None:
    with Loopback(fault_for=lambda asked: Fault("cut", pieces=3) if asked.prompt == "p2" else None) as server:
        with_endpoint(terminal, server.url)
        finished = terminal.lines("elicit", terminal.project)[-1]
    assert (finished["rows"], finished["rejected"]) == (5, 1)
    (cut,) = terminal.rows("--filter", "rejected")
    assert (cut["prompt"], cut["response"]) == ("p2", "This is the")
    assert "did not end by itself" in cut["reason"]


@pytest.mark.parametrize("url", ["localhost:11434", "ftp://host/v1", "http://", "http://["])
def test_an_address_that_is_none_is_refused_at_once(terminal: Terminal, url: str) -> None:
    error = terminal.error("teacher", "add", terminal.project, "x", "--url", url, "--model", "m")
    assert error["title"] == "This is not a URL"


# ---------------------------------------------------------------------------------------------------------- recipes
RECIPE = 'version = 1\n[teacher]\nname = "api"\n[student]\npath = "{model}"\n[[objective]]\nname = "forward_kl"\n'
RECIPES = {
    "an unknown key": (RECIPE + '[run]\nsteps = 3\ncolour = "red"\n', "a mistake", "run.colour (line 10): unknown key"),
    "an unknown table": (RECIPE + "[extra]\na = 1\n", "a mistake", "extra (line 8): unknown key"),
    "an unknown objective": (RECIPE.replace("forward_kl", "telepathy"), "mistake", "no objective called 'telepathy'"),
    "a word for a number": (RECIPE + '[run]\nsteps = "many"\n', "a mistake", "run.steps (line 9)"),
    "an unknown teacher": (RECIPE.replace('"api"', '"nobody"'), "Unknown teacher", "'nobody'"),
    "no TOML": ("nonsense\n", "not valid TOML", "line 1"),
    "no text": ("\udcff\udcfe", "not UTF-8", "byte 0xff"),
    "a large file": ("#" * (2 << 20), "too large", "2,097,152 bytes"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_cannot_run(terminal: Terminal, name: str) -> None:
    text, title, detail = RECIPES[name]
    with_endpoint(terminal, "http://127.0.0.1:9/v1")
    path = terminal.put("r.toml", text.encode(errors="surrogateescape"))
    error = terminal.error("train", terminal.project, path)
    assert title in error["title"]
    assert detail in error["detail"]
    assert terminal.lines("jobs", terminal.project) == []


def test_a_teacher_that_cannot_what_is_asked_of_it(terminal: Terminal) -> None:
    with_endpoint(terminal, "http://127.0.0.1:9/v1")
    terminal.lines("import", terminal.project, terminal.put("a.jsonl", row(1)))
    recipe = RECIPE.format(model=tiny_model()) + '[data]\nstatus = "any"\n'
    error = terminal.error("train", terminal.project, terminal.put("r.toml", recipe.encode()))
    assert error["title"] == "This teacher cannot give its signal"
    assert terminal.error("signals", terminal.project)["title"] == "This teacher cannot score text"


def test_which_teacher_is_asked_in_the_verbs_own_words(terminal: Terminal) -> None:
    with_endpoint(terminal, "http://127.0.0.1:9/v1")
    with Project.open(terminal.project) as project:
        project.teachers.add(replace(project.teachers.get("api").spec, name="other"))
    recipe = terminal.put("r.toml", b"version = 1\n")
    assert terminal.error("elicit", terminal.project)["hint"].startswith("Add --teacher NAME")
    assert terminal.error("train", terminal.project, recipe)["hint"].startswith("Set teacher.name in the recipe")


# --------------------------------------------------------------------------------------------- projects and our own
def test_a_damaged_project_is_said_by_verbs_that_read_and_that_write(terminal: Terminal) -> None:
    for path in terminal.project.glob("project.db-*"):
        path.unlink()
    (terminal.project / "project.db").write_bytes(NOISE)
    for words in (("rows", terminal.project), ("import", terminal.project, terminal.put("a.txt", b"x"))):
        error = terminal.error(*words, code=1)
        assert error["title"] == "The project's database is damaged"
        assert "backups" in error["hint"]


def test_a_fault_of_ours_is_said_in_words_and_kept_for_a_report(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(information, "shipped_recipes", broken)
    error = terminal.error("recipes", code=1)
    assert (error["title"], error["detail"]) == ("The program broke", "ZeroDivisionError: oh")
    (report,) = own_home.glob("data/reports/*.txt")
    assert str(report) in error["hint"]
    assert "ZeroDivisionError" in report.read_text()


@pytest.mark.parametrize("words", [("teacher", "add", "p.kdstudio", "x", "--gguf", "none.gguf"), ("rows", "none")])
def test_a_person_reads_what_happened_what_was_found_and_what_to_do(terminal: Terminal, words: tuple[str, ...]) -> None:
    done = run(*words, folder=terminal.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip().startswith("Error: There is no")
    assert len(done.stderr.strip().splitlines()) == 3
