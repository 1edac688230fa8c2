"""A student's rounds in the window: gallery, form, forecast, start, stop, go on; with real clicks and real jobs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtWidgets import QApplication, QLabel, QSpinBox, QWidget
from pytestqt.qtbot import QtBot

from kdstudio.jobs.events import Answer
from kdstudio.jobs.journal import read_journal
from kdstudio.project import NewPrompt, Project
from kdstudio.recipe import RoundsRecipe, load_recipe
from kdstudio.rounds.plan import RESULT_NAME, Plan, planned
from kdstudio.rounds.standing import plans
from kdstudio.rounds.wish import Wish, read_wish, write_wish
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.data import DataPage
from kdstudio.ui.pages.train import TrainPage
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.data_generate import GenerateDialog
from kdstudio.ui.widgets.rounds_sheet import RoundsSheet
from kdstudio.ui.widgets.rounds_view import RoundsView
from tests.e2e.rounds_setting import make_rounds
from tests.gui.conftest import Click, visible_widget
from tests.tiny import tiny_model

SECOND = 20_000
JOB = 240_000
WHOLE = [(1, "elicit"), (1, "train"), (1, "start"), (1, "evaluate"), (2, "elicit"), (2, "train"), (2, "evaluate")]


@pytest.fixture
def project(session: Session, tmp_path: Path, qtbot: QtBot) -> Project:
    """Twenty accepted rows, the teacher `tiny`, and a quick recipe with rounds among the project's own."""
    path, recipe = make_rounds(tmp_path)
    (path / "recipes").mkdir()
    shutil.copy(recipe, path / "recipes" / "tiny_rounds.toml")
    with qtbot.waitSignal(session.project_changed, timeout=SECOND):
        session.open_project(path)
    assert session.project is not None
    return session.project


@pytest.fixture
def shown(session: Session, project: Project, qtbot: QtBot) -> MainWindow:
    made = MainWindow(session)
    qtbot.addWidget(made, before_close_func=lambda window: window.leave())
    made.show()
    qtbot.waitExposed(made)
    return made


def text(name: str) -> str:
    found = visible_widget(name)
    assert isinstance(found, QLabel)
    return found.text()


def word(name: str) -> str:
    return str(visible_widget(name).accessibleName())


def sheet(kind: type[Any], qtbot: QtBot) -> Any:
    def open_now() -> list[QWidget]:
        return [one for one in QApplication.topLevelWidgets() if isinstance(one, kind) and one.isVisible()]

    qtbot.waitUntil(lambda: bool(open_now()), timeout=SECOND)
    return open_now()[-1]


def set_up(window: MainWindow, title: str, click: Click, qtbot: QtBot) -> RoundsSheet:
    """From the Train page to the form of a recipe, by clicks."""
    window.show_page("train")
    click("train_rounds")
    click("rounds_empty_action")
    gallery = sheet(GenerateDialog, qtbot).gallery
    qtbot.waitUntil(lambda: bool(gallery.shown), timeout=SECOND)
    if title == "Tiny rounds":
        gallery.choose_family("mine")
    click(next(card for card in gallery.shown if card.offered.title == title))
    found = sheet(RoundsSheet, qtbot)
    assert isinstance(found, RoundsSheet)
    return found


def rounds_view(window: MainWindow) -> RoundsView:
    page = window.page("train")
    assert isinstance(page, TrainPage)
    assert page.rounds is not None
    return page.rounds


