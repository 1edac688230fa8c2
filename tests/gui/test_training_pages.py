"""Train, Evaluate and Export with real clicks on a real tiny project, and what they say when something is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QComboBox, QLabel, QPushButton, QSpinBox, QWidget
from pytestqt.qtbot import QtBot

from kdstudio.jobs import folder as run_files
from kdstudio.jobs.events import Checked, Line, Metric, Started, Warned
from kdstudio.jobs.journal import JournalWriter
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import NewPrompt, NewResponse, Project
from kdstudio.recipe import TrainingRecipe, load_recipe
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.evaluate import EvaluatePage
from kdstudio.ui.pages.export import ExportPage
from kdstudio.ui.pages.train import TrainPage
from kdstudio.ui.session import Session
from kdstudio.ui.theme import theme
from kdstudio.ui.training_findings import Finding
from kdstudio.ui.widgets.mask_text import MaskText
from kdstudio.ui.widgets.train_audit import AuditCard
from tests.gui.waiting import wait_finished
from tests.tiny import tiny_gguf

Click = Callable[[QWidget | str], QWidget]
LONG = 120_000


@pytest.fixture
def filled(project_session: Session, tmp_path: Path) -> Session:
    """A project with a tiny teacher and 20 accepted answers, four of them held out."""
    project = project_session.project
    assert project is not None
    teacher = tiny_gguf(tmp_path / "tiny.gguf")
    project.teachers.add(TeacherSpec("tiny", "gguf", path=str(teacher)))
    project.rows.add_prompts(
        NewPrompt([{"role": "user", "content": f"thing {n}"}], ("held_out",) if n % 5 == 0 else ("train",))
        for n in range(20)
    )
    words = ["the", "quick", "brown", "fox", "writes", "a", "short", "story", "about", "robot", "forest"]
    project.rows.add_responses(
        NewResponse(n + 1, " ".join(words[(n + k) % len(words)] for k in range(8)), status="accepted")
        for n in range(20)
    )
    return project_session


def test_without_rows_the_estimate_says_what_is_missing(window: MainWindow, qtbot: QtBot) -> None:
    window.show_page("train")
    page = window.page("train")
    assert isinstance(page, TrainPage)
    qtbot.waitUntil(page.estimate.notes.isVisible, timeout=10_000)
    assert "teacher" in page.estimate.notes.text().lower() or "rows" in page.estimate.notes.text().lower()
    for key in ("evaluate", "export"):
        window.show_page(key)
        empty = window.page(key).findChild(QWidget, f"{key}_empty")
        assert empty is not None
        assert empty.isVisible()


def open_train(window: MainWindow, qtbot: QtBot) -> TrainPage:
    """The Train page, once it suggested half of the teacher's layers and the tag of the held-out rows."""
    window.show_page("train")
    page = window.page("train")
    assert isinstance(page, TrainPage)
    qtbot.waitUntil(lambda: page.setup.student.values()["layer_count"] == 2, timeout=10_000)
    qtbot.waitUntil(lambda: page.setup.data.values()["held_out_tag"] == "held_out", timeout=10_000)
    return page


def train(page: TrainPage, qtbot: QtBot, click: Click) -> str:
    """Start what the forms say, pause it as soon as the plot moves, let it go on to its end."""
    project = page.session.project
    assert project is not None
    click("train_start")
    qtbot.waitUntil(lambda: page.stack.currentWidget() is page.run, timeout=20_000)
    qtbot.waitUntil(lambda: page.run.plots["loss"].drawn("loss") >= 3, timeout=LONG)
    if page.run.pause.isVisible():  # a fast machine may be done before anybody can press it
        click("train_pause")
    over = ("paused", "finished")
    qtbot.waitUntil(lambda: project.runs.get(page.run.run_id).state in over, timeout=20_000)
    if project.runs.get(page.run.run_id).state == "paused":
        qtbot.waitUntil(page.run.resume.isVisible, timeout=5_000)
        assert not page.run.pause.isVisible()
        click("train_resume")
    wait_finished(project, page.run.run_id, qtbot)
    return page.run.run_id


def measure(window: MainWindow, run_id: str, qtbot: QtBot, click: Click) -> None:
    """From the run's view to Evaluate, and measure there."""
    training = window.page("train")
    assert isinstance(training, TrainPage)
    qtbot.waitUntil(training.run.evaluate.isVisible, timeout=LONG)
    click("train_evaluate")
    page = window.page("evaluate")
    assert isinstance(page, EvaluatePage)
    assert page.student.currentData() == run_id
    click("evaluate_start")
    qtbot.waitUntil(lambda: page.figures.text("forward_kl") not in ("", "–"), timeout=LONG)
    assert page.samples.findChild(QWidget, "evaluate_samples_1_1") is not None


