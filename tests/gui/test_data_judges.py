"""The strip above judged rows: nothing before the person decides, then figures, a warning, and the rows that differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytestqt.qtbot import QtBot

from kdstudio.project import NewPreference, NewPrompt, NewResponse, Project
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.data import DataPage
from kdstudio.ui.widgets.data_filter import read_filter
from kdstudio.ui.widgets.data_judges import JudgeLine
from tests.gui.conftest import Click

SECOND = 10_000


def judged(project: Project) -> None:
    """Thirty scored answers and as many pairs, of one run each, judged by somebody with a space in the name."""
    steps: list[dict[str, Any]] = [
        {"type": "score", "into": "aspects", "aspects": ["clarity", "safety"]},
        {"type": "rank", "method": "pairwise"},
        {"type": "emit", "extras": ["aspects"]},
        {"type": "emit", "kind": "preference"},
    ]
    parameters = {"recipe": {"step": steps}, "teacher": {"name": "small"}, "judge": {"name": "Qwen 1.5B"}}
    run = project.runs.add("elicit", "Judge", parameters)
    project.rows.add_prompts(NewPrompt([{"role": "user", "content": f"Tell of whale {n}"}]) for n in range(30))
    project.rows.add_responses(
        NewResponse(n + 1, f"Whale {n}.", run=run, key=str(n), extras={"aspects": {"clarity": 1 + n % 5, "safety": 5}})
        for n in range(30)
    )
    project.rows.add_preferences(NewPreference(n + 1, ["good", "bad"], [1.0, 0.0], run=run) for n in range(30))


@pytest.fixture
def page(window: MainWindow, qtbot: QtBot) -> DataPage:
    project = window.session.project
    assert project is not None
    judged(project)
    window.show_page("data")
    shown = window.page("data")
    assert isinstance(shown, DataPage)
    qtbot.waitUntil(lambda: shown.table.rows.rowCount() == 30, timeout=SECOND)
    return shown


def lines(page: DataPage) -> list[JudgeLine]:
    return page.judges._lines


def decide(page: DataPage, kind: Any, accepted: list[int], rejected: list[int]) -> None:
    project = page.session.project
    assert project is not None
    project.rows.set_status(kind, accepted, "accepted")
    project.rows.set_status(kind, rejected, "rejected")
    page.session.rows_changed.emit()


def test_the_judge_is_compared_as_soon_as_the_person_decides(
    page: DataPage, qtbot: QtBot, click: Click, tmp_path: Path
) -> None:
    assert not page.judges.isVisible()
    decide(page, "response", [3, 4, 5, 8, 9, 1], [2, 6, 7, 10])
    qtbot.waitUntil(page.judges.isVisible, timeout=SECOND)
    (line,) = lines(page)
    assert line.words.text().startswith(
        "Qwen 1.5B (clarity from 3) agrees with you on 8 of 10 rows, kappa 0.58: moderate (95%: "
    )
    assert line.warning.text() == "10 more rows needed"
    assert line.warning.toolTip() == "Decide on 10 more rows before you rely on it."
    assert page.judges.more.text() == "1 more"
    click("data_judges_more")
    assert [one.words.text().split(" agrees")[0] for one in lines(page)] == [
        *("Qwen 1.5B (clarity from 3)", "Qwen 1.5B (safety from 3)")
    ]
    click("data_judges_more")
    click("data_judge_differing")
    assert page.filter.search.text() == 'differs:"Qwen 1.5B · clarity"'
    qtbot.waitUntil(lambda: list(page.table.rows.ids) == [1, 10], timeout=SECOND)
    page.filter.search.clear()
    qtbot.waitUntil(lambda: page.table.rows.rowCount() == 30, timeout=SECOND)


def test_preferences_have_a_judge_of_their_own(page: DataPage, qtbot: QtBot) -> None:
    decide(page, "preference", list(range(1, 20)), list(range(20, 26)))
    page.show_kind("preference")
    qtbot.waitUntil(page.judges.isVisible, timeout=SECOND)
    (line,) = lines(page)
    assert "(which answer is better) agrees with you on 19 of 25 rows, kappa 0.52: moderate (" in line.words.text()
    assert not line.warning.isVisible()
    page.show_differing(line.key)
    qtbot.waitUntil(lambda: list(page.table.rows.ids) == list(range(20, 26)), timeout=SECOND)
    page.show_kind("prompt")
    assert not page.judges.isVisible()


def test_the_search_knows_the_word() -> None:
    found = read_filter('whale differs:"Qwen 1.5B · clarity" status:accepted')
    assert (found.search, found.differs, found.status, found.fault) == ("whale", "Qwen 1.5B · clarity", "accepted", "")