# ---------------------------------------------------------------------------------------------- before the start
def test_cards_say_what_is_needed_and_the_form_what_a_round_takes(
    shown: MainWindow, project: Project, click: Click, qtbot: QtBot
) -> None:
    found = set_up(shown, "Tiny rounds", click, qtbot)
    qtbot.waitUntil(found.start.isEnabled, timeout=SECOND)
    assert text("rounds_forecast_asked") == "6 prompts, 6 questions"
    assert text("rounds_forecast_answers") == "at most 72 tokens"
    assert text("rounds_forecast_trained") == "at most 6 rows; 2 steps"
    assert "then the last round’s" in text("rounds_forecast_student")
    assert text("rounds_forecast_measured") == "2 prompts held out from all rounds"
    assert text("rounds_forecast_money") == "nothing: it runs here"
    limit = visible_widget("rounds_elicit_limit")
    assert isinstance(limit, QSpinBox)
    limit.setValue(3)
    asked = found.forecast.figures["asked"]
    qtbot.waitUntil(lambda: asked.text() == "3 prompts, 3 questions", timeout=SECOND)
    assert plans(project) == []
    click("rounds_back")
    gallery = sheet(GenerateDialog, qtbot).gallery
    qtbot.waitUntil(lambda: len(gallery.shown) == 6, timeout=SECOND)
    star = next(card for card in gallery.shown if card.offered.key == "star")
    assert [(need.words, need.met) for need in star.needs] == [
        ("needs tasks with known answers: none yet", False),
        ("a student here", True),
    ]
    assert star.cost == "trains it, up to 4 rounds"
    click(star)
    found = sheet(RoundsSheet, qtbot)
    note = found.forecast.note
    qtbot.waitUntil(lambda: "no prompt with a reference" in note.text(), timeout=SECOND)
    assert not found.start.isEnabled()
    found.reject()


def test_what_a_person_changes_is_what_would_run(
    shown: MainWindow, project: Project, click: Click, qtbot: QtBot
) -> None:
    project.rows.add_prompts(
        NewPrompt([{"role": "user", "content": f"{n} + 1"}], reference=str(n + 1)) for n in range(10)
    )
    form = set_up(shown, "Learn from its own reasons, round by round (STaR)", click, qtbot).form
    for name, value in (("rounds_rounds_count", 2), ("rounds_run_rows_per_batch", 3), ("generate_max_tokens", 17)):
        click("rounds_training") if "run_" in name else None
        click("rounds_asking") if "generate" in name else None
        field = visible_widget(name)
        assert isinstance(field, QSpinBox)
        field.setValue(value)
    plan = form.work().foreseen(project)
    assert plan.recipe.rounds.count == 2
    assert plan.training.run.rows_per_batch == 3
    assert plan.training.data.reasoning == "think_tags"
    assert next(step for step in plan.elicitation.step if step.type == "sample").max_tokens == 17
    assert plan.start is not None
    assert plan.start.path == str(tiny_model(layers=4))
    assert plans(project) == []
    sheet(RoundsSheet, qtbot).reject()


def test_restricted_terms_want_a_reason_before_the_start(
    shown: MainWindow, project: Project, click: Click, qtbot: QtBot
) -> None:
    from kdstudio.models.terms_stamp import own_terms

    project.teachers.set_options("tiny", {"terms": own_terms("ask first", free=False)})
    found = set_up(shown, "Tiny rounds", click, qtbot)
    qtbot.waitUntil(found.start.isEnabled, timeout=SECOND)
    click("rounds_start")
    assert text("rounds_sheet_banner_title") == "These rows have terms of use"
    assert plans(project) == []
    found.reject()


# ------------------------------------------------------------------------------------------------- as they stand
def entered(project: Project, plan: Plan, number: int, part: str, state: str, result: dict[str, Any]) -> str:
    """A run of the rounds as the chain would have left it."""
    kind = "evaluate" if part == "start" else part
    mark = {"id": plan.id, "round": number, "part": part, "rows": 5}
    run_id = project.runs.add(kind, f"Tiny rounds, round {number}: {part}", {"rounds": mark})
    project.runs.set_state(run_id, state, result=result)
    return run_id


def half_way(project: Project, tmp_path: Path) -> Plan:
    """One round done, the second one interrupted while it trained."""
    spec = project.teachers.get("tiny").spec
    plan = planned(project, load_recipe(tmp_path / "rounds.toml", RoundsRecipe), spec.__dict__)
    funnel = {"rows": 6, "funnel": [{"step": 0, "type": "sample", "entered": 8, "left": 6, "fell": {}}]}
    for number, value in ((1, 2.5), (2, None)):
        entered(project, plan, number, "elicit", "finished", funnel)
        entered(project, plan, number, "train", "finished" if value else "interrupted", {})
        if value:
            entered(project, plan, number, "start", "finished", {"student_nll": 3.0})
            entered(project, plan, number, "evaluate", "finished", {"student_nll": value})
    return plan


