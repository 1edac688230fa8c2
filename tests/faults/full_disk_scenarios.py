"""What meets a full disk: a checkpoint, the student, generation, an import, an export, and the real command line.

Each function is one try: `home` is a new folder on the disk, `word` how much is left (see `full_disk`).
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from kdstudio.errors import KnownError
from kdstudio.jobs.events import Answer, Checkpoint, Event, Metric, Progress, Row
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.project.exchange import import_file
from tests.faults.database_kills import check
from tests.faults.full_disk import Disk, FillingJob, assert_tidy, assert_words, fails, goes_on, left_of, unseen
from tests.loopback import Loopback
from tests.unit.elicitation.runs import new_project, new_run

STEPS = 12


# ---------------------------------------------------------------------------------------------------------- training
def _recipe() -> dict[str, Any]:
    from tests.unit.distillation.setting import recipe

    return recipe(run={"steps": STEPS, "rows_per_batch": 4, "evaluate_every": 5, "checkpoint_every": 3})


@functools.cache
def _undisturbed() -> tuple[dict[int, str], bytes]:
    """The curve and the student of the same run on a disk with room."""
    from tests.unit.distillation.setting import JournalledJob, curve, make_project, make_run

    folder = make_run(make_project(Path(tempfile.mkdtemp())), "whole", _recipe())
    JournalledJob(folder).run()
    made = curve(folder), (folder / "student" / "model.safetensors").read_bytes()
    shutil.rmtree(folder.parents[2])
    return made


def _trains(disk: Disk, home: Path, word: str, *, at_the_end: bool) -> None:
    from kdstudio.distillation.checkpoint import newest_checkpoint
    from kdstudio.distillation.job import run
    from kdstudio.recipe import TrainingRecipe, recipe_hash, validate_recipe
    from tests.unit.distillation.setting import curve, forget_device, make_project, make_run

    curve_of_whole, student_of_whole = _undisturbed()
    home.mkdir()
    tables = _recipe()
    folder = make_run(make_project(home), "broken", tables)
    last_step = STEPS - STEPS % 3 - 3 if at_the_end else 6

    def when(event: Event) -> bool:
        if at_the_end:
            return isinstance(event, Metric) and event.step == STEPS and "held_out_forward_kl" in event.values
        return isinstance(event, Checkpoint) and event.step == last_step

    size = len(student_of_whole)
    job, restore = FillingJob(folder, disk, when, left_of(word, size if at_the_end else 3 * size)), unseen(word)
    forget_device()
    fails(job, run, disk)
    assert job.filled
    restore()
    hash_ = recipe_hash(validate_recipe(tables, TrainingRecipe))
    found, faults = newest_checkpoint(folder / "checkpoints", hash_)
    assert found is not None
    assert (found.step, faults) == (last_step, [])
    assert not (folder / "student").exists()
    disk.empty()
    forget_device()
    goes_on(folder, run)
    assert curve(folder) == curve_of_whole
    assert (folder / "student" / "model.safetensors").read_bytes() == student_of_whole


def checkpoint(disk: Disk, home: Path, word: str) -> None:
    """The last checkpoint is intact, and the run goes on from it along the very same curve."""
    _trains(disk, home, word, at_the_end=False)


def student(disk: Disk, home: Path, word: str) -> None:
    """The same where all is trained and the student itself does not fit."""
    _trains(disk, home, word, at_the_end=True)


# -------------------------------------------------------------------------------------------------------- generation
PROMPTS, FILLED_AFTER, AT_ONCE = 40, 10, 4


def generation(disk: Disk, home: Path, word: str) -> None:
    """No paid answer that came is lost, and none that was kept is asked for again."""
    from kdstudio.elicitation.job import run

    home.mkdir()
    server = Loopback(key="secret-key-1", answer=lambda prompt: f"{prompt} " + "and so on " * 150)
    with server, new_project(home, [f"p{number}" for number in range(PROMPTS)]) as project:
        options = {"requests_at_once": AT_ONCE}
        spec = TeacherSpec("api", "openai", url=server.url, model="tiny", key_name="k", options=options)
        folder = new_run(project, teacher=spec)
        came: list[str] = []

        def when(event: Event) -> bool:
            came.extend([event.key] if isinstance(event, Answer) else [])
            return len(came) == FILLED_AFTER

        job = FillingJob(folder, disk, when, left_of(word, PROMPTS * 1000))
        fails(job, run, disk)
        lines = [line.event for line in _lines(folder)]
        kept = [event for event in lines if isinstance(event, Answer)]
        assert len(kept) >= FILLED_AFTER
        later = lines[lines.index(kept[FILLED_AFTER - 1]) + 1 :]
        assert len(later) >= disk.says  # the line in hand, whatever it was, went into the room that was kept for it
        answered = {event.text.split()[0] for event in kept}
        before = len(server.asked)
        disk.empty()
        goes_on(folder, run)
        assert not answered & set(server.prompts()[before:])
        assert len(server.asked) <= PROMPTS + AT_ONCE
        events = [line.event for line in _lines(folder)]
        assert len({event.key for event in events if isinstance(event, Answer)}) == PROMPTS
        assert len([event for event in events if isinstance(event, Answer)]) == PROMPTS
        assert len({event.row["key"] for event in events if isinstance(event, Row)}) == PROMPTS
        project.runs.ingest(folder.name, _lines(folder))
        assert (
            project.rows.counts()[("response", "rejected")] + project.rows.counts().get(("response", "pending"), 0)
            == PROMPTS
        )


def _lines(folder: Path) -> list[Any]:
    from kdstudio.jobs.journal import read_journal

    return list(read_journal(folder))


# ------------------------------------------------------------------------------------------------ import and export
ROWS = 2000


def importing(disk: Disk, home: Path, word: str) -> None:
    """All or nothing, no reject file of an import that did not happen, and the project is sound."""
    home.mkdir()
    source = Path(tempfile.mkdtemp()) / "rows.jsonl"
    texts = [" ".join(f"w{n * k % 9973}" for k in range(1, 40)) for n in range(1, ROWS + 1)]
    rows = [json.dumps({"prompt": f"question {text}", "completion": text}) for text in texts]
    source.write_text("\n".join([*rows[:7], "broken", *rows[7:]]))
    with Project.create(home / "p") as project:
        disk.fill(left_of(word, 4 * source.stat().st_size))
        restore = unseen(word)
        try:
            import_file(project, source)
            raise AssertionError("the import fitted")
        except KnownError as error:
            assert_words(error, disk)
        restore()
        assert project.rows.counts() == {}
        assert not list((project.folder / "rejects").glob("*"))
        assert_tidy(project.folder)
        disk.empty()
        check(project.folder)
        report = import_file(project, source)
        assert (report.prompts, report.rejected) == (ROWS, 1)
        assert report.reject_file is not None
        assert report.reject_file.is_file()
    shutil.rmtree(source.parent)


def exporting(disk: Disk, home: Path, word: str) -> None:
    """An earlier export stays as it was; the new one is made once there is room."""
    from kdstudio.export.job import run
    from tests.unit.export.trained import RUN, job_in, trained_project

    home.mkdir()
    project = trained_project(home)

    def parameters(*formats: str) -> dict[str, Any]:
        return {"run": RUN, "quantizations": list(formats), "name": "Mine"}

    def bytes_of() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (project / "exports" / "Mine").iterdir()}

    with job_in(project, "export", parameters("Q4_0"), "first") as first:
        assert first.run(run) == 0
    earlier = bytes_of()
    with job_in(project, "export", parameters("F16", "Q8_0"), "second") as second:
        folder = second.run_folder
    size = (project / "runs" / RUN / "student" / "model.safetensors").stat().st_size
    job = FillingJob(folder, disk, lambda event: isinstance(event, Progress), left_of(word, size))
    restore = unseen(word)
    fails(job, run, disk)
    restore()
    assert job.filled
    assert bytes_of() == earlier
    disk.empty()
    goes_on(folder, run)
    assert {"Mine-Q4_0.gguf", "Mine-F16.gguf", "Mine-Q8_0.gguf"} <= set(bytes_of())


# ------------------------------------------------------------------------------------------------------ command line
def _kdstudio(*words: object, code: int = 0) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "kdstudio", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert "Traceback" not in done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def command(disk: Disk, home: Path, word: str) -> None:
    """The real program: an import that does not fit, and a generation under which the disk fills up."""
    home.mkdir()
    project, script, prompts = home / "p.kdstudio", home / "script.json", home / "prompts.jsonl"
    script.write_text(json.dumps({"default": "The answer to {prompt} " + "and so on " * 100, "delay": 0.02}))
    prompts.write_text("".join(json.dumps({"prompt": f"p{number}"}) + "\n" for number in range(100)))
    _kdstudio("init", project)
    _kdstudio("teacher", "add", project, "script", "--script", script)
    _kdstudio("import", project, prompts)
    more = Path(tempfile.mkdtemp()) / "more.jsonl"
    more.write_text("".join(json.dumps({"prompt": f"q{number} " + "word " * 200}) + "\n" for number in range(500)))
    disk.fill(left_of(word, more.stat().st_size))
    error = _kdstudio("import", project, more, code=1)[-1]["error"]
    assert_words(KnownError(**error), disk)
    disk.empty()
    filler = threading.Thread(target=_fill_meanwhile, args=(disk, project, left_of(word, 4096)))
    filler.start()
    if disk.says:
        error = _kdstudio("elicit", project, code=1)[-1]["error"]
        assert_words(KnownError(**error), disk)
    filler.join()
    disk.empty()
    assert _kdstudio("elicit", project)[-1]["rows"] == 100
    rows = _kdstudio("rows", project)
    assert len({row["prompt"] for row in rows}) == len(rows) == 100
    assert_tidy(project)
    shutil.rmtree(more.parent)


def _fill_meanwhile(disk: Disk, project: Path, left: int) -> None:
    """Take the space as soon as a few answers are there."""
    deadline = time.monotonic() + (60 if disk.says else 0)
    while time.monotonic() < deadline:
        journals = list((project / "runs").glob("*/events.jsonl"))
        if journals and journals[0].read_bytes().count(b'"answer"') >= 5:
            disk.fill(left)
            return
        time.sleep(0.01)