def export(window: MainWindow, project: Project, qtbot: QtBot, click: Click) -> None:
    """Export the newest student in the formats that are chosen at first, and open one in Chat."""
    window.show_page("export")
    page = window.page("export")
    assert isinstance(page, ExportPage)
    click("export_start")
    qtbot.waitUntil(lambda: page.findChild(QWidget, "export_file_Q8_0") is not None, timeout=LONG)
    files = list(project.exports_folder.rglob("*.gguf"))
    assert {path.stem.split("-")[-1] for path in files} == {"F16", "Q8_0"}
    opened = page.findChild(QPushButton, "export_chat_F16")
    assert opened is not None
    qtbot.waitUntil(opened.isVisible, timeout=5_000)
    click(opened)
    assert window.page("chat").isVisible()


def test_a_run_is_set_up_started_watched_measured_and_exported(
    filled: Session, window: MainWindow, qtbot: QtBot, click: Click
) -> None:
    page = open_train(window, qtbot)
    project = filled.project
    assert project is not None
    steps = page.findChild(QSpinBox, "train_run_steps")
    assert steps is not None
    steps.setFocus()
    steps.selectAll()
    QTest.keyClicks(steps, "24")
    QTest.keyClick(steps, Qt.Key.Key_Tab)
    page.setup.run.set_values({**page.setup.run.values(), "rows_per_batch": 4, "evaluate_every": 12})
    run_id = train(page, qtbot, click)
    qtbot.waitUntil(lambda: page.run.plots["loss"].drawn("loss") == 24, timeout=10_000)
    # Before, in the middle and at the end; the last one arrives after the last step.
    qtbot.waitUntil(lambda: page.run.plots["loss"].drawn("gap") == 3, timeout=10_000)
    qtbot.waitUntil(lambda: "→" in page.run.figures.text("gap"), timeout=10_000)
    before, after = map(float, page.run.figures.text("gap").split(" → "))
    assert before > after > 0
    assert page.run.figures.text("step").startswith("24")
    measure(window, run_id, qtbot, click)
    export(window, project, qtbot, click)


def test_the_estimate_follows_the_forms_and_the_recipe_is_saved(
    filled: Session, window: MainWindow, qtbot: QtBot, tmp_path: Path
) -> None:
    page = open_train(window, qtbot)
    qtbot.waitUntil(page.estimate.verdict.isVisible, timeout=10_000)
    assert page.estimate.verdict.word in ("fits", "tight", "unlikely")
    page.setup.run.set_values({**page.setup.run.values(), "steps": 40})
    saved = tmp_path / "saved.toml"
    page.save_recipe(saved)
    assert load_recipe(saved, TrainingRecipe).run.steps == 40


def test_a_killed_trainer_is_said_and_resumed_to_the_whole_curve(
    filled: Session, window: MainWindow, qtbot: QtBot, click: Click
) -> None:
    project = filled.project
    assert project is not None
    page = open_train(window, qtbot)
    page.setup.run.set_values({"steps": 150, "rows_per_batch": 4, "evaluate_every": 150, "checkpoint_every": 10})
    page.setup.data.set_values({**page.setup.data.values(), "held_out_tag": "", "held_out": 0.0})
    click("train_start")
    qtbot.waitUntil(lambda: page.run.plots["loss"].count("loss") >= 12, timeout=LONG)
    run_id = page.run.run_id
    process = run_files.process_of(project.runs_folder / run_id)
    assert process is not None
    process.kill()
    qtbot.waitUntil(lambda: project.runs.get(run_id).state == "interrupted", timeout=20_000)
    qtbot.waitUntil(page.run.banner.isVisible, timeout=5_000)
    qtbot.waitUntil(page.run.resume.isVisible, timeout=5_000)
    click("train_resume")
    qtbot.waitUntil(lambda: project.runs.get(run_id).state != "interrupted", timeout=20_000)
    wait_finished(project, run_id, qtbot)
    qtbot.waitUntil(lambda: page.run.plots["loss"].count("loss") == 150, timeout=10_000)
    assert project.runs.metrics(run_id, "loss")[0] == list(range(1, 151))


