"""Jobs in the window: real children, their progress, pause, stop, resume, errors, log; and closing while one runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication, QPlainTextEdit, QWidget
from pytestqt.qtbot import QtBot

from kdstudio.jobs.events import Line, Metric, Progress
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import NewPrompt, Project
from kdstudio.recipe import find_elicitation_recipe, recipe_hash
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.wording import ago, duration, number, plural, progress_words, short_number
from tests.gui.conftest import Click

SECONDS = 30_000


def elicitation(delay: float, **script: Any) -> dict[str, Any]:
    """Parameters of a real elicitation by a scripted teacher that takes `delay` seconds a prompt."""
    recipe = find_elicitation_recipe("answer")
    spec = TeacherSpec("Script", "scripted", options={"script": {"default": "An answer.", "delay": delay, **script}})
    return {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe_hash(recipe),
        "teacher": asdict(spec),
        "status": "any",
    }


def add_prompts(session: Session, count: int) -> None:
    assert session.project is not None
    session.project.rows.add_prompts(
        NewPrompt(messages=({"role": "user", "content": f"prompt {index}"},)) for index in range(count)
    )


def start(window: MainWindow, qtbot: QtBot, kind: str, parameters: dict[str, Any], title: str = "A job") -> str:
    task = window.session.start(kind, parameters, title=title)
    with qtbot.waitSignal(task.done, timeout=SECONDS) as started:
        pass
    return str(started.args[0])


def state(window: MainWindow, run_id: str) -> str:
    assert window.session.project is not None
    return window.session.project.runs.get(run_id).state


def shown_state(window: MainWindow, run_id: str) -> str:
    row = window.jobs.row(run_id)
    return row.pill.word if row is not None else ""


def test_a_job_is_followed_to_its_end(window: MainWindow, qtbot: QtBot) -> None:
    add_prompts(window.session, 12)
    run_id = start(window, qtbot, "elicit", elicitation(0.05), "Answers by Script")
    qtbot.waitUntil(lambda: shown_state(window, run_id) == "running", timeout=SECONDS)
    assert window.dock.isVisible()
    qtbot.waitUntil(lambda: "/ 12 rows" in window.status.job.text(), timeout=SECONDS)
    assert window.status.stop.isVisible()
    assert "1 running" in window.navigation.jobs.text()
    qtbot.waitUntil(lambda: shown_state(window, run_id) == "finished", timeout=SECONDS)
    qtbot.waitUntil(lambda: not window.status.stop.isVisible())
    qtbot.waitUntil(lambda: "12 responses" in window.status.rows.text())
    toast = window.findChild(QWidget, "toast")
    assert toast is not None
    assert "Answers by Script finished" in toast.accessibleName()


def test_pause_resume_and_stop_by_their_buttons(window: MainWindow, qtbot: QtBot, click: Click) -> None:
    add_prompts(window.session, 400)
    run_id = start(window, qtbot, "elicit", elicitation(0.05))
    qtbot.waitUntil(lambda: shown_state(window, run_id) == "running", timeout=SECONDS)
    click("job_pause")
    qtbot.waitUntil(lambda: shown_state(window, run_id) == "paused", timeout=SECONDS)
    click("job_resume")
    qtbot.waitUntil(lambda: shown_state(window, run_id) == "running", timeout=SECONDS)
    click("job_stop")
    qtbot.waitUntil(lambda: shown_state(window, run_id) == "stopped", timeout=SECONDS)
    row = window.jobs.row(run_id)
    assert row is not None
    assert row.resume.isVisible()
    assert not row.stop.isVisible()


def test_a_failure_is_said_with_its_hint(window: MainWindow, qtbot: QtBot, click: Click) -> None:
    run_id = start(window, qtbot, "elicit", elicitation(0.0))  # there are no prompts
    qtbot.waitUntil(lambda: shown_state(window, run_id) == "failed", timeout=SECONDS)
    row = window.jobs.row(run_id)
    assert row is not None
    assert "There is nothing to ask" in row.error.text()
    assert "Import prompts" in row.hint.text()
    assert "Traceback" not in row.error.text() + row.hint.text()
    click("job_log")
    log = window.findChild(QWidget, "log_dialog")
    assert log is not None
    assert isinstance(log.findChild(QPlainTextEdit, "log_text"), QPlainTextEdit)
    click("log_close")


def test_runs_are_there_after_a_restart(project_session: Session, qtbot: QtBot) -> None:
    project = project_session.project
    assert project is not None
    for index in range(40):
        run_id = project.runs.add("train", f"Run {index}", {})
        project.runs.set_state(run_id, "finished")
    window = MainWindow(project_session)
    qtbot.addWidget(window, before_close_func=lambda shown: shown.leave())
    window.show()
    window.toggle_jobs()
    assert len(window.jobs._rows) == 30
    assert window.jobs.older.isVisible()
    window.jobs.older.click()
    assert len(window.jobs._rows) == 40
    assert not window.jobs.older.isVisible()


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # it is meant to
def test_a_running_job_is_found_again_after_a_restart(
    window: MainWindow, tmp_path: Path, qtbot: QtBot, click: Click
) -> None:
    add_prompts(window.session, 40)
    run_id = start(window, qtbot, "elicit", elicitation(0.05))
    qtbot.waitUntil(lambda: state(window, run_id) == "running", timeout=SECONDS)
    assert window.session.project is not None
    folder = window.session.project.folder
    QTimer.singleShot(100, lambda: click("close_keep"))
    window.close()
    assert window.session.project is None
    again = Session()
    other = MainWindow(again)
    qtbot.addWidget(other, before_close_func=lambda shown: shown.leave())
    other.show()
    with qtbot.waitSignal(again.project_changed, timeout=SECONDS):
        other.open_project(folder)
    qtbot.waitUntil(lambda: shown_state(other, run_id) == "finished", timeout=SECONDS)
    qtbot.waitUntil(lambda: "40 responses" in other.status.rows.text(), timeout=SECONDS)


KILLED = """
import json, sys, time
from pathlib import Path
from kdstudio.ui.app import start
app, window = start([sys.argv[1]])
while window.session.project is None:
    app.processEvents()
