"""Broken model files dropped on the window: each is refused in words or becomes a card, and the window stays."""

from __future__ import annotations

import functools
import shutil
import time
from pathlib import Path

import pytest
from PySide6.QtCore import QTimer
from pytestqt.qtbot import QtBot

from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.teachers import TeachersPage
from tests.faults.gguf_mutants import mutants, seeds
from tests.tiny import tiny_model


class Heartbeat:
    """The longest time, in seconds, in which the window did not get round to its timers."""

    def __init__(self) -> None:
        self.longest, self._last = 0.0, time.monotonic()
        self._timer = QTimer()
        self._timer.timeout.connect(self._beat)
        self._timer.start(5)

    def _beat(self) -> None:
        now = time.monotonic()
        self.longest, self._last = max(self.longest, now - self._last), now

    def stop(self) -> float:
        self._timer.stop()
        return self.longest


def answered(page: TeachersPage, known: set[str]) -> bool:
    """Whether the page has said what is wrong with the last file, or shows it as a card."""
    return page.banner.isVisible() or set(page.cards) != known


def drop_all(window: MainWindow, folder: Path, count: int, qtbot: QtBot) -> tuple[int, int, float]:
    """Drop that many, one after the other; returns refused, added, and the longest gap."""
    window.session.go("teachers")
    page = window.findChild(TeachersPage)
    assert isinstance(page, TeachersPage)
    folder.mkdir()
    sound = seeds(folder)
    heart = Heartbeat()
    refused = added = 0
    for number, mutant in enumerate(mutants(sound, count, 17)):
        page.take_files([mutant.write(folder / f"mutant-{number}.gguf")])
        known = set(page.cards)
        qtbot.waitUntil(functools.partial(answered, page, known), timeout=10_000)
        refused += page.banner.isVisible()
        added = len(page.cards)
    longest = heart.stop()
    page.add_file(Path(shutil.copy(tiny_model(), folder / "sound.gguf")))
    qtbot.waitUntil(functools.partial(answered, page, set(page.cards)), timeout=10_000)
    assert len(page.cards) == added + 1
    assert window.isVisible()
    return refused, added, longest


def test_thirty_broken_files_and_a_sound_one(window: MainWindow, tmp_path: Path, qtbot: QtBot) -> None:
    refused, added, longest = drop_all(window, tmp_path / "dropped", 30, qtbot)
    assert refused + added == 30
    assert refused > 10
    assert longest < 2.0


@pytest.mark.slow
def test_a_thousand_broken_files(window: MainWindow, tmp_path: Path, qtbot: QtBot) -> None:
    refused, added, longest = drop_all(window, tmp_path / "dropped", 1000, qtbot)
    print(refused, added, longest)
    assert refused + added == 1000