def test_a_recipe_with_a_mistake_is_said_in_place(filled: Session, window: MainWindow, tmp_path: Path) -> None:
    window.show_page("train")
    page = window.page("train")
    assert isinstance(page, TrainPage)
    bad = tmp_path / "bad.toml"
    bad.write_text('version = 1\n[run]\nstepz = 3\n[recipe]\nid = "a"\ntitle = "b"\n')
    page.load_recipe(bad)
    assert page.banner.isVisible()
    assert "line 3" in page.banner.detail.text()


def test_an_api_teacher_closes_what_it_cannot_do(filled: Session, window: MainWindow, qtbot: QtBot) -> None:
    project = filled.project
    assert project is not None
    project.teachers.add(TeacherSpec("remote", "openai", url="http://127.0.0.1:1/v1", model="m"))
    filled.teachers_changed.emit()
    window.show_page("train")
    page = window.page("train")
    assert isinstance(page, TrainPage)
    combo = page.findChild(QComboBox, "train_teacher")
    assert combo is not None
    combo.setCurrentText("remote")
    match = page.setup.learning.presets.cards["match"]
    assert not match.choose.isEnabled()
    assert "remote does not offer" in match.obstacle.text()
    assert page.setup.learning.parts.names() == ["supervised"]


def test_what_a_run_found_is_shown_before_and_on_the_way(
    project_session: Session, window: MainWindow, qtbot: QtBot, click: Click
) -> None:
    project = project_session.project
    assert project is not None
    run_id = project.runs.add("train", "My student", {})
    project.runs.set_state(run_id, "running")
    (project.runs_folder / run_id).mkdir(parents=True)
    journal = JournalWriter(project.runs_folder / run_id)
    journal.write(Started("train", 1))
    journal.write(Checked("good", "The same vocabulary", "512 tokens."))
    journal.write(Warned("3 rows are too long", "They are left out.", "Split these rows."))
    window.show_page("train", {"run": run_id})
    page = window.page("train")
    assert isinstance(page, TrainPage)
    run = page.run
    qtbot.waitUntil(run.audit.isVisible, timeout=10_000)
    assert run.audit.findings == (
        Finding("warning", "3 rows are too long", "They are left out. Split these rows."),
        Finding("good", "The same vocabulary", "512 tokens."),
    )
    assert not run.warnings.isVisible()
    for event in (Metric(1, {"loss": 2.0}), Warned("The reward is being hacked"), Warned("It goes on")):
        project_session.events.emit(run_id, [Line(journal.write(event), "", event)])
    journal.close()
    assert [finding.title for finding in run.warnings.findings] == ["The reward is being hacked", "It goes on"]
    assert len(run.audit.findings) == 2, "a line that was read twice is said once"
    shown = run.audit.findChild(QWidget, "train_audit_0")
    assert shown is not None
    assert shown.isVisible()
    click("train_audit_open")
    assert not shown.isVisible()
    again = Started("train", 2, resumed_from=1)
    project_session.events.emit(run_id, [Line(9, "", again)])
    assert not run.audit.isVisible(), "a run that goes on is checked anew"
    assert run.warnings.isVisible()


def test_an_audit_puts_the_worst_first_and_stays_closed_when_all_is_good(qtbot: QtBot) -> None:
    card = AuditCard("Checked before the start", name="audit")
    qtbot.addWidget(card)
    card.show_findings([])
    assert card.isHidden()
    card.show_findings([("good", "Same vocabulary", "49,152 tokens."), ("good", "Rows agree", "")])
    assert card.isVisible()
    assert not card.opener.isChecked()
    card.show_findings([("good", "Same vocabulary", ""), ("fault", "Signals of other rows", "12 of 200.")])
    assert card.opener.isChecked()
    assert [finding.level for finding in card.findings] == ["fault", "good"]
    words = card.findChild(QLabel, "audit_0")
    assert words is not None
    assert words.text() == "Fault: Signals of other rows"


def test_the_audit_shows_what_is_learnt_in_colour(qtbot: QtBot) -> None:
    card = AuditCard("Checked before the start", name="audit")
    qtbot.addWidget(card)
    passages = (("user\nWhat is 2 < 3?", "read"), ("It is <true>.", "learnt"))
    card.show_findings([Finding("good", "The mask covers the responses and nothing else", "plain", passages)])
    shown = card.findChild(MaskText)
    assert shown is not None
    assert theme().tokens.selection in shown.text()
    assert "What is 2 &lt; 3?" in shown.text()
    assert "It is &lt;true&gt;." in shown.text()
    assert "learnt: It is <true>." in shown.accessibleName()
