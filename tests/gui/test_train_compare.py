"""Picking finished runs and reading a comparison, with real clicks and the real verb in its own process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QCheckBox, QLabel, QWidget
from pytestqt.qtbot import QtBot

from kdstudio.errors import BadInput, KnownError
from kdstudio.project import Project
from kdstudio.ui.job_bridge import wait_for_background
from kdstudio.ui.pages.train import TrainPage
from kdstudio.ui.session import Session
from kdstudio.ui.theme import theme
from kdstudio.ui.widgets.train_compare import TrainCompare, compare_runs
from kdstudio.ui.widgets.train_compare_report import IntervalBar, read_reports

Click = Callable[[QWidget | str], QWidget]
IDS = list(range(1, 41))


def finished(project: Project, title: str, seed: int, value: float, objective: str, *, layers: int = 2) -> str:
    """A training run that has ended, with figures about `value` on 40 held-out rows; returns its id."""
    tables: dict[str, Any] = {
        "version": 1,
        "recipe": {"id": "kd", "title": title},
        "student": {"layer_count": layers},
        "objective": [{"name": objective}],
        "run": {"steps": 40, "seed": seed},
    }
    teacher = {"name": "tiny", "kind": "gguf", "path": "tiny.gguf"}
    run_id = project.runs.add("train", title, {"recipe": tables, "teacher": teacher})
    folder = project.runs_folder / run_id
    folder.mkdir(parents=True)
    noise = 0.02 * np.random.default_rng([seed, round(100 * value)]).standard_normal(len(IDS))
    values = (value + noise).tolist()
    rows = {"response_ids": IDS, "tokens": [9] * 40, "forward_kl": values, "nll": values, "top1_agreement": None}
    (folder / "held_out_rows.json").write_text(json.dumps(rows))
    final = {"held_out_forward_kl": value}
    told = {"steps": 40, "tokens": 12_000, "held_out_against": "dense", "final": final}
    project.runs.set_state(run_id, "finished", result=told)
    return run_id


@pytest.fixture
def runs(project_session: Session) -> list[str]:
    """Two recipes with three seeds each."""
    project = project_session.project
    assert project is not None
    made = [finished(project, "Distilled", seed, 0.31, "forward_kl") for seed in range(3)]
    return made + [finished(project, "Text alone", seed, 0.42, "supervised") for seed in range(3)]


@pytest.fixture
def widget(project_session: Session, runs: list[str], qtbot: QtBot) -> TrainCompare:
    made = TrainCompare(project_session)
    qtbot.addWidget(made)
    made.resize(1000, 640)
    made.show()
    qtbot.waitExposed(made)
    qtbot.waitUntil(made.empty.isVisible, timeout=10_000)
    return made


def texts(widget: QWidget) -> str:
    return "\n".join(found.text() for found in widget.findChildren(QLabel) if found.isVisible())


def compared(widget: TrainCompare, runs: list[str], click: Click, qtbot: QtBot) -> None:
    for run_id in runs:
        click(f"compare_run_{run_id}")
    click("compare_start")
    qtbot.waitUntil(widget.report.verdict.isVisible, timeout=30_000)
    qtbot.waitUntil(widget.start.isEnabled, timeout=10_000)


def test_two_runs_must_be_ticked(widget: TrainCompare, runs: list[str], click: Click) -> None:
    assert not widget.start.isEnabled()
    click(f"compare_run_{runs[0]}")
    assert not widget.start.isEnabled()
    click(f"compare_run_{runs[3]}")
    assert widget.start.isEnabled()
    assert set(widget.chosen()) == {runs[0], runs[3]}
    assert "Tick two runs or more" in texts(widget.empty)


def test_picked_runs_are_compared_and_the_verdict_is_shown(
    widget: TrainCompare, runs: list[str], click: Click, qtbot: QtBot, tmp_path: Path
) -> None:
    compared(widget, runs, click, qtbot)
    assert widget.report.verdict.text().startswith("Distilled is closer to the teacher by 0.1")
    assert widget.report.mark.word == "winner"
    qtbot.waitUntil(lambda: "Text alone (baseline)" in texts(widget.report), timeout=5_000)
    said = texts(widget.report)
    assert "40 held-out rows of 40 prompts, 3 seeds" in said
    assert "12\u202f000" in said
    assert not widget.report.notes.isVisible()
    (bar,) = widget.report.findChildren(IntervalBar)
    assert bar.accessibleDescription() == widget.reports[0].pairs[0].verdict
    pair = widget.reports[0].pairs[0]
    assert 8 <= bar.place(pair.low) < bar.place(pair.difference) < bar.place(pair.high) < bar.place(0)
    assert bar.place(0) == bar.width() / 2
    choices: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for choice in choices:
        theme().set_choice(choice)
        image = widget.grab().toImage()
        assert image.save(str(tmp_path / f"{choice}.png"))
        assert coloured(bar.grab().toImage(), theme().tokens.good)


def coloured(image: QImage, token: str) -> bool:
    """Whether a pixel of the image has that colour."""
    places = ((x, y) for x in range(image.width()) for y in range(image.height()))
    return any(image.pixelColor(x, y).name() == token for x, y in places)


def test_one_run_each_has_no_winner(widget: TrainCompare, runs: list[str], click: Click, qtbot: QtBot) -> None:
    compared(widget, [runs[0], runs[3]], click, qtbot)
    assert widget.report.mark.word == "no winner"
    assert "one seed only" in widget.report.verdict.text()


def test_earlier_comparisons_stay_and_are_shown_again(
    widget: TrainCompare, runs: list[str], click: Click, qtbot: QtBot
) -> None:
    compared(widget, runs, click, qtbot)
    assert not widget.earlier.isVisible()
    first = widget.reports[0].id
    widget.choose([runs[0], runs[3]])
    click("compare_start")
    qtbot.waitUntil(lambda: widget.earlier.count() == 2, timeout=30_000)
    assert widget.earlier.isVisible()
    assert "one seed only" in widget.report.verdict.text()
    widget.earlier.setCurrentIndex(widget.earlier.findData(first))
    widget.earlier.activated.emit(widget.earlier.findData(first))
    assert "is closer to the teacher" in widget.report.verdict.text()


def test_what_is_not_fair_is_said_in_place(
    project_session: Session, widget: TrainCompare, runs: list[str], click: Click, qtbot: QtBot
) -> None:
    project = project_session.project
    assert project is not None
    other = finished(project, "Smaller", 0, 0.5, "forward_kl", layers=1)
    project_session.run_changed.emit(other)
    qtbot.waitUntil(lambda: widget.findChild(QWidget, f"compare_run_{other}") is not None, timeout=10_000)
    qtbot.waitUntil(lambda: all(box.isVisible() for box in widget.findChildren(QCheckBox)), timeout=10_000)
    click(f"compare_run_{runs[0]}")
    click(f"compare_run_{other}")
    click("compare_start")
    qtbot.waitUntil(widget.banner.isVisible, timeout=30_000)
    assert "fair comparison" in widget.banner.title.text()
    assert "different students" in widget.banner.detail.text()
    qtbot.waitUntil(widget.start.isEnabled, timeout=10_000)


def test_a_comparison_of_the_command_line_is_found(
    project_session: Session, widget: TrainCompare, runs: list[str], qtbot: QtBot
) -> None:
    project = project_session.project
    assert project is not None
    identity = compare_runs(project.folder, tuple(runs))
    widget.show_report(identity)
    widget.refresh()
    qtbot.waitUntil(widget.report.verdict.isVisible, timeout=10_000)
    assert widget.report.verdict.text().startswith("Distilled is closer")


def test_damaged_reports_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "comparisons"
    assert read_reports(tmp_path) == []
    folder.mkdir()
    for name, text in (("a", ""), ("b", "[]"), ("c", '{"id": 1}'), ("d", "{" * 5000), ("e", "\x00\xff")):
        (folder / f"{name}.json").write_text(text)
    assert read_reports(tmp_path) == []


def test_without_a_project_there_is_nothing_to_compare(session: Session, qtbot: QtBot) -> None:
    widget = TrainCompare(session)
    qtbot.addWidget(widget)
    widget.show()
    assert "two finished training runs" in texts(widget.empty)
    assert not widget.start.isEnabled()
    assert wait_for_background()


def test_a_child_that_answers_nothing_is_an_error_in_words(
    tmp_path: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="no project"):
        compare_runs(tmp_path / "nowhere", tuple(runs))
    with pytest.raises(KnownError, match="could not be compared"):
        compare_runs(tmp_path, tuple(runs), seconds=0.01)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(KnownError, match="could not be compared"):
        compare_runs(tmp_path, tuple(runs))


def test_the_train_page_leads_there_and_back(
    project_session: Session, runs: list[str], click: Click, qtbot: QtBot
) -> None:
    page = TrainPage(project_session)
    qtbot.addWidget(page)
    page.resize(1200, 760)
    page.show()
    qtbot.waitExposed(page)
    assert page.comparison is None
    click("train_compare")
    assert page.comparison is not None
    assert page.comparison.isVisible()
    assert not page.start.isVisible()
    click(f"compare_run_{runs[0]}")
    click("train_new")
    assert page.start.isVisible()
    assert not page.comparison.isVisible()