def test_each_round_is_a_line_with_its_figures_and_runs(
    shown: MainWindow, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    plan = half_way(project, tmp_path)
    shown.show_page("train", {"rounds": plan.id})
    qtbot.waitUntil(lambda: rounds_view(shown).standing is not None, timeout=SECOND)
    qtbot.waitUntil(rounds_view(shown).lines.lines[2].figure.isVisible, timeout=SECOND)
    assert text("round_0_figure") == "3.0000"
    assert [text(f"round_1_{name}") for name in ("asked", "made", "learnt")] == ["8", "6", "5"]
    assert text("round_1_figure") == "3.0000 → 2.5000  better"
    assert word("round_1_state") == "best"
    assert text("round_2_figure") == "2.5000 → –"
    assert (word("round_2_state"), word("rounds_state")) == ("interrupted", "interrupted")
    assert text("rounds_banner_title") == "The rounds were interrupted"
    assert rounds_view(shown).plot.count("figure") == 2
    click("round_1_rows")
    page = shown.page("data")
    assert isinstance(page, DataPage)
    first = project.runs.list("elicit")[-1].id
    assert (page.query.run, page.query.kind) == (first, "response")
    assert page.funnel.run_id == first


def test_why_they_ended_is_said(
    shown: MainWindow, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    plan = half_way(project, tmp_path)
    ended = "The held-out figure fell in round 2: student nll was 2.5000 after round 1 and is 2.9000."
    run = project.runs.list("train")[-1].id
    result = {"ended": ended, "best_round": 1, "run": run, "rounds": [], "start": 3.0}
    (plan.folder / RESULT_NAME).write_text(json.dumps(result))
    shown.show_page("train")
    click("train_rounds")
    qtbot.waitUntil(lambda: rounds_view(shown).standing is not None, timeout=SECOND)
    assert text("rounds_banner_title") == ended
    assert text("rounds_banner_detail") == "The best student is that of round 1: it can be evaluated and exported."
    assert word("rounds_state") == "finished"
    assert not rounds_view(shown).go_on.isVisible()
    click("rounds_export")
    assert shown.stack.currentWidget() is shown.page("export")


def test_a_failure_keeps_its_words_and_terms_ask_for_a_reason(
    shown: MainWindow, project: Project, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    plan = half_way(project, tmp_path)
    for run in project.runs.list("train")[:1]:
        project.runs.set_state(run.id, "stopped")
    write_wish(plan.folder, Wish(error={"title": "These rows have terms of use", "detail": "They do.", "hint": ""}))
    shown.show_page("train", {"rounds": plan.id})
    qtbot.waitUntil(lambda: rounds_view(shown).standing is not None, timeout=SECOND)
    assert word("rounds_state") == "failed"
    assert text("rounds_banner_detail") == "They do."
    assert visible_widget("rounds_reason").isVisible()


# ---------------------------------------------------------------------------------------------------- with jobs
def started(window: MainWindow, click: Click, qtbot: QtBot) -> RoundsView:
    found = set_up(window, "Tiny rounds", click, qtbot)
    qtbot.waitUntil(found.start.isEnabled, timeout=SECOND)
    click("rounds_start")
    qtbot.waitUntil(lambda: window.stack.currentWidget() is window.page("train"), timeout=SECOND)
    return rounds_view(window)


def wait_part(project: Project, number: int, part: str, states: tuple[str, ...], qtbot: QtBot) -> None:
    def there() -> bool:
        marks = ((run.parameters.get("rounds") or {}, run.state) for run in project.runs.list())
        return any((mark.get("round"), mark.get("part")) == (number, part) and state in states for mark, state in marks)

    qtbot.waitUntil(there, timeout=JOB)


def test_stopped_by_a_click_they_wait_for_another(
    shown: MainWindow, project: Project, click: Click, qtbot: QtBot
) -> None:
    view = started(shown, click, qtbot)
    wait_part(project, 1, "elicit", ("running",), qtbot)
    qtbot.waitUntil(lambda: view.pill.word == "running" and view.stop.isVisible(), timeout=SECOND)
    click("rounds_stop")
    qtbot.waitUntil(lambda: view.pill.word == "stopped" and view.go_on.isVisible(), timeout=JOB)
    assert text("rounds_banner_title") == "The rounds were stopped"
    plan = plans(project)[0]
    assert not read_wish(plan.folder).go
    assert view.session.rounds.leading == ""


@pytest.mark.slow
def test_two_rounds_with_the_window_closed_and_stopped_in_the_middle(
    shown: MainWindow, project: Project, session: Session, click: Click, qtbot: QtBot
) -> None:
    folder = project.folder
    started(shown, click, qtbot)
    wait_part(project, 1, "train", ("running",), qtbot)
    session.close()
    assert session.rounds.leading == ""
    with qtbot.waitSignal(session.project_changed, timeout=SECOND):
        session.open_project(folder)
    assert session.project is not None
    shown.show_page("train")
    click("train_rounds")
    view = rounds_view(shown)
    wait_part(session.project, 2, "elicit", ("starting", "running"), qtbot)
    qtbot.waitUntil(lambda: view.stop.isVisible() and view.stop.isEnabled(), timeout=SECOND)
    click("rounds_stop")
    qtbot.waitUntil(lambda: view.pill.word == "stopped" and view.go_on.isVisible(), timeout=JOB)
    click("rounds_continue")
    qtbot.waitUntil(lambda: view.standing is not None and view.standing.result is not None, timeout=JOB)
    assert parts_of_open(session.project) == WHOLE
    assert {run.state for run in session.project.runs.list()} == {"finished"}
    qtbot.waitUntil(lambda: view.banner.title.text() == "All 2 rounds are done.", timeout=SECOND)
    assert word("round_2_state") in ("best", "done")


WINDOW = """
import sys
from pathlib import Path
from kdstudio.rounds.plan import read_plan
from kdstudio.ui.app import make_application
from kdstudio.ui.session import Session
application = make_application([])
session = Session()
session.project_changed.connect(lambda: session.rounds.start(read_plan(Path(sys.argv[2]))))
task = session.open_project(Path(sys.argv[1]))
application.exec()
"""


@pytest.mark.slow
def test_a_window_that_is_killed_loses_nothing(session: Session, tmp_path: Path, qtbot: QtBot) -> None:
    path, recipe = make_rounds(tmp_path)
    with Project.open(path) as project:
        spec = asdict(project.teachers.get("tiny").spec)
        plan = planned(project, load_recipe(recipe, RoundsRecipe), spec)
    with subprocess.Popen([sys.executable, "-c", WINDOW, str(path), str(plan.folder)]) as process:
        journal = "runs/*-train-*/events.jsonl"
        qtbot.waitUntil(
            lambda: any('"event": "progress"' in found.read_text() for found in path.glob(journal)), timeout=JOB
        )
        process.kill()
    assert read_wish(plan.folder).go
    with qtbot.waitSignal(session.project_changed, timeout=SECOND):
        session.open_project(path)
    assert session.rounds.leading == plan.id
    qtbot.waitUntil(lambda: (plan.folder / RESULT_NAME).is_file() and not session.rounds.leading, timeout=JOB)
    assert session.project is not None
    assert parts_of_open(session.project) == WHOLE
    for run in session.project.runs.list("elicit"):
        lines = read_journal(session.project.runs_folder / run.id)
        asked = [line.event.key for line in lines if isinstance(line.event, Answer)]
        assert len(asked) == len(set(asked)) == 6
    assert not read_wish(plan.folder).go


def parts_of_open(project: Project) -> list[tuple[int, str]]:
    return [(run.parameters["rounds"]["round"], run.parameters["rounds"]["part"]) for run in project.runs.list()[::-1]]