window.session.start("elicit", json.loads(sys.argv[2]), title="A job")
while "/ 60 rows" not in window.status.job.text():
    app.processEvents()
print("running", flush=True)
while True:
    app.processEvents()
"""


def test_killing_the_window_leaves_the_job_running_and_nothing_is_lost(
    session: Session, tmp_path: Path, qtbot: QtBot
) -> None:
    folder = tmp_path / "Killed.kdstudio"
    with Project.create(folder) as project:
        project.rows.add_prompts(
            NewPrompt(messages=({"role": "user", "content": f"prompt {index}"},)) for index in range(60)
        )
    command = [sys.executable, "-c", KILLED, str(folder), json.dumps(elicitation(0.05))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.kill()
    window = MainWindow(session)
    qtbot.addWidget(window, before_close_func=lambda shown: shown.leave())
    window.show()
    with qtbot.waitSignal(session.project_changed, timeout=SECONDS):
        window.open_project(folder)
    [run] = session.runs()
    qtbot.waitUntil(lambda: shown_state(window, run.id) == "finished", timeout=SECONDS)
    qtbot.waitUntil(lambda: "60 responses" in window.status.rows.text(), timeout=SECONDS)
    assert session.runs()[0].result["rows"] == 60


def test_closing_may_be_cancelled(window: MainWindow, qtbot: QtBot, click: Click) -> None:
    add_prompts(window.session, 400)
    run_id = start(window, qtbot, "elicit", elicitation(0.05))
    qtbot.waitUntil(lambda: state(window, run_id) == "running", timeout=SECONDS)
    QTimer.singleShot(100, lambda: click("close_cancel"))
    window.close()
    assert window.isVisible()
    window.session.stop(run_id)
    qtbot.waitUntil(lambda: state(window, run_id) == "stopped", timeout=SECONDS)


def test_closing_may_stop_the_job_first(window: MainWindow, qtbot: QtBot, click: Click) -> None:
    add_prompts(window.session, 400)
    run_id = start(window, qtbot, "elicit", elicitation(0.05))
    qtbot.waitUntil(lambda: state(window, run_id) == "running", timeout=SECONDS)
    assert window.session.project is not None
    folder = window.session.project.folder
    QTimer.singleShot(100, lambda: click("close_stop"))
    window.close()
    assert window.isVisible()
    qtbot.waitUntil(lambda: not window.isVisible(), timeout=SECONDS)
    with Project.open(folder, read_only=True) as project:
        assert project.runs.get(run_id).state == "stopped"


def test_keep_running_is_what_enter_does(window: MainWindow) -> None:
    from kdstudio.ui.widgets.sheets import CloseSheet

    sheet = CloseSheet(1, window)
    defaults = [child.objectName() for child in sheet.findChildren(QWidget) if child.property("default")]
    assert defaults == ["close_keep"]
    assert sheet.answer == "cancel"
    sheet.deleteLater()
    assert QApplication.activeModalWidget() is None


def test_events_reach_the_pages(window: MainWindow, qtbot: QtBot) -> None:
    add_prompts(window.session, 3)
    seen: list[Line] = []
    window.session.events.connect(lambda _run_id, lines: seen.extend(lines))
    run_id = start(window, qtbot, "elicit", elicitation(0.0))
    qtbot.waitUntil(lambda: shown_state(window, run_id) == "finished", timeout=SECONDS)
    kinds = [line.event.event for line in seen]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert kinds.count("row") == 3
    assert [line.seq for line in seen] == sorted(line.seq for line in seen)
    assert not any(isinstance(line.event, Metric) for line in seen)


# --------------------------------------------------------------------------------------------------------- wording
@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (Progress(185, 500, "rows", 1204.0, "tokens/s", 120.0), "185 / 500 rows · 1\u202f204 tokens/s · ETA 2 min"),
        (Progress(40_000_000, 93_000_000, "bytes", 2.5e6, "bytes/s", 21.0), "40 / 93 MB · 2.5 MB/s · ETA 21 s"),
        (Progress(0, 0, "steps", stage="loading the teacher"), "loading the teacher"),
        (Progress(7, 0, "rows"), "7 rows"),
        (Progress(3, 10, "steps", 0.4, "steps/s"), "3 / 10 steps · 0.4 steps/s"),
    ],
)
def test_progress_in_words(progress: Progress, said: str) -> None:
    assert progress_words(asdict(progress)) == said


def test_progress_of_an_ended_job_has_no_eta() -> None:
    progress = asdict(Progress(30, 30, "rows", 76.0, "tokens/s", 0.0, "asking"))
    assert progress_words(progress, over=True) == "30 / 30 rows · 76 tokens/s"


def test_numbers_in_words() -> None:
    assert number(5000) == "5\u202f000"
    assert plural(1, "row") == "1 row"
    assert short_number(134_515_008) == "134.5M"
    assert [duration(value) for value in (5, 65, 600, 3700, 7200)] == ["5 s", "1 min 5 s", "10 min", "1 h 1 min", "2 h"]
    assert ago("2020-01-01T00:00:00Z") == "2020-01-01"
    assert ago("nonsense") == ""
