"""Home: the eight steps follow what the project holds, and their buttons do what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from kdstudio.models.spec import TeacherSpec
from kdstudio.project import NewPrompt, NewResponse, Project
from kdstudio.ui import sample_way
from kdstudio.ui.checklist import STEPS, read_steps
from kdstudio.ui.machine import read_machine
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.home import HomePage
from kdstudio.ui.session import Session
from tests.gui.conftest import Click
from tests.tiny import tiny_gguf

KEYS = [step.key for step in STEPS]


def states(project: Project | None, *, chatted: bool = False) -> list[str]:
    return [step.state for step in read_steps(project, chatted=chatted)]


def test_without_a_project_only_the_first_step_can_be_done() -> None:
    assert states(None) == ["next"] + ["blocked"] * 7


def test_steps_follow_the_project(tmp_path: Path) -> None:
    with Project.create(tmp_path / "Steps.kdstudio") as project:
        assert states(project) == ["next", "ready"] + ["blocked"] * 6
        project.rows.add_prompts([NewPrompt(messages=({"role": "user", "content": "a"},))])
        assert states(project)[:3] == ["done", "next", "blocked"]
        project.teachers.add(TeacherSpec("T", "gguf", path="t.gguf"))
        assert states(project)[:4] == ["done", "done", "next", "blocked"]
        asking = project.runs.add("elicit", "Asking", {})
        project.runs.set_state(asking, "running")
        assert states(project)[2] == "running"
        project.runs.set_state(asking, "finished")
        prompt = next(iter(project.rows.prompts()))
        project.rows.add_responses([NewResponse(prompt_id=prompt.id, text="b", teacher="T")])
        assert states(project)[2:5] == ["done", "next", "blocked"]
        response = project.rows.responses_of(prompt.id)[0]
        project.rows.set_status("response", [response.id], "accepted")
        assert states(project)[3:6] == ["done", "next", "blocked"]
        trained = project.runs.add("train", "Training", {})
        result = {"before": {"held_out_forward_kl": 9.8}, "final": {"held_out_forward_kl": 0.93}}
        project.runs.set_state(trained, "finished", result=result)
        assert states(project)[4:] == ["done", "next", "ready", "blocked"]
        assert read_steps(project, chatted=False)[4].note == "Divergence 9.80 → 0.93"
        exported = project.runs.add("export", "Export", {})
        project.runs.set_state(exported, "finished", result={"files": []})
        assert states(project, chatted=True)[6:] == ["done", "done"]


def test_every_blocked_step_says_what_it_needs() -> None:
    for step in read_steps(None, chatted=False)[1:]:
        assert step.note


@pytest.fixture
def empty_window(session: Session, qtbot: QtBot) -> MainWindow:
    window = MainWindow(session)
    qtbot.addWidget(window, before_close_func=lambda shown: shown.leave())
    window.show()
    return window


def home(window: MainWindow) -> HomePage:
    page = window.page("home")
    assert isinstance(page, HomePage)
    return page


def test_the_sample_project_is_one_click(empty_window: MainWindow, qtbot: QtBot, click: Click) -> None:
    page = home(empty_window)
    qtbot.waitUntil(page.steps["project"].action.isVisible)
    click("step_project_action")
    qtbot.waitUntil(lambda: page.steps["project"].state == "done", timeout=20_000)
    project = empty_window.session.project
    assert project is not None
    assert project.folder == sample_way.sample_project_folder()
    lines = sample_way.sample_file("prompts.jsonl").read_text("utf-8").splitlines()
    assert sum(count for (kind, _), count in project.rows.counts().items() if kind == "prompt") == len(lines)
    assert page.steps["teacher"].state == "next"
    assert page.steps["ask"].state == "blocked"
    assert not page.steps["ask"].action.isVisible()


def test_the_sample_project_is_opened_when_it_exists(empty_window: MainWindow, qtbot: QtBot, click: Click) -> None:
    project = Project.create(sample_way.sample_project_folder())
    project.close()
    qtbot.waitUntil(home(empty_window).steps["project"].action.isVisible)
    click("step_project_action")
    qtbot.waitUntil(lambda: home(empty_window).steps["project"].state == "done", timeout=20_000)
    assert not home(empty_window).banner.isVisible()


def test_a_bad_teacher_file_is_said_in_place(window: MainWindow, tmp_path: Path, qtbot: QtBot) -> None:
    bad = tmp_path / "page.gguf"
    bad.write_text("<html>Not found</html>")
    page = home(window)
    page._add_teacher(bad)
    qtbot.waitUntil(page.banner.isVisible, timeout=10_000)
    assert window.session.project is not None
    assert window.session.project.teachers.list() == []


def test_a_local_teacher_is_added_once(window: MainWindow, tmp_path: Path, qtbot: QtBot) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf")
    page = home(window)
    for _ in range(2):
        with qtbot.waitSignal(window.session.teachers_changed, timeout=10_000):
            page._add_teacher(path)
    assert window.session.project is not None
    assert len(window.session.project.teachers.list()) == 1


def test_asking_starts_a_job_with_the_projects_teacher(
    window: MainWindow, tmp_path: Path, qtbot: QtBot, click: Click
) -> None:
    project = window.session.project
    assert project is not None
    project.rows.add_prompts([NewPrompt(messages=({"role": "user", "content": f"p{index}"},)) for index in range(3)])
    script = {"default": "An answer."}
    project.teachers.add(TeacherSpec("Script", "scripted", options={"script": script}))
    window.session.rows_changed.emit()
    page = home(window)
    qtbot.waitUntil(page.steps["ask"].action.isVisible)
    click("step_ask_action")
    qtbot.waitUntil(lambda: page.steps["ask"].state == "done", timeout=30_000)
    assert page.steps["review"].state == "next"
    [run] = project.runs.list()
    assert run.parameters["teacher"]["name"] == "Script"
    assert run.parameters["recipe"]["step"][1]["max_tokens"] == sample_way.SAMPLE_TOKENS


def test_the_project_is_summed_up(window: MainWindow, qtbot: QtBot) -> None:
    project = window.session.project
    assert project is not None
    project.rows.add_prompts([NewPrompt(messages=({"role": "user", "content": f"p{index}"},)) for index in range(3)])
    project.rows.add_responses([NewResponse(prompt_id=next(iter(project.rows.prompts())).id, text="b", teacher="T")])
    (project.exports_folder / "a.gguf").write_bytes(b"GGUF")
    trained = project.runs.add("train", "Training", {})
    project.runs.set_state(trained, "finished", result={"final": {"held_out_forward_kl": 0.931}})
    window.session.rows_changed.emit()
    values = home(window).facts.values
    qtbot.waitUntil(lambda: values["Closest"].text() == "divergence 0.93", timeout=10_000)
    assert [values[name].text() for name in ("Prompts", "Answers", "Students", "Exports")] == ["3", "1", "1", "1"]
    window.session.close()
    qtbot.waitUntil(lambda: not home(window).facts.isVisible())


@pytest.mark.parametrize(("step", "page"), [("review", "data"), ("evaluate", "evaluate"), ("export", "export")])
def test_buttons_go_to_their_page(window: MainWindow, step: str, page: str) -> None:
    home(window)._act(step)
    assert window.stack.currentWidget() is window.page(page)


def test_recent_projects_open_by_click_and_key(window: MainWindow, tmp_path: Path, qtbot: QtBot, click: Click) -> None:
    first = window.session.project
    assert first is not None
    name = first.folder.stem
    with qtbot.waitSignal(window.session.project_changed):
        window.create_project(tmp_path / "Other.kdstudio")
    qtbot.waitUntil(lambda: home(window).findChild(QWidget, f"recent_{name}") is not None)
    with qtbot.waitSignal(window.session.project_changed, timeout=10_000):
        click(f"recent_{name}")
    assert window.session.project is not None
    assert window.session.project.folder.stem == name


def test_the_machine_is_described(empty_window: MainWindow, qtbot: QtBot) -> None:
    machine = read_machine()
    assert machine.cores >= 1
    assert machine.memory > 0
    card = home(empty_window).machine
    qtbot.waitUntil(lambda: "cores" in card._values["Processor"].text(), timeout=10_000)
    card._show(replace(machine, missing=("torch",), gpus=(("Card", 24576),)))
    assert "pip install 'kdstudio[local]'" in card.advice.text()
    assert card._values["Graphics"].text() == "Card · 24 GiB"
