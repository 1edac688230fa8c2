"""The smallest window: nothing that can be pressed is cut off, and every number and control says what it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QComboBox,
    QDoubleSpinBox,
    QLabel,
    QLineEdit,
    QSpinBox,
    QWidget,
)
from pytestqt.qtbot import QtBot

from kdstudio.models.spec import TeacherSpec
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages import PAGES
from kdstudio.ui.pages.train import TrainPage
from tests.gui.conftest import Click
from tests.tiny import tiny_gguf

SECOND = 10_000
LONG_NAME = "A-teacher-with-a-name-as-long-as-repositories-like-to-have-them-70B-Instruct-v0.3-Q4_K_M"


@pytest.fixture
def narrow(window: MainWindow, tmp_path: Path) -> MainWindow:
    """The window as small as it gets, on a project with a teacher and a finished run."""
    project = window.session.project
    assert project is not None
    project.teachers.add(TeacherSpec(LONG_NAME, "gguf", path=str(tiny_gguf(tmp_path / "tiny.gguf"))))
    run = project.runs.add("train", "A student whose name is rather long for such a small window", {})
    project.runs.set_state(run, "finished", result={"seconds": 1})
    (project.runs_folder / run / "student").mkdir(parents=True)
    window.session.teachers_changed.emit()
    window.resize(window.minimumSize())
    return window


def shown(root: QWidget) -> Iterator[QWidget]:
    return (widget for widget in root.findChildren(QWidget) if widget.isVisible() and widget.width() > 1)


def cut_off(page: QWidget) -> list[str]:
    """Buttons and fields whose right edge lies outside the page, and buttons narrower than their words."""
    found = []
    for widget in shown(page):
        if isinstance(widget, QAbstractButton | QComboBox | QAbstractSpinBox | QLineEdit):
            right = widget.mapTo(page, QPoint(widget.width(), 0)).x()
            area = widget.parentWidget()
            while area is not None and area is not page and area.objectName() != "qt_scrollarea_viewport":
                area = area.parentWidget()
            edge = (
                area.mapTo(page, QPoint(area.width(), 0)).x() if area is not None and area is not page else page.width()
            )
            words = isinstance(widget, QAbstractButton) and not isinstance(widget.parentWidget(), QLineEdit)
            if right > edge or (words and widget.sizeHint().width() > widget.width() + 1):
                found.append(f"{widget.objectName() or type(widget).__name__}: {right} of {edge}")
    return found


def unnamed(page: QWidget) -> list[str]:
    """What the keyboard reaches and a screen reader could not name."""
    buddies = {caption.buddy() for caption in page.findChildren(QLabel)}
    kinds = (QAbstractButton, QComboBox, QAbstractSpinBox, QLineEdit)
    return [
        widget.objectName() or type(widget).__name__
        for widget in shown(page)
        if isinstance(widget, kinds)
        and widget.focusPolicy() & Qt.FocusPolicy.TabFocus
        and not isinstance(widget.parentWidget(), QAbstractSpinBox | QComboBox)
        and not (
            widget.accessibleName() or (isinstance(widget, QAbstractButton) and widget.text()) or widget in buddies
        )
    ]


def unexplained(page: QWidget) -> list[str]:
    """Numbers to set that have neither a unit nor a tool tip."""
    return [
        widget.objectName()
        for widget in shown(page)
        if isinstance(widget, QSpinBox | QDoubleSpinBox) and not (widget.suffix() or widget.toolTip())
    ]


@pytest.mark.parametrize("key", [entry.key for entry in PAGES])
def test_a_page_fits_the_smallest_window(narrow: MainWindow, key: str, qtbot: QtBot) -> None:
    narrow.show_page(key)
    page = narrow.page(key)
    qtbot.waitUntil(lambda: cut_off(page) == [], timeout=SECOND)
    assert (unnamed(page), unexplained(page)) == ([], [])


def test_the_views_of_training_fit_too(narrow: MainWindow, click: Click, qtbot: QtBot) -> None:
    page = narrow.page("train")
    assert isinstance(page, TrainPage)
    narrow.show_page("train", {"new": True})
    click("train_more_ways")
    qtbot.waitUntil(lambda: cut_off(page) == [], timeout=SECOND)
    assert (unnamed(page), unexplained(page)) == ([], [])
    narrow.show_page("train", {"run": narrow.session.runs("train")[0].id})
    qtbot.waitUntil(lambda: cut_off(page) == [], timeout=SECOND)
    assert page.compare.toolTip()
    assert page.compare.accessibleName() == "Compare runs"
